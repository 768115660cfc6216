"""Lists the training examples whose labels look wrong to linear models that have not learned from them.

A model that is trained on all examples learns wrong labels, too. One linear model of the vectors of the frozen encoder
and one of words take seconds, judge every example, and make different mistakes.

Shapes: N examples, C classes.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...evaluation.label_errors import FILE, LabelErrors, as_csv, find_label_errors
from .baselines import texts_of, tfidf_outputs
from .examples.cross_validation import folds_of
from .examples.loading import number_texts
from .examples.unlabelled_texts import SelfTrainedFit
from .linear_head import LinearFit

Array = npt.NDArray[Any]

FOLDS = 5
_LEAST_PROBABILITY = 1e-4


def list_label_errors(setup: Any, folder: Path) -> LabelErrors | None:
    """Find the labels that look wrong, and write them into the folder of the model if there are any.

    Returns:
        What was found, or None if the task or the encoder has no such models, or nobody gave the labels.
    """
    fit = setup.linear.labelled if isinstance(setup.linear, SelfTrainedFit) else setup.linear
    if setup.classes is None or not isinstance(fit, LinearFit) or setup.run.data.lacks_labels:
        return None
    chosen = np.arange(len(setup.rows["train"])) if setup.fitted is None else setup.fitted
    rows = setup.rows["train"].select(chosen)
    texts = texts_of(setup.task, rows)
    folds = folds_of(fit.labels, number_texts(rows, setup.task.texts), setup.run.args.seed, FOLDS)
    judges = logits_of_vectors(fit, folds), logits_of_words(setup.task, texts, fit.labels, folds)
    logits = [each for each in judges if each.size]
    found = find_label_errors(logits, fit.labels, setup.task.labels, texts)
    if found.found:
        positions = setup.positions[chosen]
        named = [each.index for each in found.found]
        places = setup.run.data.places_of("train", positions[named].tolist())
        table = as_csv(found.at({index: places[int(positions[index])] for index in named}))
        # A spreadsheet only takes it for UTF-8 with a byte order mark.
        (folder / FILE).write_text(table, encoding="utf-8-sig")
    return found


def facts_of(found: LabelErrors | None) -> dict[str, Any]:
    """Return the numbers for `results.json`, which names no texts."""
    if found is None:
        return {}
    return {"checked": found.examples, "suspicious": len(found.found), "estimated_share": round(found.share, 4)}


def logits_of_vectors(fit: LinearFit, folds: list[Array]) -> Array:
    """Return the logits (N, C) of the heads that were fitted to the vectors of the other folds."""
    # Weights of rare classes would make them more probable than they are.
    fit = copy.copy(fit)
    fit.balanced = False
    logits = np.zeros((len(fit.labels), fit.outputs))
    for held_out in folds:
        rest = np.setdiff1d(np.arange(len(fit.labels)), held_out)
        logits[held_out] = fit.head(rest)(fit.vectors[held_out])
    return logits


def logits_of_words(task: Any, texts: list[str], known: Array, folds: list[Array]) -> Array:
    """Return the same for the words of the texts; empty if there are no words, or a fold lacks all but one class."""
    logits, as_array = np.zeros((len(known), len(task.labels))), np.array(texts, dtype=object)
    try:
        for held_out in folds:
            rest = np.setdiff1d(np.arange(len(known)), held_out)
            found = tfidf_outputs(task, as_array[rest], known[rest], as_array[held_out], balanced=False)
            logits[held_out] = np.log(np.maximum(found + 0.5, _LEAST_PROBABILITY))
    except ValueError:
        return np.zeros(0)
    return logits
