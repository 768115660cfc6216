"""Measures how many planted wrong labels are found among few or many examples, and how many right ones are named.

A tenth of the labels of each training set, or none, are replaced by random others. The judges are those of `adapt`:
linear models of the vectors of all-MiniLM-L6-v2 and of words, fitted to other folds. Beside the rule of `adapt` for the
vectors alone and for both, the table has two other rules for both: to name every label that the models contradict, and
confident learning (Northcutt et al., 2021), which prunes by the noise rate, as cleanlab does by default.

    python benchmarks/wrong_labels.py
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from labelled_texts import DATA, LabelledTexts
from minilm import MINILM
from peers import print_machine
from transformers import AutoTokenizer

from sequence_encoder.conversion.source import Source
from sequence_encoder.evaluation.label_errors import find_label_errors
from sequence_encoder.training.adaptation.examples.cross_validation import folds_of
from sequence_encoder.training.adaptation.label_check import FOLDS, logits_of_vectors, logits_of_words
from sequence_encoder.training.adaptation.linear_head import LinearFit

SHARE, MOST, SEEDS, COUNTS = 0.1, 2000, 3, (16, 64, None)
KIND = "single_label_classification"
Array = Any
# The examples that a rule names, and the share of wrong labels that it estimates.
Named = tuple[Array, float]


def ours(views: list[Array], known: Array) -> Named:
    """Return what `adapt` names."""
    classes = [str(index) for index in range(views[0].shape[1])]
    found = find_label_errors(views, known, classes, [""] * len(known))
    return np.array([each.index for each in found.found], dtype=int), found.share


def contradicted(views: list[Array], known: Array) -> Named:
    """Return all labels that the models contradict."""
    named = np.flatnonzero(probabilities_of(views).argmax(1) != known)
    return named, len(named) / len(known)


def confident_learning(views: list[Array], known: Array) -> Named:
    """Return what confident learning names, with pruning by the noise rate of each pair of classes."""
    probabilities, classes = probabilities_of(views), range(views[0].shape[1])
    thresholds = np.array([probabilities[known == each, each].mean() for each in classes])
    sure = np.where(probabilities >= thresholds - 1e-6, probabilities, -1)
    counted, joint = sure.max(1) >= 0, np.zeros((len(classes), len(classes)))
    np.add.at(joint, (known[counted], sure.argmax(1)[counted]), 1)
    joint *= (np.bincount(known, minlength=len(classes)) / np.maximum(joint.sum(1), 1))[:, None]
    agreed, named = probabilities.argmax(1) == known, set()
    for given, other in itertools.permutations(classes, 2):
        rows = np.flatnonzero(known == given)
        margins = probabilities[rows, other] - probabilities[rows, given]
        named |= set(rows[np.argsort(-margins)[: round(joint[given, other])]].tolist())
    kept = np.array(sorted(each for each in named if not agreed[each]), dtype=int)
    return kept, float(1 - np.trace(joint) / joint.sum())


def probabilities_of(views: list[Array]) -> Array:
    """Return the mean of the probabilities of the models."""
    return np.mean([torch.from_numpy(each).softmax(-1).numpy() for each in views], axis=0)


RULES: dict[str, Callable[[list[Array], Array], Named]] = {
    "contradicted": contradicted,
    "confident learning": confident_learning,
    "`adapt`, vectors alone": lambda views, known: ours(views[:1], known),
    "`adapt`": ours,
}


def measure(data: LabelledTexts, count: int | None, vectors: Array) -> None:
    """Print a line of the table for each rule."""
    places = {row["text"]: index for index, row in enumerate(data.train)}
    task, found = SimpleNamespace(labels=data.classes, problem_type=KIND), defaultdict(list)
    for seed, share in itertools.product(range(SEEDS), (SHARE, 0.0)):
        rows, generator = data.few(count, seed)[:MOST], np.random.default_rng(seed)
        true = np.array([data.classes.index(row["label"]) for row in rows])
        wrong = np.zeros(len(rows), bool)
        wrong[generator.choice(len(rows), round(share * len(rows)), replace=False)] = True
        others = (true + generator.integers(1, len(data.classes), len(rows))) % len(data.classes)
        known = np.where(wrong, others, true)
        fit = LinearFit(KIND, vectors[[places[row["text"]] for row in rows]], known, len(data.classes))
        folds = folds_of(known, np.arange(len(known)), seed, FOLDS)
        views = [logits_of_vectors(fit, folds), logits_of_words(task, [row["text"] for row in rows], known, folds)]
        for rule, names in RULES.items():
            named, estimate = names(views, known)
            found[rule, share].append((wrong[named].sum(), len(named), wrong.sum(), len(named) / len(known), estimate))
    for rule in RULES:
        planted, none = np.array(found[rule, SHARE]), np.array(found[rule, 0.0])
        hits, named, all_wrong = planted[:, :3].sum(0)
        values = [hits / all_wrong, hits / named if named else None, planted[:, 4].mean(), *none[:, 3:].mean(0)]
        digits = (0, 0, 1, 1, 1)
        shown = [
            "" if value is None else f"{100 * value:.{digit}f}" for value, digit in zip(values, digits, strict=True)
        ]
        print(f"| {data.name} | {count or 'all'} | {rule} | {' | '.join(shown)} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    options = parser.parse_args()
    print_machine()
    heads = ["set", "texts per class", "rule", "recall, %", "precision, %", "estimate, %"]
    heads += ["named without errors, %", "estimate without errors, %"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    tokenizer, model = AutoTokenizer.from_pretrained(MINILM), Source(str(MINILM)).load()
    how = {"pooling": "mean", "normalize_embeddings": False, "max_length": 128, "show_progress_bar": False}
    for name in options.data:
        data = DATA[name]()
        vectors = model.encode([row["text"] for row in data.train], tokenizer, **how)
        for count in COUNTS:
            measure(data, count, vectors)


if __name__ == "__main__":
    main()
