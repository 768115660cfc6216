"""Labels the training texts of `sequence-encoder adapt --label_names_file` by the names of their classes.

The texts first get the names in turn, so that everything else is checked before the encoder is loaded. The encoder then
finds their labels, which the scratch folder keeps, and the training goes on as with labels that people gave. What is
measured by such labels says nothing about how often the model is right. That is estimated.

A model for natural language inference can label them instead: the text is the premise, and a sentence with the name of
a class is the hypothesis (Yin et al., 2019, arXiv:1909.00161).

Shapes: N texts, C classes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase

from ....command_line import UsageError
from ....command_line.counts import counted
from ....command_line.progress import Progress
from ....conversion.source import Source
from ....data.corpus_files import find_files
from ....data.text_files import TextFormat, text_lines
from ....evaluation.tasks.columns import is_missing, label_text
from ....evaluation.tasks.example_arguments import ExampleFiles
from ....inference.corpora.arguments import ModelArguments, PredictionArguments
from ....inference.corpora.models import load_classifier
from ....inference.corpora.zero_shot_predictions import EntailmentPredictions, entailment_id
from ....modeling.modeling_sequence_encoder import SequenceEncoderModel
from ....saving.whole_folders import write_atomically
from ..arguments import TaskDataArguments
from ..plan import PLANNED
from ..run import Adaptation
from .self_training import Found, by_vectors, by_wordings, find_classes, temperature_for

Array = npt.NDArray[Any]

_HYPOTHESES = ("This text is about {}.", "The topic is {}.")
_AT_A_TIME = 32  # texts between two steps of the progress
_TINY = 1e-6
_NAME, _DESCRIPTION = "label", "description"
# A sentence about a name is closer to texts than the name alone.
_TEMPLATES = ("{}", "{} text", "A text about {}.", "This text is {}.", "This text is about {}.", "The topic is {}.")
# The splits that share the texts.
_SPLITS = ("train", "validation")


@dataclass(frozen=True)
class ClassNames:
    """The names of classes, and their descriptions, which may be empty."""

    descriptions: dict[str, str]

    @property
    def names(self) -> list[str]:
        """The names in the order of the file."""
        return list(self.descriptions)

    def texts_of(self, name: str) -> list[str]:
        """Return texts that stand for a class."""
        texts, described = [template.format(name) for template in _TEMPLATES], self.descriptions[name]
        # As many as the templates, so that their mean gives a description half of the weight.
        return [*texts, *[f"{name}: {described}", described] * (len(texts) // 2)] if described else texts


def read_class_names(data: TaskDataArguments) -> ClassNames:
    """Read `--label_names_file`: a name on each line, or a table with the columns `label` and `description`.

    Raises:
        UsageError: If the file cannot be read, or has fewer than two names or a name twice.
    """
    named = f"--label_names_file {data.label_names_file}"
    found = find_files(str(data.label_names_file), "label_names_file")
    if found is None:
        raise UsageError(f"{named}: there is no such file.")
    reader, files = found
    if reader == "text":
        rows: Sequence[tuple[Any, Any]] = [(line, None) for line in text_lines(files[0], data.encoding)]
    else:
        table = ExampleFiles(named, reader, files, TextFormat(data.encoding, data.delimiter)).load()
        if _NAME not in table.column_names:
            raise UsageError(
                f"{named} must have a column {_NAME}, and may have a column {_DESCRIPTION}, got the columns "
                f"{', '.join(table.column_names)}."
            )
        described = table[_DESCRIPTION] if _DESCRIPTION in table.column_names else [None] * len(table)
        rows = list(zip(table[_NAME], described, strict=True))
    names = ["" if name is None else label_text(name) for name, _ in rows]
    if "" in names:
        raise UsageError(f"{named} must have a name in every row, but row {names.index('') + 1} has none.")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(f"{named} must name every class once, but it names {twice[0]} {names.count(twice[0])} times.")
    if len(names) < 2:
        raise UsageError(f"{named} must name at least two classes, got {', '.join(names) or 'none'}.")
    descriptions = (str(description or "").strip() for _, description in rows)
    return ClassNames(dict(zip(names, descriptions, strict=True)))


def entailments(name: str, texts: Sequence[str], classes: ClassNames, labels: Sequence[str], args: Any) -> Array:
    """Return the log-odds that texts entail the classes (2, N, C), in two wordings.

    Raises:
        UsageError: If the model `name` cannot be loaded, or is not made for natural language inference.
    """
    place = str(args.device)
    try:
        model, tokenizer, _ = load_classifier(Source(name), place, "auto")
    except (OSError, ValueError) as error:
        raise UsageError(f"--zero_shot_model {name}: {error}") from error
    if entailment_id(model.config) is None:
        raise UsageError(
            f"--zero_shot_model {name} must be a model for natural language inference, with a label entailment, got "
            f"the labels {', '.join(map(str, (model.config.id2label or {}).values()))}."
        )
    named = [f"{label}: {said}" if (said := classes.descriptions[label]) else label for label in labels]
    scores = np.empty((len(_HYPOTHESES), len(texts), len(labels)))
    show = args.process_index == 0 and not args.disable_tqdm
    with Progress("Scoring", len(_HYPOTHESES) * len(texts), "text", show=show) as progress:
        for wording, template in zip(scores, _HYPOTHESES, strict=True):
            options = PredictionArguments(labels=named, hypothesis_template=template, multi_label=True)
            judge = EntailmentPredictions(model, tokenizer, ModelArguments(name, device=place), options)
            for start in range(0, len(texts), _AT_A_TIME):
                part = [*texts[start : start + _AT_A_TIME]]
                wording[start : start + len(part)] = judge.scores([part])
                progress.update(len(part))
    scores = scores.clip(_TINY, 1 - _TINY)
    return np.asarray(np.log(scores) - np.log1p(-scores))


def with_names_in_turn(run: Adaptation, examples: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Give the training texts the names of `--label_names_file` in turn, and check both.

    Raises:
        UsageError: If the names are not valid, the examples already have labels, or there are too few.
    """
    rows, column = examples["train"], run.data.label_column or "label"
    if run.model.tuning not in PLANNED:
        raise UsageError(f"--label_names_file needs --tuning {' or '.join(PLANNED)}, got --tuning {run.model.tuning}.")
    if column in rows.column_names:
        if given := sum(not is_missing(label) for label in rows[column]):
            raise UsageError(
                f"--label_names_file is for training examples without labels, but {given:,} of {len(rows):,} examples "
                f"have a {column}. To train on these alone, leave out --label_names_file; to train on all texts, pass "
                "those without a label as --unlabelled_file; to ignore the labels, remove the column."
            )
        rows = rows.remove_columns(column)
    if len(rows) < 2 * len(names):
        raise UsageError(
            f"--label_names_file {run.data.label_names_file} has {len(names)} names, which need at least "
            f"{2 * len(names)} training texts, got {len(rows)}."
        )
    return {**examples, "train": rows.add_column(column, list(islice(cycle(names), len(rows))))}


def label_by_names(setup: Any, checkpoint: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Replace the labels of the training texts by those that the encoder finds, or has found before an interruption.

    Returns:
        What is known about the labels, for the report.

    Raises:
        UsageError: If the encoder is not made to compare texts.
    """
    run = setup.run
    file = run.scratch / "labels.json"
    if run.args.should_save and not file.exists():
        write_atomically(file, [json.dumps(_found(setup, checkpoint, tokenizer))])
    labels, facts = json.loads(file.read_text(encoding="utf-8"))
    column = setup.task.label
    for split in _SPLITS:
        rows = setup.rows[split]
        own, labels = labels[: len(rows)], labels[len(rows) :]
        named = [setup.labels[label] for label in own]
        setup.rows[split] = rows.remove_columns(column).add_column(column, named)
    if run.args.process_index == 0:
        print(facts["summary"])
    return dict(facts)


def _found(setup: Any, checkpoint: str, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return the labels of the training and validation texts, and what is known about them."""
    run = setup.run
    model = SequenceEncoderModel.from_pretrained(checkpoint, dtype=torch.float32)
    judge = run.data.zero_shot_model
    if model.embedding_recipe is None and judge is None:
        raise UsageError(
            "--label_names_file needs a sentence encoder such as all-MiniLM-L6-v2, whose vectors of names and texts "
            f"can be compared, but {run.model.model} has no modules.json. Pass a --zero_shot_model, train the encoder "
            "with --task embedding first, or label some texts."
        )
    model.to(run.args.device)
    texts = [text for split in _SPLITS for text in setup.rows[split][setup.task.text]]
    classes = setup.class_names
    scores = None if judge is None else entailments(judge, texts, classes, setup.labels, run.args)
    with Progress("Labelling the texts", show=run.args.process_index == 0 and not run.args.disable_tqdm):
        try:
            vectors = model.encode(texts, tokenizer, max_length=run.model.max_length)
            if scores is None:
                names = np.stack([model.encode(classes.texts_of(name), tokenizer).mean(0) for name in setup.labels])
                similarities = by_vectors(vectors, names)
            else:
                similarities = by_wordings(scores)
        except ValueError as error:
            raise UsageError(f"{run.model.model}: {error}") from error
        # All of a text, since its vector may leave out the end.
        ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        found = find_classes(vectors, ids, similarities, run.args.seed)
    return found.labels.tolist(), _facts(classes, setup.labels, found, judge)


def _facts(classes: ClassNames, labels: list[str], found: Found, judge: str | None) -> dict[str, Any]:
    texts, sizes = len(found.labels), np.bincount(found.labels, minlength=len(labels))
    moved = float((found.labels != found.by_names).mean())
    described = " and descriptions" if any(classes.descriptions.values()) else ""
    by = "" if judge is None else f"{judge} and "
    summary = (
        f"No text has a label: {by}the names{described} of {len(labels)} classes labelled {counted(texts, 'text')}, "
        f"and what the texts have in common changed {moved:.0%} of these labels. Estimated accuracy: "
        f"{found.estimate:.0%}, the agreement of two labellings that each know half of the tokens and half "
        "of the vectors. No label confirms it: to know, label some texts, and give them as --test_file."
    )
    if missing := [name for name, size in zip(labels, sizes, strict=True) if not size]:
        summary += f" No text has the label {', '.join(missing)}: describe it in a column description, or remove it."
    return {
        "texts": texts,
        "shares": {name: round(size / texts, 4) for name, size in zip(labels, sizes.tolist(), strict=True)},
        "changed_by_self_training": round(moved, 4),
        "estimated_accuracy": round(found.estimate, 4),
        "summary": summary,
    }


@torch.no_grad()
def temper(trainer: Any, setup: Any, facts: dict[str, Any]) -> None:
    """Scale the logits of a model so that its mean score on held-out texts is the estimated accuracy of the labels.

    Otherwise, a model that learned from wrong labels is as certain as one that learned from right ones.
    """
    logits = trainer.predict(setup.inputs["validation"]).predictions
    temperature = temperature_for(np.asarray(logits, dtype=np.float64), facts["estimated_accuracy"])
    classifier = trainer.accelerator.unwrap_model(trainer.model).classifier
    classifier.weight.div_(temperature)
    classifier.bias.div_(temperature)
