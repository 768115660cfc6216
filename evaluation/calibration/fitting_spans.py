"""Calibrates the scores of spans for labels that the model reads, by one scale and one offset of all logits.

The labels differ from call to call, so that there are no sets of labels, and no scale for each of them.

Shapes: A spans that the model finds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch.nn import functional as F

from ...command_line import UsageError
from ...command_line.progress import Progress
from ...configuration.span_extraction_field import span_extraction_fields
from ...modeling import SequenceEncoderForSpanExtraction
from ...modeling.calibration.calibration import Calibration, calibration_of, weight_digests
from ...modeling.extraction.text_windows import windows_of_words
from ..tasks.example_arguments import ExampleArguments
from ..tasks.span_examples import SpanExamples
from .choice_of_scaling import folds_of
from .reliability import Confidences
from .scaling import minimise

# Less probable spans are not returned with any threshold that is of use.
_LEAST_PROBABILITY = 0.01
# Probabilities in float32 say nothing about larger logits.
_TINY = 1e-7
# Fewer spans cannot tell a scale and an offset from chance.
_LEAST_SPANS = 20


@dataclass(frozen=True)
class FoundSpans:
    """The spans that a model finds in texts, without overlaps.

    Attributes:
        logits: (A,).
        texts: (A,) the text of each.
        correct: (A,) bool, whether the text has a span with these words and this label.
    """

    logits: torch.Tensor
    texts: torch.Tensor
    correct: torch.Tensor


def calibrate_spans(
    model: SequenceEncoderForSpanExtraction, tokenizer: Any, rows: Any, examples: SpanExamples, max_length: int | None
) -> tuple[Calibration, Confidences, Confidences]:
    """Scale the logits of a model in place, so that scores say how many of the spans that it finds are right.

    The scale is positive, and the default threshold moves with the scores, so that the model finds the same spans.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        rows: The texts.
        examples: What has read them.
        max_length: The number of tokens of a window, with the labels.

    Returns:
        The calibration, the confidences before it, and those after it, each with a scaling from other texts.

    Raises:
        UsageError: If the model finds too few spans, or none that is right.
        ValueError: If the labels leave no room for words.
    """
    found = find_spans(model, tokenizer, rows, examples, max_length)
    right, (different, owners) = int(found.correct.sum()), found.texts.unique(return_inverse=True)
    if len(owners) < _LEAST_SPANS or len(different) < 2 or not right:
        raise UsageError(
            f"the model must find at least {_LEAST_SPANS} spans in two or more examples, and some must be right; it "
            f"finds {len(owners)} in {len(different)}, of which {right} are right."
        )
    with Progress("Fitting the calibration"):
        scale, offset = _fit(found.logits, found.correct)
        folds, held_out = folds_of(len(different))[owners], torch.empty_like(found.logits)
        for fold in folds.unique():
            inside = folds == fold
            other_scale, other_offset = _fit(found.logits[~inside], found.correct[~inside])
            held_out[inside] = found.logits[inside] * other_scale + other_offset
    before, after = (Confidences(each.sigmoid(), found.correct) for each in (found.logits, held_out))
    facts: dict[str, Any] = {
        "texts": len(rows),
        "spans": len(found.texts),
        "labels": examples.names,
        "metrics": {"before": before.metrics(), "after": after.metrics()},
        "sets_on_held_out_texts": {},
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }
    if (earlier := calibration_of(model)) is not None:
        facts["earlier_scaling"] = earlier.scaling
    _scale_logits(model.config, scale, offset)
    about = {"method": "affine", "scale": round(scale, 6), "offset": round(offset, 6)}
    return Calibration("extraction", about, weight_digests(model), facts=facts), before, after


def _fit(logits: torch.Tensor, correct: torch.Tensor) -> tuple[float, float]:
    """Return the scale and the offset that minimise the loss (Platt, 1999). A small penalty keeps both near none."""

    def objective(x: torch.Tensor) -> torch.Tensor:
        scaled = logits * x[0].exp() + x[1]
        return F.binary_cross_entropy_with_logits(scaled, correct.double()) + x.square().sum() / len(logits)

    log_scale, offset = minimise(objective, torch.zeros(2, dtype=torch.float64)).tolist()
    return math.exp(log_scale), offset


def _scale_logits(config: Any, scale: float, offset: float) -> None:
    """Apply a scale and an offset after those of a configuration, and move its threshold with the scores."""
    fields = span_extraction_fields(config)
    threshold = torch.tensor(fields.threshold, dtype=torch.float64).logit() * scale + offset
    config.span_extraction = {
        **config.span_extraction,
        "logit_scale": fields.logit_scale * scale,
        "logit_offset": fields.logit_offset * scale + offset,
        # With a threshold of 1, nothing would be found.
        "threshold": min(float(threshold.sigmoid()), 1 - 1e-6),
    }


def find_spans(
    model: SequenceEncoderForSpanExtraction, tokenizer: Any, rows: Any, examples: SpanExamples, max_length: int | None
) -> FoundSpans:
    """Return the spans that a model finds in texts for all labels of the examples. See `calibrate_spans`."""
    names = examples.names
    prepared = model.prepare_extraction(names, tokenizer, threshold=_LEAST_PROBABILITY, max_length=max_length)
    words = [examples.words_of(row) for row in rows]
    windows = windows_of_words(words, prepared.tokenizer, prepared.prompt, prepared.fields)
    allowed = [_numbers(examples, row, names) for row in rows]
    with Progress("Finding spans in the examples", len(words), "text") as progress:
        found = prepared.in_words(windows, allowed, progress)
    scores, texts, correct = [], [], []
    for number, (row, spans) in enumerate(zip(rows, found, strict=True)):
        truth = {(first, last, names.index(label)) for first, last, label in examples.entities_of(row)}
        for first, last, label, score in spans:
            scores.append(score)
            texts.append(number)
            correct.append((first, last, label) in truth)
    probabilities = torch.tensor(scores, dtype=torch.float64)
    return FoundSpans(probabilities.logit(eps=_TINY), torch.tensor(texts), torch.tensor(correct, dtype=torch.bool))


def _numbers(examples: SpanExamples, row: Any, names: Sequence[str]) -> set[int] | None:
    """Return the numbers of the labels that a text was searched for; None for all."""
    searched = examples.searched(row)
    if searched is None:
        return None
    return {names.index(label) for label in (*searched, *(label for *_, label in examples.entities_of(row)))}


def read_spans(rows: Any, columns: ExampleArguments | None, split: str) -> tuple[SpanExamples, Any]:
    """Check labelled texts, and return what has read them, and the texts.

    Raises:
        UsageError: If they cannot be used, or have no spans.
    """
    examples = SpanExamples(columns or ExampleArguments())
    found = examples.read_spans({split: rows})[split]
    if not any(examples.entities_of(row) for row in found):
        raise UsageError(f"--label_column {examples.label}: the {split} examples have no spans.")
    return examples, found
