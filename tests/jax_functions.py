"""Compare the JAX functions of every preset and every head with the models: outputs and gradients.

    python tests/jax_functions.py

It takes some minutes, so `test_jax.py` compares only a few models, in a process that runs the functions of this file.
The first two columns are the largest differences of outputs and of gradients, the latter relative to a parameter's
largest gradient if that is above 1.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import torch

import sequence_encoder
from sequence_encoder import to_jax
from sequence_encoder.tests.exports import batch, configuration, models, randomised
from sequence_encoder.tests.fixtures.texts import TEXTS, tokenizer_of

# Whether what this file imports has imported JAX. The process that runs its functions imports nothing else before.
STARTED_WITHOUT_JAX = not {"jax", "torchax"} & set(sys.modules)
OUTPUTS, GRADIENTS = 1e-5, 1e-4
# The lengths of both texts of each batch in training, up to 8 or up to 16 tokens.
TRAINED = [(4, 9), (8, 3), (16, 5), (7, 7), (10, 4), (5, 3)]


def start_quickly() -> None:
    """Let a process compile small functions in half the time, and draw the same random numbers in each run."""
    # JAX reads these when it is imported.
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    torch.set_num_threads(1)
    torch.manual_seed(0)


def started_without_jax() -> bool:
    """Return whether the package and its models were imported without JAX."""
    return STARTED_WITHOUT_JAX


def tiny(model_class: str, preset: str, **overrides: Any) -> Any:
    """Return a model with random weights."""
    return randomised(getattr(sequence_encoder, model_class)(configuration(preset, **overrides)))


def labelled(model: Any) -> dict[str, torch.Tensor]:
    """Return a batch with padding on both sides, texts that are all padding, and labels for the head of the model."""
    inner = model.encoder if isinstance(model, sequence_encoder.TaskAdapter) else model
    sides = [batch(inner, [11, 5, 1], side) for side in ("right", "left")]
    inputs = {name: torch.cat([side[name] for side in sides]) for name in sides[0]}
    inputs["attention_mask"][2] = 0
    mask = inputs["attention_mask"]
    kind, texts = type(model).__name__.removeprefix("SequenceEncoderFor"), len(mask)
    classes = {"MaskedLM": 97, "PreTraining": 97, "TokenClassification": 5}
    if kind in classes:
        inputs["labels"] = torch.where(mask != 0, torch.randint(classes[kind], mask.shape), -100)
    if kind == "PreTraining":
        inputs["sentence_order_label"] = torch.tensor([0, 1, -100] * 2)
    if kind in ("SequenceClassification", "MultipleChoice", "TaskAdapter"):
        inputs["labels"] = torch.randint(2, (texts,))
    if model.config.problem_type == "multi_label_classification":
        inputs["labels"] = torch.randint(2, (texts, 5)).float()
    if kind == "QuestionAnswering":
        inputs["start_positions"] = first = mask.argmax(dim=1)
        inputs["end_positions"] = (first + mask.sum(dim=1) - 1).clamp(min=0)
    return inputs


def objective(outputs: Any) -> Any:
    """Return the loss of a head, or a number that depends on all outputs of an encoder."""
    if "loss" in outputs:
        return outputs["loss"]
    return sum((outputs[name] ** 3).mean() for name in ("last_hidden_state", "pooler_output") if name in outputs)


def differences(model: Any) -> tuple[float, float]:
    """Return the largest differences of outputs and of gradients. The weights of the model are zero afterwards."""
    import jax

    function, parameters = to_jax(model.train())  # which must not depend on the mode or the weights of the model
    inputs = labelled(model)
    outputs = model.eval()(**inputs)
    objective(outputs).backward()
    weights = dict(model.named_parameters())
    assert list(parameters) == list(weights)
    with torch.no_grad():
        for weight in weights.values():
            weight.zero_()
    model.train()

    @jax.jit
    def compute(parameters: Any, inputs: Any) -> Any:
        def with_outputs(parameters: Any) -> Any:
            outputs = function(parameters, **inputs)
            return objective(outputs), outputs

        return jax.grad(with_outputs, has_aux=True)(parameters)

    gradients, computed = compute(parameters, {name: tensor.numpy() for name, tensor in inputs.items()})
    assert set(computed) == set(outputs)
    apart = [np.abs(np.asarray(computed[name]) - outputs[name].detach().numpy()).max() for name in outputs]
    slopes = []
    for name, weight in weights.items():
        # In torch, an encoder below an adapter has no gradients.
        if weight.grad is not None:
            wanted = weight.grad.numpy()
            slopes.append(np.abs(np.asarray(gradients[name]) - wanted).max() / max(1.0, np.abs(wanted).max()))
    return float(np.max(apart)), float(np.max(slopes))


def compare(model_class: str, preset: str, overrides: dict[str, Any]) -> tuple[float, float]:
    """Return the `differences` of a new model of one layer."""
    return differences(tiny(model_class, preset, num_hidden_layers=1, **overrides))


def train() -> tuple[list[tuple[int, ...]], list[float], float]:
    """Train the last layer of a classifier on batches that are padded to multiples of eight.

    The gradients of all layers would take several times as long to compile.

    Returns:
        The shapes that were compiled, the loss of each step, and that of the last batch in torch with the trained
        parameters.
    """
    import jax

    tokenizer = tokenizer_of()
    sizes = {"num_hidden_layers": 1, "vocab_size": len(tokenizer), "num_labels": 2}
    model = tiny("SequenceEncoderForSequenceClassification", "bert", **sizes)
    function, parameters = to_jax(model)
    compiled = []

    @jax.jit
    def step(trained: Any, parameters: Any, inputs: Any) -> Any:
        compiled.append(inputs["input_ids"].shape)
        loss, slopes = jax.value_and_grad(lambda some: function({**parameters, **some}, **inputs)["loss"])(trained)
        return jax.tree.map(lambda weight, slope: weight - 0.05 * slope, trained, slopes), loss

    trained = {name: weight for name, weight in parameters.items() if name.startswith("classifier.")}
    inputs: Any = {}
    losses = []
    for lengths in TRAINED * 2:
        texts = [
            tokenizer(text, truncation=True, max_length=length) for text, length in zip(TEXTS[:2], lengths, strict=True)
        ]
        inputs = tokenizer.pad(texts, pad_to_multiple_of=8, return_tensors="np")
        inputs = {**inputs, "labels": np.array([0, 1])}
        parameters = {**parameters, **trained}
        trained, loss = step(trained, parameters, inputs)
        losses.append(float(loss))
    model.load_state_dict({name: torch.tensor(np.asarray(array)) for name, array in parameters.items()}, strict=False)
    with torch.no_grad():
        final = model(**{name: torch.tensor(array) for name, array in inputs.items()}).loss
    return compiled, losses, float(final)


def in_bfloat16() -> tuple[dict[str, str], float, int]:
    """Return the dtypes of the outputs of a bfloat16 model, its difference from float32, and how many hidden states."""
    model = tiny("SequenceEncoderModel", "modernbert", num_hidden_layers=1)
    inputs = labelled(model)
    with torch.no_grad():
        expected = model(**inputs).pooler_output
    function, parameters = to_jax(model.bfloat16())
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    outputs = function(parameters, **arrays, output_hidden_states=True)
    states = outputs.pop("hidden_states")
    difference = np.abs(np.asarray(outputs["pooler_output"], dtype=np.float32) - expected.numpy()).max()
    return {name: str(array.dtype) for name, array in outputs.items()}, float(difference), len(states)


def call(input_ids: Any, changed: dict[str, Any] | None = None) -> None:
    """Call the function of a model with inputs and parameters that may be wrong."""
    function, parameters = to_jax(tiny("SequenceEncoderModel", "bert", num_hidden_layers=1))
    function({**parameters, **(changed or {})}, input_ids=input_ids)


def convert(model: Any) -> None:
    """Convert what may be no model of this package."""
    to_jax(model)


def main() -> int:
    """Print a line for each model, and return the number of failures."""
    failed = 0
    torch.manual_seed(0)
    adapter = sequence_encoder.TaskAdapter(tiny("SequenceEncoderModel", "distilbert"), num_classes=2)
    for name, model in (*models(), ("TaskAdapter", adapter)):
        outputs, gradients = differences(model)
        wrong = not (outputs <= OUTPUTS and gradients <= GRADIENTS)
        failed += wrong
        print(f"{outputs:.1e}  {gradients:.1e}  {name}{'  FAILED' if wrong else ''}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
