"""Runs a model on the texts of a file, and keeps the outputs that the measures share.

Shapes: N texts, I inputs (a text may be read in several windows), S tokens of an input, C classes, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..modeling.calibration.calibration import calibration_of
from .outputs import outputs_of


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
