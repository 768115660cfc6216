"""Corrects classifiers for texts that have shifted, without labelled texts, by the bias of each label.

Shapes: N texts, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..command_line import UsageError
from ..tasks.arguments import ExampleArguments
from ..tasks.columns import label_of
from .calibrating import labels_of
from .examples import evaluated_task, read_examples
from .predicting import predict
from .scaling import calibrates_logits, scale_outputs

_ROUNDS = 500
_TINY = 1e-12


def matching_bias(probabilities: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return what to add to the logits (C,), so that each label is the most likely one for its share of the texts.

    Args:
        probabilities: (N, C).
        shares: (C,) the shares of the labels.
    """
    logits = np.log(probabilities + _TINY)
    if len(shares) == 2:
        # Between the margins of the last text with one label and of the first with the other.
        margins = np.sort(logits[:, 0] - logits[:, 1])[::-1]
        last = min(max(round(shares[0] * len(margins)), 1), len(margins) - 1)
        return np.array([-(margins[last - 1] + margins[last]) / 2, 0.0])
    bias = best = np.zeros(len(shares))
    least = np.inf
    for step in np.geomspace(1, 0.005, _ROUNDS):
        found = np.bincount((logits + bias).argmax(1), minlength=len(shares)) / len(logits)
        if (gap := float(np.abs(found - shares).sum())) < least:
            least, best = gap, bias
        bias = bias + step * (shares - found)
    return best


def correct_label_shift(model: Any, before: Any, shares: Any) -> None:
    """Shift the logits of a classifier, so that its scores are those for other shares of the labels.

    That is right if only the shares of the labels have shifted, which `evaluate` tests. Save the model to keep the
    change. A calibration of the model no longer applies.

    Args:
        model: A model for classification with one label per text.
        before: (C,) the shares of the labels at home.
        shares: (C,) the shares of the labels where the model will be used, such as those that `evaluate` estimates.

    Raises:
        ValueError: If the model or the shares are not of that kind.
    """
    there, home = (np.log(checked_shares(*each, model)) for each in (("shares", shares), ("before", before)))
    _shift_logits(model, there - home)


def match_label_shares(
    model: Any, tokenizer: Any, texts: Sequence[Any], shares: Any, max_length: int | None = None
) -> None:
    """Shift the logits of a classifier, so that it gives each label to a given share of texts like these.

    It helps where texts have shifted so that a model prefers some labels, and needs no labelled texts, only their
    shares. A few dozen labelled texts are enough to know these better than a model does. Save the model to keep the
    change. A calibration of the model no longer applies.

    Args:
        model: A model for classification with one label per text.
        tokenizer: Its tokenizer.
        texts: Texts without labels, at least a few hundred, or pairs of texts.
        shares: (C,) the shares of the labels among the texts, in the order of `model.config.id2label`, or a mapping
            from the names of the labels.
        max_length: The number of tokens to truncate texts to; by default the limit of the model.

    Raises:
        ValueError: If the model, the texts or the shares are not of that kind.
    """
    wanted, labels = checked_shares("shares", shares, model), labels_of(model)
    if isinstance(texts, str) or len(texts) < 2:
        got = "a text" if isinstance(texts, str) else len(texts)
        raise UsageError(f"texts must be a list of at least two texts, got {got}.")
    columns = ExampleArguments() if isinstance(texts[0], str) else ExampleArguments(text_pair_column="text_pair")
    # No measure uses the labels, but reading checks that there are two.
    rows = [
        {
            **dict(zip(("text", "text_pair"), [text] if isinstance(text, str) else text, strict=False)),
            "label": labels[index % len(labels)],
        }
        for index, text in enumerate(texts)
    ]
    (examples,) = read_examples("classification", labels, {"texts": rows}, columns)
    found = predict(model, tokenizer, examples.encode(model, tokenizer, max_length), "texts")
    _shift_logits(model, matching_bias(torch.stack(found.logits).double().softmax(-1).numpy(), wanted))


def _shift_logits(model: Any, values: np.ndarray) -> None:
    if calibrates_logits(model):
        # The bias comes before the calibration.
        scale_outputs(model.config, [1.0] * len(values), values.tolist())
        return
    bias = model.classifier.bias
    with torch.no_grad():
        bias += torch.as_tensor(values, dtype=bias.dtype, device=bias.device)


def checked_shares(name: str, given: Any, model: Any) -> np.ndarray:
    """Return shares as an array (C,), in the order of the labels.

    Raises:
        UsageError: If they are not shares of the labels, or the model has no such labels.
    """
    labels = labels_of(model)
    if evaluated_task(model) != "classification" or getattr(model.classifier, "bias", None) is None:
        raise UsageError(
            f"model must have a classifier with a bias and one label per text, got a {type(model).__name__} for "
            f"{evaluated_task(model)}."
        )
    if isinstance(given, Mapping):
        given = {label_of(label, labels): share for label, share in given.items()}
        if set(given) != set(labels):
            raise UsageError(f"{name} must have the labels {', '.join(labels)}, got {', '.join(map(str, given))}.")
        given = [given[label] for label in labels]
    values = np.asarray(given, dtype=float)
    if values.shape != (len(labels),) or not (values > 0).all() or abs(values.sum() - 1) > 1e-3:
        raise UsageError(f"{name} must have {len(labels)} positive numbers with the sum 1, got {given!r}.")
    return values
