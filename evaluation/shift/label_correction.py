"""Corrects classifiers for shifted texts without labelled texts, through the bias of each label.

Shapes: N texts, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...command_line import UsageError
from ..calibration.calibrating import labels_of
from ..calibration.scaling import calibrates_logits, scale_outputs
from ..examples import read_examples, task_of
from ..predicting import predict
from ..tasks.columns import label_of
from ..tasks.example_arguments import ExampleArguments
from .label_shift import LabelShift

_ROUNDS = 500
_TINY = 1e-12
# A p-value below this counts as a difference.
LEVEL = 0.05
# A smaller share of wrong answers is not worth counting labels.
_LEAST_WRONG = 0.05


@dataclass(frozen=True)
class Matching:
    """Why `match_label_shares` should be used for a file.

    Attributes:
        shares: (C,) the shares to match.
        of_home: Whether these are the shares of home, rather than those that were counted in the file.
        before: The accuracy of the model; without labels, the most that it can be if the shares are right.
        after: The accuracy with matched shares, if the file has labels.
    """

    shares: list[float]
    of_home: bool
    before: float
    after: float | None = None


def helpful_matching(probabilities: np.ndarray, known: np.ndarray | None, shift: LabelShift) -> Matching | None:
    """Return the matching that helps in a file, if one does.

    With labels, that is the better one of the shares in the file and of those at home, if it makes significantly more
    answers right than wrong (a sign test). Without labels, nobody knows which shares are right: matching those of home
    may do harm. They show how many answers would be wrong if they were right.

    Args:
        probabilities: (N, C) the probabilities in the file.
        known: (N,) the labels of the file, if it has any.
        shift: How the file differs from home.
    """
    from scipy.stats import binomtest

    answers, count = probabilities.argmax(1), len(shift.home)
    if known is None:
        given = np.bincount(answers, minlength=count) / len(answers)
        # At least as many answers are wrong as some labels are given too often.
        wrong = float(np.abs(given - shift.home).sum()) / 2
        worth_saying = shift.p_value < LEVEL and wrong > _LEAST_WRONG and min(shift.home) > 0
        return Matching(shift.home, True, 1 - wrong) if worth_saying else None
    helpful = None
    for of_home, shares in ((True, shift.home), (False, (np.bincount(known, minlength=count) / len(known)).tolist())):
        # `match_label_shares` needs some texts of each label.
        if min(shares) == 0:
            continue
        matched = matched_answers(probabilities, np.array(shares))
        better, worse = (
            ((one == known) & (other != known)).sum() for one, other in ((matched, answers), (answers, matched))
        )
        after = float((matched == known).mean())
        significant = better > worse and binomtest(better, better + worse, alternative="greater").pvalue < LEVEL
        if significant and (helpful is None or helpful.after is None or after > helpful.after):
            helpful = Matching(shares, of_home, float((answers == known).mean()), after)
    return helpful


def matched_answers(probabilities: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the answers (N,) of a model whose labels are matched to shares (C,), from its probabilities (N, C)."""
    return (np.log(probabilities + _TINY) + matching_bias(probabilities, shares)).argmax(1)


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


def has_label_bias(model: Any) -> bool:
    """Return whether a model has a bias for each label, and gives each text one label."""
    return task_of(model) == "classification" and getattr(model.classifier, "bias", None) is not None


def checked_shares(name: str, given: Any, model: Any) -> np.ndarray:
    """Return shares as an array (C,), in the order of the labels.

    Raises:
        UsageError: If they are not shares of the labels, or the model has no such labels.
    """
    labels = labels_of(model)
    if not has_label_bias(model):
        raise UsageError(
            f"model must have a classifier with a bias and one label per text, got a {type(model).__name__} for "
            f"{task_of(model)}."
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
