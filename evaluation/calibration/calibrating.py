"""Calibrates a model in place: its scores, its prediction sets and its score of unfamiliar texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ...command_line import UsageError
from ...command_line.extras import require
from ...command_line.progress import Progress
from ...hub.card.calibration_section import summary_of
from ...modeling import SequenceEncoderForSpanExtraction, SequenceEncoderPreTrainedModel
from ...modeling.calibration.calibration import Calibration, calibration_of, weight_digests
from ..examples import task_of
from ..predicting import outputs_of
from ..tasks import HEAD_TASKS, HeadTask
from ..tasks.answers import Answers
from ..tasks.example_arguments import ExampleArguments, with_named_triples
from .arguments import AUTO, COVERAGES, SCALINGS
from .choice_of_scaling import FITS, folds_of
from .fitting import (
    Fitted,
    ToFit,
    check_number,
    fit_classification,
    fit_multi_label,
)
from .fitting_answers import fit_answers
from .fitting_entities import fit_entities
from .fitting_spans import calibrate_spans, read_spans
from .reliability import Confidences, plot_reliability
from .unfamiliarity import (
    Known,
    choose_score,
    default_kind,
    layers_to_compare,
)

# The name of the examples in errors.
SPLIT = "calibration"
# More examples would take longer, without telling more.
_MOST_EXAMPLES = 10_000
# Fewer texts from elsewhere say too little about which score is the best.
_LEAST_AWAY = 10
# Tasks that support only a single temperature, and what they find.
_ONLY_TEMPERATURE = {"ner": "entities", "qa": "answers"}
_FITS: dict[str, Callable[[ToFit], Fitted]] = {
    "classification": fit_classification,
    "multi-label": fit_multi_label,
    "ner": fit_entities,
    "qa": fit_answers,
}


@dataclass(frozen=True)
class CalibrationReport:
    """A calibration, and the answers before and after it on texts that the scaling was not fitted to.

    Attributes:
        calibration: The calibration, which is also `model.calibration`.
        before: The answers of the model as it was.
        after: Its calibrated answers.
    """

    calibration: Calibration
    before: Confidences
    after: Confidences

    def plot(self, file: Path) -> None:
        """Draw a reliability diagram of both as a PNG."""
        plot_reliability({"before": self.before, "after": self.after}, file)

    def __str__(self) -> str:
        """Return the metrics before and after, and what is known about the sets and the unfamiliar texts."""
        return "\n".join(summary_of(self.calibration))


def calibrate(
    model: SequenceEncoderPreTrainedModel,
    tokenizer: Any,
    examples: Any,
    *,
    away: Iterable[str] | None = None,
    coverages: Sequence[float] = COVERAGES,
    scaling: str = AUTO,
    max_length: int | None = None,
    columns: ExampleArguments | None = None,
) -> CalibrationReport:
    """Calibrate a model on examples that it was not trained on.

    The model changes in place: the scaling of its scores becomes a part of the weights of its head, or a step of
    `config.logit_calibration`, and `model.calibration` has the rest. `save_pretrained` saves both.

    Args:
        model: A model for classification with one label or several, for entities, for answers to questions, or for
            spans with any labels. The latter get no sets and no score of unfamiliar texts.
        tokenizer: Its tokenizer.
        examples: A list of dictionaries or a `datasets.Dataset`, with the columns that `sequence-encoder adapt` reads,
            by default `text` and `label`, or `labels` with several labels per text.
        away: Texts from elsewhere, which the score of unfamiliar texts should tell from the examples. Without them, it
            is chosen on held-out classes or, with two classes, a default that needs none.
        coverages: The shares of true labels that prediction sets should contain, the default first.
        scaling: `temperature`; `adaptive`, a temperature that depends on the entropy of each prediction; `vector`, a
            scale and an offset for each label, the only method that can change predictions; or `auto`, which chooses
            the method with the lowest cross-validated loss, and `vector` only if it is clearly better.
        max_length: The number of tokens to truncate texts to; by default the limit of the model.
        columns: The names of the columns.

    Returns:
        The calibration, with what it changed.

    Raises:
        MissingLibraryError: If scikit-learn or datasets is not installed.
        ValueError: If the model cannot be calibrated, or the examples are too few, of one class, or not valid. This is
            found before anything is computed.
    """
    require("calibrate", "sklearn", "datasets", extra="adapt")
    from datasets import Dataset

    if not isinstance(examples, Dataset):
        examples = list(examples) if isinstance(examples, Iterable) else [examples]
        for index, example in enumerate(examples):
            if not isinstance(example, dict):
                raise UsageError(
                    "examples must be a list of dictionaries or a datasets.Dataset, and number "
                    f"{index + 1} is {example!r}."
                )
        names = dict.fromkeys(name for example in examples for name in example)
        cells = {name: with_named_triples([example.get(name) for example in examples]) for name in names}
        examples = Dataset.from_dict(cells)
    if scaling not in SCALINGS:
        raise UsageError(f"scaling must be one of {', '.join(SCALINGS)}, got {scaling!r}.")
    if not len(examples):
        raise UsageError("calibrate needs examples, got none.")
    task_name = task_of(model, "calibrated")
    if isinstance(model, SequenceEncoderForSpanExtraction):
        check_span_options(away is not None, coverages, scaling)
        reader, rows = read_spans(examples, columns, SPLIT)
        model.calibration, before, after = calibrate_spans(model, tokenizer, rows, reader, max_length)
        return CalibrationReport(model.calibration, before, after)
    task = HEAD_TASKS[task_name](columns or ExampleArguments())
    rows = task.read({SPLIT: examples}, labels_of(model))[SPLIT]
    check_examples(task_name, task, rows, coverages)
    others = None if away is None else checked_texts(away)
    task.max_length = cast(Any, model.base_model).longest_text(tokenizer, max_length) or 512
    inputs = encoded_rows(task, rows, task.encode(rows, tokenizer))
    methods = tuple(FITS) if scaling == AUTO else (scaling,)
    return calibrate_encoded(model, tokenizer, task_name, inputs, others, coverages, methods, task.max_length)


def check_span_options(has_away: bool, coverages: Sequence[float], scaling: str) -> None:
    """Check the options for a model that finds spans for any labels.

    Raises:
        UsageError: If one has no effect.
    """
    reads = "for models that find spans for any labels"
    if has_away:
        raise UsageError(f"unfamiliar texts have no effect {reads}; leave out --unfamiliar_file.")
    if not isinstance(coverages, Sequence) or tuple(coverages) != COVERAGES:
        raise UsageError(f"coverages have no effect {reads}, which have no sets of labels; leave them out.")
    if scaling != AUTO:
        raise UsageError(f"scaling must be auto {reads}, got {scaling!r}: they have one scale and one offset.")


def calibrate_encoded(
    model: Any,
    tokenizer: Any,
    task: str,
    rows: list[dict[str, Any]],
    away: list[str] | None = None,
    coverages: Sequence[float] = COVERAGES,
    methods: Sequence[str] = tuple(FITS),
    max_length: int | None = None,
    logits: torch.Tensor | None = None,
) -> CalibrationReport:
    """Calibrate a model on examples as the task encodes them; see `calibrate`.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        task: The name of the task.
        rows: The result of `encoded_rows`.
        away: Texts from elsewhere.
        coverages: The coverages, the default first.
        methods: The methods of scaling to choose from. For entities and answers, it is a temperature.
        max_length: The number of tokens to truncate the texts from elsewhere to.
        logits: (N, C) the logits of models like this one that were not trained on the examples, if this one was. There
            must be at most 10,000.

    Raises:
        UsageError: If the task does not support the method of scaling, or there are too few entities or labels.
    """
    if task in _ONLY_TEMPERATURE and "temperature" not in methods:
        raise UsageError(f"scaling must be temperature or auto for {_ONLY_TEMPERATURE[task]}, got {methods[0]!r}.")
    layer, depth = head_of(model), model.config.num_hidden_layers
    compares = away is not None or (task == "classification" and len(labels_of(model)) > 2)
    layers = layers_to_compare(depth) if compares else [default_kind(depth)[1]]
    rows, folds, examples = _choose(rows)
    outputs = outputs_of(model, tokenizer, rows, layers, "calibration examples")
    if logits is not None:
        outputs = replace(outputs, logits=list(logits))
    labels = labels_of(model)
    with Progress("Fitting the calibration"):
        fitted = _FITS[task](ToFit(outputs, rows, labels, folds, tuple(coverages), methods))
    others = None
    if away is not None:
        encoded = tokenizer(away, truncation=True, max_length=max_length)
        texts = [{name: encoded[name][index] for name in encoded} for index in range(len(away))]
        found = outputs_of(model, tokenizer, texts, layers, "texts from elsewhere")
        others = Known(found.vectors, None if fitted.logits is None else fitted.scaling(found.stacked))
    known = Known(outputs.vectors, fitted.logits, fitted.classes)
    unfamiliarity, chosen = choose_score(known, folds, depth, others)
    facts: dict[str, Any] = {
        "texts": examples,
        "metrics": {"before": fitted.before.metrics(), "after": fitted.after.metrics()},
        "sets_on_held_out_texts": fitted.sets_held_out,
        "choice_of_unfamiliarity": chosen,
        "versions": {name: version(name) for name in ("torch", "transformers", "scikit-learn")},
    }
    if (earlier := calibration_of(model)) is not None:
        facts["earlier_scaling"] = earlier.scaling
    scaled = fitted.scaling.as_json(labels)
    fitted.scaling.apply_to(model, layer)
    model.calibration = Calibration(task, scaled, weight_digests(model), fitted.sets, unfamiliarity, facts)
    return CalibrationReport(model.calibration, fitted.before, fitted.after)


def _choose(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], torch.Tensor, int]:
    """Return at most `_MOST_EXAMPLES` examples, the fold of each of their rows, and their number.

    A question has a row for each window of its context. All of them are in the same fold.
    """
    owners = torch.tensor([row.get("row", index) for index, row in enumerate(rows)])
    order = torch.randperm(int(owners.max()) + 1, generator=torch.Generator().manual_seed(0))
    kept = torch.isin(owners, order[:_MOST_EXAMPLES])
    examples, owners = owners[kept].unique(return_inverse=True)
    chosen = [row for row, each in zip(rows, kept.tolist(), strict=True) if each]
    return chosen, folds_of(len(examples))[owners], len(examples)


def encoded_rows(task: HeadTask, rows: Any, inputs: Any) -> list[dict[str, Any]]:
    """Return the encoded examples, and for questions also their contexts and answers.

    Args:
        task: The task.
        rows: The examples.
        inputs: The examples as the task encodes them.
    """
    if not isinstance(task, Answers):
        return list(inputs)
    contexts, known = list(rows[task.context]), list(rows[task.label])
    return [{**each, "context": contexts[each["row"]], "known": known[each["row"]]} for each in inputs]


def labels_of(model: Any) -> list[str]:
    """Return the names of the labels of a model, in the order of its outputs."""
    names = getattr(model.config, "id2label", None) or {}
    return [str(names[index]) for index in range(len(names))]


def head_of(model: Any) -> nn.Linear:
    """Return the last layer of a model.

    Raises:
        UsageError: If it is not a plain linear layer, as in a model with a peft adapter.
    """
    layer = getattr(model, "classifier", None) or getattr(model, "qa_outputs", None)
    if type(layer) is not nn.Linear:
        raise UsageError(
            f"the last layer of the model must be a plain Linear to be scaled, got a {type(layer).__name__}. "
            "Calibrate before you quantize."
        )
    return layer


def check_examples(task_name: str, task: HeadTask, rows: Any, coverages: Sequence[float], split: str = SPLIT) -> None:
    """Check that a model can be calibrated on examples.

    Args:
        task_name: The name of the task.
        task: The task, which has read the examples.
        rows: The examples.
        coverages: The coverages of prediction sets.
        split: The name of the split, for errors.

    Raises:
        UsageError: If they are too few for a coverage, of one class, or have a text of spaces.
    """
    if not isinstance(coverages, Sequence) or not coverages:
        raise UsageError(f"coverages must be a list of at least one number between 0 and 1, got {coverages!r}.")
    check_number(coverages, len(rows), "calibration texts")
    for column in task.texts:
        for index, text in enumerate(rows[column]):
            if not any(part.strip() for part in (text if isinstance(text, list) else [text])):
                place = task.data.place_of(split, index)
                raise UsageError(f"--text_column {column}: {place} has a blank text.")
    label = getattr(task, "label", "")
    if task_name == "classification" and len(found := {str(value) for value in rows[label]}) < 2:
        raise UsageError(
            f"--label_column {label} must have at least two different labels for a calibration, but has only "
            f"{found.pop()!r}."
        )


def checked_texts(texts: Iterable[str]) -> list[str]:
    """Return the texts from elsewhere.

    Raises:
        UsageError: If there are fewer than 10, or one is not a text or has only spaces.
    """
    texts = list(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise UsageError(f"away must be texts, and number {index + 1} is {text!r}.")
    if len(texts) < _LEAST_AWAY:
        raise UsageError(f"away must have at least {_LEAST_AWAY} texts, got {len(texts)}.")
    return texts
