"""Compare texts that `sequence-encoder choose` chooses with random ones, as training texts.

    python benchmarks/choosing.py                                  # linear heads, all sets: minutes
    python benchmarks/choosing.py --data movies --adapt --pools 3   # `adapt`: minutes for each column

A pool is 2,000 training texts of a set of labelled texts, with the classes as rare as they are. The columns are the
accuracies on the 1,000 test texts after training on

    random N        N random texts of the pool
    chosen 50       the choice of `choose` without labels
    chosen 25 + 25  25 chosen texts and, once these have labels, 25 more that `choose` chooses with their classifier
    random 50 + chosen 50
    … + all texts   the same, where `adapt --unlabelled_file` also learns from the other texts of the pool if that helps
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from labelled_texts import DATA, LabelledTexts
from minilm import MINILM
from peers import print_machine
from transformers import AutoTokenizer

from sequence_encoder import convert
from sequence_encoder.evaluation.metrics import log_softmax
from sequence_encoder.training.adaptation.examples.cross_validation import folds_of
from sequence_encoder.training.adaptation.examples.unlabelled_texts import (
    SelfTrainedFit,
    clearly_lower,
    held_out_losses,
)
from sequence_encoder.training.adaptation.linear_head import LinearFit, LinearHead
from sequence_encoder.training.labelling.design import choose_by_design

POOL = 2000
WITH_TEXTS = " + all texts"
RANDOM_DRAWS = 3
Array = Any


class Pool:
    """The texts to choose from, and the test texts, with their vectors and token ids."""

    def __init__(self, data: LabelledTexts, train: Array, test: Array, ids: list[list[int]], seed: int) -> None:
        self.data, self.rows = data, np.random.default_rng(seed).permutation(len(data.train))[:POOL]
        self.vectors, self.test, self.ids = train[self.rows], test, [ids[row] for row in self.rows]
        self.labels = np.array([data.classes.index(data.train[row]["label"]) for row in self.rows])
        self.known = np.array([data.classes.index(row["label"]) for row in data.test])

    def fit(self, chosen: Array) -> LinearFit:
        """Fit linear heads to texts, as `adapt` does first."""
        kind, classes = "single_label_classification", len(self.data.classes)
        return LinearFit(kind, self.vectors[chosen], self.labels[chosen], classes)

    def head(self, chosen: Array, with_texts: bool) -> LinearHead:
        """Return the head that `adapt` would start from."""
        fit = self.fit(chosen)
        if with_texts:
            rest = np.setdiff1d(np.arange(len(self.rows)), chosen)
            more = SelfTrainedFit(fit, self.vectors[rest], [self.ids[row] for row in (*chosen, *rest)])
            if clearly_lower(*held_out_losses(folds_of(fit.labels, np.arange(len(chosen)), 0), more, fit)[1]):
                return more.head()
        return fit.head()

    def linear(self, chosen: Array, with_texts: bool) -> float:
        """Return the accuracy of the linear head."""
        return float((self.head(chosen, with_texts)(self.test).argmax(1) == self.known).mean())

    def adapt(self, chosen: Array, with_texts: bool) -> float:
        """Return the accuracy of `adapt` with its defaults."""
        with tempfile.TemporaryDirectory() as folder:
            test = Path(folder, "test.jsonl")
            test.write_text("".join(json.dumps(row) + "\n" for row in self.data.test))
            train = Path(folder, "train.jsonl")
            rows = [self.data.train[row] for row in self.rows[chosen]]
            train.write_text("".join(json.dumps(row) + "\n" for row in rows))
            command = [sys.executable, "-m", "sequence_encoder", "adapt", "--task", "classification"]
            command += ["--model", str(MINILM), "--max_length", "128", "--output_dir", f"{folder}/out"]
            command += ["--train_file", str(train), "--test_file", str(test)]
            if with_texts:
                others = Path(folder, "others.jsonl")
                others.write_text(
                    "".join(json.dumps({"text": self.data.train[row]["text"]}) + "\n" for row in self.rows)
                )
                command += ["--unlabelled_file", str(others)]
            subprocess.run(command, check=True, capture_output=True)
            predictions = Path(folder, "out", "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        answers = np.array([self.data.classes.index(json.loads(line)["prediction"]) for line in predictions])
        return float((answers == self.known).mean())

    def choose(self, count: int, labelled: Array = ()) -> Array:
        """Choose texts as the command does, and return them after those that have a label."""
        labelled = np.array(labelled, int)
        rest = np.setdiff1d(np.arange(len(self.rows)), labelled)
        uncertain = None
        if len(labelled):
            scores = np.sort(np.exp(log_softmax(self.fit(labelled).head()(self.vectors[rest]))), axis=1)
            uncertain = 1 - (scores[:, -1] - scores[:, -2])
        found, _ = choose_by_design(self.vectors[rest].copy(), self.vectors[labelled].copy(), count, uncertain)
        return np.concatenate([labelled, rest[found]])

    def columns(self, seed: int) -> dict[str, list[Array]]:
        """Return the training texts of each column."""
        draws = [np.random.default_rng([seed, draw]).permutation(len(self.rows)) for draw in range(RANDOM_DRAWS)]
        columns = {
            "random 50": [draw[:50] for draw in draws],
            "random 100": [draw[:100] for draw in draws],
            "chosen 50": [self.choose(50)],
            "chosen 25 + 25": [self.choose(25, self.choose(25))],
            "random 50 + chosen 50": [self.choose(50, draw[:50]) for draw in draws],
        }
        return columns | {name + WITH_TEXTS: draws for name, draws in columns.items()}


def main() -> None:
    """Print a table of accuracies in %, with standard errors over pools."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=DATA, default=[*DATA])
    parser.add_argument("--pools", type=int, default=5)
    parser.add_argument("--adapt", action="store_true", help="train with adapt, with one random draw for each pool")
    options = parser.parse_args()
    print_machine()
    model, tokenizer = convert(MINILM).eval(), AutoTokenizer.from_pretrained(MINILM)
    encode: Callable[[Any], Array] = lambda rows: model.encode([row["text"] for row in rows], tokenizer)  # noqa: E731
    means: dict[str, list[float]] = defaultdict(list)
    for name in options.data:
        data = DATA[name]()
        train, test = encode(data.train), encode(data.test)
        words = [row["text"] for row in data.train]
        ids = tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"]
        found: dict[str, list[float]] = defaultdict(list)
        for seed in range(options.pools):
            pool = Pool(data, train, test, ids, seed)
            score = pool.adapt if options.adapt else pool.linear
            for column, draws in pool.columns(seed).items():
                used = draws[:1] if options.adapt else draws
                found[column].append(np.mean([score(draw, column.endswith(WITH_TEXTS)) for draw in used]))
        if not means:
            print(f"| {'adapt' if options.adapt else 'linear'} | {' | '.join(found)} |\n|{'---|' * (len(found) + 1)}")
        cells = {
            column: (np.mean(each) * 100, np.std(each) * 100 / max(len(each) - 1, 1) ** 0.5)
            for column, each in found.items()
        }
        print(f"| {name} | {' | '.join(f'{mean:.1f} ± {error:.1f}' for mean, error in cells.values())} |", flush=True)
        for column, (mean, _) in cells.items():
            means[column].append(mean)
    print(f"| mean | {' | '.join(f'{np.mean(each):.1f}' for each in means.values())} |")


if __name__ == "__main__":
    main()
