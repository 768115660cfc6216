"""Export every preset and every head, and compare the exported models at several sizes, with padding at any place.

    python tests/exports.py

It takes some minutes, so the test suite exports only a few models. The first column is the largest difference.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

import sequence_encoder
from sequence_encoder import PRESETS, SequenceEncoderConfig
from sequence_encoder.inference.runtimes.comparison import compare_outputs
from sequence_encoder.inference.runtimes.graphs import exporter_of, sample_inputs, trace
from sequence_encoder.inference.runtimes.loading import runtime_options
from sequence_encoder.inference.runtimes.quiet import quiet_exporters
from sequence_encoder.inference.runtimes.requirements import FORMATS

TINY: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    **{f"{name}_token_id": None for name in ("bos", "eos", "cls", "sep", "mask")},
}
# Parts that no preset has.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "alibi": ("vanilla", {"position_bias": "alibi"}),
    "convolution": ("deberta-v3", {"conv_kernel_size": 3}),
    "convolution, norms first": ("modernbert", {"conv_kernel_size": 5}),
    "shared layers": ("bert", {"num_hidden_groups": 1, "embedding_size": 12}),
    "grouped queries": ("eurobert", {"num_key_value_heads": 1}),
}
HEADS = ("MaskedLM", "PreTraining", "SequenceClassification", "TokenClassification", "QuestionAnswering")
PADDING = ("on the right", "on the left", "inside the texts", "everywhere")
NAMES = ("input_ids", "attention_mask", "token_type_ids")


def configuration(preset: str, **overrides: Any) -> SequenceEncoderConfig:
    """Return the configuration of a tiny model."""
    window = {"sliding_window": 3} if "sliding_window" in PRESETS[preset] else {}
    return SequenceEncoderConfig.from_preset(preset, **{**TINY, **window, **overrides})


def models() -> Iterator[tuple[str, PreTrainedModel]]:
    """Yield models with random weights by name."""
    encoders = {**{name: (name, {}) for name in PRESETS}, **VARIANTS}
    for name, (preset, overrides) in encoders.items():
        yield name, randomised(sequence_encoder.SequenceEncoderModel(configuration(preset, **overrides)))
    for head in (*HEADS, "MultipleChoice"):
        model_class = getattr(sequence_encoder, f"SequenceEncoderFor{head}")
        yield head, randomised(model_class(configuration("bert", num_labels=5)))
    adaptive = {"temperature_weight": 0.5, "temperature_bias": 1.0, "log_entropy_range": [-4.0, 0.0]}
    linear = {"scale": [1.0, 2.0, 3.0, 2.0, 1.0], "offset": [0.0, 1.0, -1.0, 0.0, 1.0]}
    for kind in ("single_label_classification", "multi_label_classification"):
        config = configuration("bert", num_labels=5, problem_type=kind, logit_calibration=[adaptive, linear])
        yield f"calibrated {kind}", randomised(sequence_encoder.SequenceEncoderForSequenceClassification(config))


def randomised(model: PreTrainedModel) -> PreTrainedModel:
    """Add noise to all weights, so that none is exactly zero or one, and return the model in evaluation mode."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.empty(parameter.shape).normal_(std=0.2))
    return model.eval()


def batch(model: PreTrainedModel, lengths: list[int], padding: str = "on the right") -> dict[str, torch.Tensor]:
    """Return a batch of random texts, with padding at the given place in addition to that of shorter texts."""
    names = NAMES if model.config.type_vocab_size > 1 else NAMES[:2]
    inputs = sample_inputs(model, [torch.randint(1, 97, (length,)).tolist() for length in lengths], names)
    if padding == "on the left":
        return {name: tensor.flip(-1) for name, tensor in inputs.items()}
    if padding == "inside the texts":
        inputs["attention_mask"][..., 1::3] = 0
    elif padding == "everywhere":
        inputs["attention_mask"].zero_()
    return inputs


@torch.no_grad()
def main() -> int:
    """Print a line for each model and format, and return the number of failures."""
    torch.manual_seed(0)
    failed = 0
    for name, model in models():
        for to in FORMATS:
            with quiet_exporters():
                exported = trace(exporter_of(to), model, batch(model, [7, 4, 3]))
            exported.to("cpu", **runtime_options(to))
            largest = 0.0
            for lengths in ([1], [5], [2, 1], [11, 5, 7, 1], [37] * 3, [4, 0, 2], [0, 3]):
                for padding in PADDING:
                    inputs = batch(model, lengths, padding)
                    try:
                        largest = max(largest, compare_outputs(model(**inputs), exported(**inputs))[0])
                    except ValueError as error:
                        failed += 1
                        print(f"{name} in {to}, lengths {lengths}, padding {padding}: {error}")
            print(f"{largest:.1e}  {name} in {to}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
