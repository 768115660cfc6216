"""Pretrain encoders for the same time, and score each on downstream tasks: `pretraining.py downstream`.

A new encoder of `pretrain` has the learning rate that the command plans. Every other arm trains at its best of three by
held-out loss, or by frozen scores for all-MiniLM-L6-v2, whose head for masked tokens starts at random. The losses and
the scores of all runs are lines of one file, and a run that has its lines there is not repeated.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from codecarbon import OfflineEmissionsTracker
from downstream_scores import WAYS, Encoder
from downstream_tasks import FINAL, texts_and_tasks
from minilm import MINILM
from pretraining_arms import (
    Clock,
    Held,
    bert_trainer,
    continued_trainer,
    modernbert_trainer,
    our_trainer,
    step_times,
    train_for,
)
from transformers import AutoModel, AutoTokenizer, Trainer

SEEDS = 3
BERT, MODERNBERT, OURS, CONTINUED = "BERT, run_mlm.py", "ModernBERT, modern recipe", "pretrain", "pretrain MiniLM"
UNTRAINED = "all-MiniLM-L6-v2"
Line = dict[str, Any]


def ours(build: Callable[..., Trainer], *options: str) -> Callable[[Held, float | None, int], Trainer]:
    """Return what builds the `Trainer` of `sequence-encoder pretrain` with these options."""

    def make(held: Held, rate: float | None, steps: int) -> Trainer:
        return build(held, [*([] if rate is None else ["--learning_rate", str(rate)]), *options], steps)

    return make


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        make: Builds the `Trainer` from the texts, a learning rate and the number of steps.
        rates: The learning rates to choose from; None is the one that `pretrain` plans.
        by_score: Whether frozen scores, rather than the held-out loss, choose the rate.
    """

    make: Callable[[Held, Any, int], Trainer]
    rates: Sequence[float | None] = (None,)
    by_score: bool = False


ARMS = {
    OURS: Arm(ours(our_trainer)),
    MODERNBERT: Arm(modernbert_trainer, (2e-3, 4e-3, 1e-3)),
    BERT: Arm(bert_trainer, (2e-3, 1e-3, 4e-3)),
    CONTINUED: Arm(ours(continued_trainer), (5e-4, 1e-4, 2e-3), by_score=True),
}
PEERS = tuple(ARMS)
# Differences from ours.
VARIANTS = {
    "15 % of tokens masked": ["--mlm_probability", "0.15"],
    "30 to 15 % of tokens masked": ["--mlm_schedule", "linear"],
    "no sentence order": ["--sop_weight", "0"],
    "no bags of words": ["--bow_weight", "0"],
    "whole words masked": ["--whole_word_mask", "True"],
    "size tiny": ["--size", "tiny"],
    "size small": ["--size", "small"],
}
ARMS |= {f"{OURS}, {name}": Arm(ours(our_trainer, *options)) for name, options in VARIANTS.items()}


class Runs:
    """The runs of all arms, and the file with their losses and scores.

    Args:
        scratch: The folder for the texts, the tasks, the models and the file.
        final: Whether to score the task that is held out, too.
    """

    def __init__(self, scratch: Path, final: bool) -> None:
        self.scratch, self.file = scratch, scratch / "downstream.jsonl"
        files, tasks = texts_and_tasks(scratch)
        self.held = Held(scratch, files)
        self.tasks = [task for task in tasks if final or task.name != FINAL]
        # The tasks that count in the score of a run and in the choice of a rate.
        self.counted = {task.name: task for task in tasks if task.name != FINAL}

    def lines(self, **wanted: Any) -> list[Line]:
        """Return the lines of the file that have these values."""
        found = [json.loads(line) for line in self.file.open()] if self.file.exists() else []
        return [line for line in found if all(line.get(name) == value for name, value in wanted.items())]

    def add(self, line: Line) -> None:
        """Append a line to the file."""
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def folder(self, run: str) -> Path:
        """Return the folder of the model of a run."""
        return self.scratch / "models" / run.replace("/", "-")

    def train(self, arm: str, rate: float | None, minutes: float) -> str:
        """Train an arm and save its model, unless it is there, and return the name of the run."""
        run = f"{arm}, {'planned' if rate is None else f'{rate:g}'}, {minutes:g} min"
        if not self.lines(kind="training", run=run):
            make = partial(ARMS[arm].make, self.held, rate)
            earlier = self.lines(kind="training", arm=arm)[-1:]
            known = [line["seconds"] / line["steps"] for line in earlier]
            seconds = known[0] if known else statistics.median(step_times(make))
            # If the processor does not report its power, CodeCarbon estimates it from the processor's name.
            energy = OfflineEmissionsTracker(
                country_iso_code="USA", tracking_mode="process", save_to_file=False, log_level="error"
            )
            with energy:
                trainer, clock = train_for(run, make, minutes, seconds, self.held, 1)
            trainer.model.save_pretrained(self.folder(run))
            trainer.processing_class.save_pretrained(self.folder(run))
            about = {"arm": arm, "rate": rate, "minutes": minutes, "seconds": clock.passed, "steps": clock.steps}
            about["watt_hours"] = 1000 * energy.final_emissions_data.energy_consumed
            self.add({"kind": "training", "run": run, **about, "loss": clock.curve[-1][1]})
        return run

    def evaluate(self, run: str, folder: Path, ways: Sequence[str] = tuple(WAYS), seeds: int = SEEDS) -> None:
        """Score a model on every task for which the file has no score."""
        for way in ways:
            encoder = None
            for task, seed in itertools.product(self.tasks, range(seeds)):
                cell = {"kind": "score", "run": run, "task": task.name, "way": way, "seed": seed}
                if self.lines(**cell):
                    continue
                # Fine-tuning changes the weights.
                if encoder is None or way != "frozen":
                    encoder = Encoder(AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))
                started = Clock.now()
                score = WAYS[way](encoder, task, seed)
                self.add({**cell, "score": score, "seconds": Clock.now() - started})
                print(f"  {run}: {task.name} {way} {seed}: {score:.1f}", flush=True)

    def score(self, run: str) -> tuple[float, float] | None:
        """Return the mean normalised score over the seeds and its standard error, or None if scores are missing.

        The task that is held out does not count.
        """
        found: dict[int, list[float]] = {seed: [] for seed in range(SEEDS)}
        for line in self.lines(kind="score", run=run):
            if line["task"] in self.counted:
                found[line["seed"]].append(self.counted[line["task"]].normalised(line["score"]))
        if any(len(scores) < len(self.counted) * len(WAYS) for scores in found.values()):
            return None
        means = [statistics.mean(scores) for scores in found.values()]
        return statistics.mean(means), statistics.stdev(means) / len(means) ** 0.5

    def compare(self, arms: Sequence[str], choose_at: float, minutes: Sequence[float]) -> None:
        """Choose the learning rate of each arm after `choose_at` minutes, and train and score it for all `minutes`."""
        for arm in arms:
            best = self.best(arm, choose_at)
            for each in minutes:
                run = self.train(arm, best, each)
                self.evaluate(run, self.folder(run))
        if CONTINUED in arms:
            self.evaluate(UNTRAINED, MINILM)

    def best(self, arm: str, minutes: float) -> float | None:
        """Return the best learning rate of an arm after some minutes."""
        rates = ARMS[arm].rates
        if len(rates) == 1:
            return rates[0]
        runs = {rate: self.train(arm, rate, minutes) for rate in rates}
        if not ARMS[arm].by_score:
            return min(rates, key=lambda rate: self.lines(kind="training", run=runs[rate])[0]["loss"])
        found = {}
        for rate, run in runs.items():
            self.evaluate(run, self.folder(run), ["frozen"], 1)
            lines = self.lines(kind="score", run=run, way="frozen", seed=0)
            found[rate] = sum(
                self.counted[line["task"]].normalised(line["score"]) for line in lines if line["task"] in self.counted
            )
        return max(rates, key=lambda rate: found[rate])

    def table(self) -> None:
        """Print the losses of all runs and their scores, with the standard error if a run has all scores."""
        columns = [(task, way) for task in self.tasks for way in WAYS]
        names = ("run", "seconds", "Wh", "loss", "score", *(f"{task.name}, {way}" for task, way in columns))
        print(f"| {' | '.join(names)} |")
        print("|---" * len(names) + "|")
        trained = {line["run"]: line for line in self.lines(kind="training")}
        for run in dict.fromkeys(line["run"] for line in self.lines(kind="score")):
            line, score = trained.get(run), self.score(run)
            row = [run, "", "", ""]
            if line:
                energy = f"{line['watt_hours']:.1f}" if "watt_hours" in line else ""  # Earlier files have none.
                row = [run, f"{line['seconds']:.0f}", energy, f"{line['loss']:.3f}"]
            row.append(f"{score[0]:.1f} ± {score[1]:.1f}" if score else "")
            for task, way in columns:
                found = self.lines(kind="score", run=run, task=task.name, way=way)
                row.append(f"{statistics.mean(each['score'] for each in found):.1f}" if found else "")
            print(f"| {' | '.join(row)} |")
        for run, line in trained.items():
            print(f"{run}: loss {line['loss']:.3f} after {line['seconds']:.0f} s, {line['steps']} steps")

    def plot(self) -> None:
        """Plot the scores of the arms over minutes of training."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        for arm in ARMS:
            lines = self.lines(kind="training", arm=arm)
            points = [(line["seconds"] / 60, *score) for line in lines if (score := self.score(line["run"]))]
            if points:
                x, y, errors = zip(*sorted(points), strict=True)
                axes.errorbar(x, y, errors, label=arm, marker=".", capsize=3)
        if score := self.score(UNTRAINED):
            axes.axhline(score[0], label=UNTRAINED, linestyle=":", color="gray")
        axes.set(xlabel="minutes of training", ylabel="mean normalised score")
        axes.legend()
        figure.savefig(self.scratch / "downstream.png", dpi=120)
