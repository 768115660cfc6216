"""Learns from the texts of `sequence-encoder adapt --unlabelled_file` what a few labelled examples do not show.

The labelled examples label the other texts by expectation maximisation; see `self_training`. The head is then fitted to
all of them, unless it is worse on labelled examples that it has not seen. No metric is about labels that nobody gave.

Shapes: N labelled examples, M unlabelled texts, C classes, D channels of vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import set_seed

from ....command_line import UsageError
from ....command_line.counts import counted
from ....command_line.progress import Progress
from ....evaluation.tasks.columns import check_columns, check_texts
from ....evaluation.tasks.task import TruncationCounts
from ..baselines import texts_of
from ..linear_head import MOST_EXAMPLES, LinearFit, LinearHead, frozen_vectors
from ..plan import PLANNED
from .cross_validation import folds_of, tempered_losses
from .loading import number_texts
from .self_training import spread_labels

Array = npt.NDArray[Any]

# The labels that were found contain what the tokens of texts say, so that a weak penalty does not overfit.
_STRENGTH = 10.0


def check_unlabelled(setup: Any, rows: Any) -> Any:
    """Check the unlabelled texts, and return those that are neither labelled nor twice there.

    Raises:
        UsageError: If the texts or other arguments are not valid.
    """
    run, task = setup.run, setup.task
    named = f"--unlabelled_file {run.data.unlabelled_file}"
    if run.model.tuning not in PLANNED:
        raise UsageError(f"--unlabelled_file needs --tuning {' or '.join(PLANNED)}, got --tuning {run.model.tuning}.")
    if setup.class_names is not None and set(names := setup.class_names.names) != set(task.labels):
        raise UsageError(
            f"--label_names_file {run.data.label_names_file} must name the labels of the training examples, "
            f"{', '.join(task.labels)}, got {', '.join(names)}."
        )
    examples = {"unlabelled": rows}
    for argument, column in zip(("text_column", "text_pair_column"), task.texts, strict=False):
        check_columns(examples, {argument: column})
        check_texts(run.data, examples, argument, column)
    rows = rows.select_columns(list(task.texts))
    seen, kept = set(texts_of(task, setup.rows["train"])), []
    for index, text in enumerate(texts_of(task, rows)):
        if text not in seen:
            seen.add(text)
            kept.append(index)
    if not kept:
        raise UsageError(f"{named} has no other texts than the training examples.")
    if len(kept) > MOST_EXAMPLES:
        kept = sorted(np.random.default_rng(run.args.seed).choice(kept, MOST_EXAMPLES, replace=False).tolist())
    return rows.select(kept)


def learn_from_unlabelled(setup: Any) -> dict[str, Any]:
    """Let the head of a setup start from a fit to the unlabelled texts, too, if there are any and they help.

    They help if the loss on held-out labelled examples is lower by more than its standard error.

    Returns:
        What is known about them, for the report; empty if there are none.
    """
    rows, fit, args = setup.unlabelled, setup.linear, setup.run.args
    if rows is None:
        return {}
    labelled = setup.rows["train"] if setup.fitted is None else setup.rows["train"].select(setup.fitted)
    folds = setup.folds or folds_of(fit.labels, number_texts(labelled, setup.task.texts), args.seed)
    names = None
    if setup.class_names is not None:
        described = [setup.class_names.texts_of(name) for name in setup.labels]
        vectors = _vectors_of(setup, [text for texts in described for text in texts])
        names = np.stack(
            [part.mean(0) for part in np.split(vectors, np.cumsum([len(each) for each in described])[:-1])]
        )
    texts = [*texts_of(setup.task, labelled), *texts_of(setup.task, rows)]
    # All of a text, since its vector may leave out the end.
    ids = setup.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    with_texts = SelfTrainedFit(fit, _vectors_of(setup, *(rows[column] for column in setup.task.texts)), ids, names)
    with Progress("Labelling the texts", show=args.process_index == 0 and not args.disable_tqdm):
        known, each = held_out_losses(folds, with_texts, fit)
    used, losses = clearly_lower(*each), [float(found.mean()) for found in each]
    if used:
        setup.linear = with_texts
    summary = (
        f"Loss of a linear head on {counted(len(known), 'held-out example')}: {losses[0]:.3f} with the "
        f"{counted(len(rows), 'unlabelled text')}, {losses[1]:.3f} without; they are {'' if used else 'not '}used."
    )
    if args.process_index == 0:
        print(summary)
    return {
        "texts": len(rows),
        "used": used,
        "loss_with_them": round(losses[0], 4),
        "loss_without_them": round(losses[1], 4),
        "summary": summary,
    }


def held_out_losses(folds: Sequence[Array], *fits: Any) -> tuple[Array, list[Array]]:
    """Compare fits to the same labelled examples by examples that their heads have not learned from.

    Returns:
        The labels of the held-out examples (N,), and the losses (N,) of each fit.
    """
    labels = fits[0].labels
    outputs: list[list[Array]] = [[] for _ in fits]
    for held_out in folds:
        rest = np.setdiff1d(np.arange(len(labels)), held_out)
        for fit, found in zip(fits, outputs, strict=True):
            head = fit.head(rest)
            found.append(head(fit.vectors[held_out]) + head.shift)
    known = labels[np.concatenate(folds)]
    return known, [
        tempered_losses(fit.kind, np.concatenate(found), known) for fit, found in zip(fits, outputs, strict=True)
    ]


def clearly_lower(losses: Array, others: Array) -> bool:
    """Return whether losses (N,) are lower than others, on average, by more than the standard error.

    The shift of a head hides wrong shares of the classes, so that a small difference says nothing.
    """
    gained = others - losses
    return bool(gained.mean() > gained.std() / np.sqrt(len(gained)))


class SelfTrainedFit:
    """Fits linear heads to labelled examples and to texts that these have labelled.

    Args:
        labelled: The fit to the labelled examples alone.
        others: (M, D) the vectors of the unlabelled texts.
        ids: The token ids of all texts, the labelled ones first.
        names: (C, D) the vectors of the names of the classes, if they are known.

    Attributes:
        vectors: (N, D) those of the labelled examples.
        labels: (N,) their classes.
        kind: See `LinearFit`.
    """

    def __init__(self, labelled: LinearFit, others: Array, ids: Sequence[Any], names: Array | None = None) -> None:
        self.labelled, self.others, self.ids, self.names = labelled, others, ids, names
        self.kind, self.vectors, self.labels = labelled.kind, labelled.vectors, labelled.labels
        # The folds are asked for several times.
        self._fits: dict[bytes, LinearFit] = {}

    def head(self, rows: Sequence[int] | Array | None = None, to_train: bool = False) -> LinearHead:
        """Fit a head to some of the labelled examples, by default all, and to all other texts; see `LinearFit`."""
        fit = self.labelled
        rows = np.arange(len(fit.labels)) if rows is None else np.asarray(rows)
        if (key := rows.tobytes()) not in self._fits:
            vectors, known = np.concatenate([self.vectors[rows], self.others]), fit.labels[rows]
            ids = [*(self.ids[row] for row in rows.tolist()), *self.ids[len(fit.labels) :]]
            labels = spread_labels(vectors, ids, known, fit.head(rows)(vectors), self.names)
            self._fits[key] = LinearFit(fit.kind, vectors, labels, fit.outputs, fit.balanced, _STRENGTH)
        found = self._fits[key]
        head = found.head(to_train=to_train)
        # With weights, classes already count as if they were equally frequent.
        shift = (
            0.0 if fit.balanced else _log_shares(fit.labels[rows], fit.outputs) - _log_shares(found.labels, fit.outputs)
        )
        return LinearHead(head.weight, head.bias, shift)


def _log_shares(labels: Array, classes: int) -> Array:
    """Return the logarithms of the shares of classes (C,), with one more example of each."""
    return np.asarray(np.log((np.bincount(labels, minlength=classes) + 1) / (len(labels) + classes)))


def _vectors_of(setup: Any, *columns: Sequence[str]) -> Array:
    """Return the vectors (M, D) of texts, or of pairs of texts, before the last layer."""
    from datasets import Dataset

    task = setup.task
    rows = dict(zip(task.texts, map(list, columns), strict=False))
    # Their truncation is not reported, and the label is never read.
    task.cut = TruncationCounts()
    label = setup.rows["train"][task.label][0]
    inputs = task.encode(Dataset.from_dict({**rows, task.label: [label] * len(columns[0])}), setup.tokenizer)
    set_seed(setup.run.args.seed)  # as for the labelled examples
    return frozen_vectors(setup.with_head(), inputs, setup.collator, setup.run.args)[0]
