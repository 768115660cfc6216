"""Runs a model on encoded examples, and keeps the outputs that calibration and the measures share.

Shapes: N texts, I inputs (a text may be read in several windows), S tokens of an input, C classes, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..command_line.progress import Progress
from ..data.batching import longest_first
from ..data.padded_inputs import padded_inputs
from ..modeling.calibration.calibration import calibration_of
from ..modeling.calibration.layer_vectors import LayerVectors
from ..modeling.text_encoding.evaluation_mode import evaluation_mode

_MAX_TOKENS = 4096


@dataclass(frozen=True)
class Outputs:
    """What a model computes for inputs.

    Attributes:
        logits: For each input, (C,) or (S, C); (S, 2) for the start and the end of an answer.
        vectors: (I, D) the mean of the tokens after each layer.
    """

    logits: list[torch.Tensor]
    vectors: dict[int, torch.Tensor]

    @property
    def stacked(self) -> torch.Tensor:
        """The logits (I, C) of a model with one prediction per text."""
        return torch.stack(self.logits)


@torch.no_grad()
def outputs_of(
    model: Any, tokenizer: Any, inputs: Sequence[dict[str, Any]], layers: Iterable[int], what: str
) -> Outputs:
    """Run a model on inputs, without dropout.

    Args:
        model: The model.
        tokenizer: Its tokenizer, which pads.
        inputs: The `input_ids` and other inputs of each text.
        layers: The layers to return vectors of.
        what: What the inputs are, for the progress bar and errors.

    Raises:
        ValueError: If logits are NaN or infinite.
    """
    layers = sorted(set(layers))
    lengths = [len(each["input_ids"]) for each in inputs]
    names = [name for name in tokenizer.model_input_names if name != "attention_mask" and name in inputs[0]]
    logits: list[Any] = [None] * len(inputs)
    vectors = {layer: torch.zeros(len(inputs), model.config.hidden_size) for layer in layers}
    progress = Progress(f"Running on {what}", len(inputs), "text")
    with progress, evaluation_mode(model):
        for batch in longest_first(lengths, _MAX_TOKENS, progress):
            padded = padded_inputs(
                [{name: inputs[index][name] for name in names} for index in batch], tokenizer.pad_token_id
            )
            found = LayerVectors(layers)
            outputs = model(
                **{name: each.to(model.device) for name, each in padded.items()},
                layer_vectors=found,
                return_dict=True,
            )
            for row, index in enumerate(batch):
                logits[index] = _logits_of(outputs, row, lengths[index])
                if not logits[index].isfinite().all():
                    raise ValueError(
                        f"The logits of the model are NaN or infinite for number {index + 1} of the {what}; "
                        "its weights are probably damaged."
                    )
            for layer in layers:
                vectors[layer][batch] = found[layer].float().cpu()
    return Outputs(logits, vectors)


def _logits_of(outputs: Any, row: int, length: int) -> torch.Tensor:
    if "start_logits" in outputs:
        both = torch.stack([outputs.start_logits[row], outputs.end_logits[row]], dim=-1)
        return both[:length].float().cpu()
    logits = outputs.logits[row].float().cpu()
    return logits[:length] if logits.dim() > 1 else logits


@dataclass(frozen=True)
class Predictions:
    """What a model says about texts.

    Attributes:
        logits: The logits of each input, as in `Outputs`.
        vectors: (N, D) the mean of the tokens after the layer in the middle. It says more about what a text is about
            than the last layer, which keeps what the head needs.
        p_values: (N,) how familiar the texts are, by the calibration of the model, if it has one.
    """

    logits: list[torch.Tensor]
    vectors: np.ndarray
    p_values: np.ndarray | None


def predict(model: Any, tokenizer: PreTrainedTokenizerBase, inputs: Any, what: str) -> Predictions:
    """Run a model on the inputs of texts.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        inputs: A `datasets.Dataset` of inputs. If it has a column `row`, that is the number of the text of each input.
        what: What the inputs are, for the progress bar and errors.

    Raises:
        ValueError: If logits are NaN or infinite.
    """
    calibration = calibration_of(model)
    known = None if calibration is None else calibration.unfamiliarity
    middle = (model.config.num_hidden_layers + 1) // 2
    layers = [middle] if known is None or known.layer is None else [middle, known.layer]
    outputs = outputs_of(model, tokenizer, list(inputs), layers, what)
    vectors, p_values = outputs.vectors[middle].numpy(), None
    # The energy is only defined for one prediction per text.
    if known is not None and (known.layer is not None or outputs.logits[0].dim() == 1):
        scores = known.score(*((None, outputs.stacked) if known.layer is None else (outputs.vectors[known.layer],)))
        p_values = known.p_values(scores).numpy()
    if "row" not in inputs.column_names:
        return Predictions(outputs.logits, vectors, p_values)
    # A text in several windows has the mean of their vectors, and is as familiar as the least familiar one.
    rows = np.asarray(inputs["row"])
    texts = int(rows.max()) + 1
    sums, least = np.zeros((texts, vectors.shape[1]), np.float32), np.ones(texts)
    np.add.at(sums, rows, vectors)
    if p_values is not None:
        np.minimum.at(least, rows, p_values)
    means = sums / np.bincount(rows, minlength=texts)[:, None]
    return Predictions(outputs.logits, means, None if p_values is None else least)
