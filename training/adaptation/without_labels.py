"""Labels the training texts of `sequence-encoder adapt --label_names_file` by the names of their classes.

The texts first get the names in turn, so that everything else is checked before the encoder is loaded. The encoder then
finds their labels, which the scratch folder keeps, and the training goes on as with labels that people gave. What is
measured by such labels says nothing about how often the model is right. That is estimated.
"""

from __future__ import annotations

import json
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ...command_line import UsageError
from ...command_line.counts import counted
from ...command_line.progress import Progress
from ...modeling.modeling_sequence_encoder import SequenceEncoderModel
from ...saving.whole_folders import write_atomically
from ...tasks.columns import is_missing
from .class_names import ClassNames, read_class_names
from .plan import PLANNED
from .run import Adaptation
from .scratch import labels_file
from .self_training import Found, by_vectors, by_wordings, find_classes, temperature_for
from .zero_shot import entailments

# The splits that share the texts.
_SPLITS = ("train", "validation")


def with_names_in_turn(run: Adaptation, examples: dict[str, Any]) -> dict[str, Any]:
    """Give the training texts the names of `--label_names_file` in turn, and check both.

    Raises:
        UsageError: If the names are not valid, the examples already have labels, or there are too few.
    """
    names, rows, column = read_class_names(run.data).names, examples["train"], run.data.label_column or "label"
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


def label_by_names(recipe: Any, checkpoint: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Replace the labels of the training texts by those that the encoder finds, or has found before an interruption.

    Args:
        recipe: The recipe, which has read the examples.
        checkpoint: The checkpoint of the encoder.
        tokenizer: Its tokenizer.

    Returns:
        What is known about the labels, for the report.

    Raises:
        UsageError: If the encoder is not made to compare texts.
    """
    run = recipe.run
    file = labels_file(run)
    if run.args.should_save and not file.exists():
        write_atomically(file, [json.dumps(_found(recipe, checkpoint, tokenizer))])
    labels, facts = json.loads(file.read_text(encoding="utf-8"))
    column = recipe.task.label
    for split in _SPLITS:
        rows = recipe.rows[split]
        own, labels = labels[: len(rows)], labels[len(rows) :]
        named = [recipe.labels[label] for label in own]
        recipe.rows[split] = rows.remove_columns(column).add_column(column, named)
    if run.args.process_index == 0:
        print(facts["summary"])
    return dict(facts)


def _found(recipe: Any, checkpoint: str, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return the labels of the training and validation texts, and what is known about them."""
    run = recipe.run
    model = SequenceEncoderModel.from_pretrained(checkpoint, dtype=torch.float32)
    judge = run.data.zero_shot_model
    if model.embedding_recipe is None and judge is None:
        raise UsageError(
            "--label_names_file needs a sentence encoder such as all-MiniLM-L6-v2, whose vectors of names and texts "
            f"can be compared, but {run.model.model} has no modules.json. Pass a --zero_shot_model, train the encoder "
            "with --task embedding first, or label some texts."
        )
    model.to(run.args.device)
    texts = [text for split in _SPLITS for text in recipe.rows[split][recipe.task.text]]
    classes = read_class_names(run.data)
    scores = None if judge is None else entailments(judge, texts, classes, recipe.labels, run.args)
    with Progress("Labelling the texts", show=run.args.process_index == 0 and not run.args.disable_tqdm):
        try:
            vectors = model.encode(texts, tokenizer, max_length=run.model.max_length)
            if scores is None:
                names = np.stack([model.encode(classes.texts_of(name), tokenizer).mean(0) for name in recipe.labels])
                similarities = by_vectors(vectors, names)
            else:
                similarities = by_wordings(scores)
        except ValueError as error:
            raise UsageError(f"{run.model.model}: {error}") from error
        # All of a text, since its vector may leave out the end.
        ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        found = find_classes(vectors, ids, similarities, run.args.seed)
    return found.labels.tolist(), _facts(classes, recipe.labels, found, judge)


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
def temper(trainer: Any, recipe: Any, facts: dict[str, Any]) -> None:
    """Scale the logits of a model so that its mean score on held-out texts is the estimated accuracy of the labels.

    Otherwise, a model that learned from wrong labels is as certain as one that learned from right ones.
    """
    logits = trainer.predict(recipe.inputs["validation"]).predictions
    temperature = temperature_for(np.asarray(logits, dtype=np.float64), facts["estimated_accuracy"])
    classifier = trainer.accelerator.unwrap_model(trainer.model).classifier
    classifier.weight.div_(temperature)
    classifier.bias.div_(temperature)
