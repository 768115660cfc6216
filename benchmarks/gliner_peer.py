"""A GLiNER (Zaratiana et al., 2024) over all-MiniLM-L6-v2, trained by the package gliner, and the F1 of its entities.

The package asks for older versions of transformers than it works with: `pip install --no-deps gliner==0.2.29`. To train
for 15 minutes of one core on the rows in a folder that `extraction_rows.py` wrote:

    OMP_NUM_THREADS=1 python benchmarks/gliner_peer.py ROWS OUTPUT --minutes 15
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from extraction_rows import WORD
from gliner.config import UniEncoderSpanConfig
from gliner.model import UniEncoderSpanGLiNER
from gliner.training import Trainer, TrainingArguments
from minilm import MINILM
from peers import peak_since_last
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, set_seed

Rows = list[dict[str, Any]]
Extract = Callable[[list[str], list[str], float], list[list[dict[str, Any]]]]
# Returns the entities of texts for labels with scores above a threshold.

SETTINGS: dict[str, Any] = {
    "learning_rate": 2e-4,  # of the encoder
    "others_lr": 1e-3,
    "weight_decay": 0.01,
    "others_weight_decay": 0.01,
    "focal_loss_alpha": 0.75,
    "focal_loss_gamma": 0.0,
    "loss_reduction": "sum",
    "masking": "none",
    "max_grad_norm": 10.0,
    "per_device_train_batch_size": 8,
}
DROPOUT = 0.1
WARM_UP = 0.05


def build_gliner() -> UniEncoderSpanGLiNER:
    """Return a GLiNER with the weights of all-MiniLM-L6-v2, and new ones in the rest."""
    set_seed(0)
    config = UniEncoderSpanConfig(model_name=str(MINILM), hidden_size=384, dropout=DROPOUT, span_mode="markerV0")
    return UniEncoderSpanGLiNER.load_from_config(config)


class Budget:
    """CPU seconds to train for, from which the learning rate falls linearly after it has risen."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.started = seconds, time.process_time()

    def share(self) -> float:
        """Return how much of the time is over, at most 1."""
        return min((time.process_time() - self.started) / self.seconds, 1.0)

    def rate(self, step: int) -> float:
        """Return the share of the learning rate for the time that is over."""
        share = self.share()
        return max(min(share / WARM_UP, (1 - share) / (1 - WARM_UP)), 0.02)


class WithinBudget(TrainerCallback):
    """Ends training when its time is over, and calls a function after each fifth of it, which costs none of it."""

    def __init__(self, budget: Budget, report: Callable[[int], None]) -> None:
        self.budget, self.report, self.reports = budget, report, 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report, or end."""
        share = self.budget.share()
        if share >= (self.reports + 1) / 5:
            self.reports += 1
            paused = time.process_time()
            self.report(state.global_step)
            self.budget.started += time.process_time() - paused
        control.should_training_stop = share >= 1


class BudgetedTrainer(Trainer):
    """The trainer of gliner, with a learning rate that follows the time if it has a budget."""

    budget: Budget | None = None

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Return a scheduler that ignores the number of steps."""
        if self.budget is None:
            return super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, self.budget.rate)
        return self.lr_scheduler


def make_trainer(model: UniEncoderSpanGLiNER, rows: Rows, folder: str, **changes: Any) -> BudgetedTrainer:
    """Return gliner's trainer for rows in its format."""
    given = {**SETTINGS, "max_steps": 1_000_000, "report_to": "none", "save_strategy": "no", "use_cpu": True, **changes}
    given.setdefault("logging_steps", 50)
    args = TrainingArguments(output_dir=folder, remove_unused_columns=False, disable_tqdm=True, **given)
    tokenizer = model.data_processor.transformer_tokenizer
    collator = model._create_data_collator()
    return BudgetedTrainer(
        model=model, args=args, train_dataset=rows, data_collator=collator, processing_class=tokenizer
    )


def entities_of(model: UniEncoderSpanGLiNER) -> Extract:
    """Return a function that extracts entities with a GLiNER."""
    return lambda texts, labels, threshold: model.inference(texts, labels, threshold=threshold, batch_size=8)


def f1_scores(extract: Extract, rows: Rows, thresholds: list[float]) -> dict[float, float]:
    """Return the micro F1 of exact spans with their labels for each threshold. All rows ask for the same labels."""
    expected = set()
    for number, row in enumerate(rows):
        spans = [match.span() for match in WORD.finditer(row["text"])]
        expected |= {(number, spans[first][0], spans[last][1], label) for first, last, label in row["ner"]}
    texts, labels = [row["text"] for row in rows], rows[0]["ner_labels"]
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    found = extract([texts[index] for index in order], labels, min(thresholds))
    # An entity never displaces one with a higher score, so those above a higher threshold are the same.
    scored = [
        ((number, each["start"], each["end"], each["label"]), each["score"])
        for number, each_text in zip(order, found, strict=True)
        for each in each_text
    ]
    scores = {}
    for threshold in thresholds:
        kept = {entity for entity, score in scored if score > threshold}
        scores[threshold] = 2 * len(kept & expected) / max(len(kept) + len(expected), 1)
    return scores


def f1_line(extract: Extract, tests: dict[str, Rows]) -> str:
    """Return the F1 of each test at 0.5 and at the best threshold, as text."""
    parts = []
    for name, rows in tests.items():
        scores = f1_scores(extract, rows, [round(float(each), 2) for each in np.arange(0.05, 0.96, 0.05)])
        best = max(scores, key=lambda threshold: scores[threshold])
        parts.append(f"{name}: F1 {scores[0.5]:.3f} at 0.5, {scores[best]:.3f} at {best}")
    return "; ".join(parts)


def read_rows_folder(folder: Path) -> tuple[Rows, dict[str, Rows]]:
    """Return the rows to train on and the rows of each test."""
    read = {name: json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("train", "seen", "unseen")}
    return read.pop("train"), read


def train_gliner(rows: Rows, tests: dict[str, Rows], minutes: float, part: int = 100) -> UniEncoderSpanGLiNER:
    """Train a GLiNER for some minutes of CPU time, and print its progress on a part of each test."""
    model = build_gliner()
    few = {name: random.Random(0).sample(each, min(part, len(each))) for name, each in tests.items()}

    def report(step: int) -> None:
        model.eval()
        print(f"  {step} steps, {budget.share():.0%} of the time: {f1_line(entities_of(model), few)}", flush=True)
        model.train()

    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(model, rows, folder)
        budget = trainer.budget = Budget(60 * minutes)
        trainer.add_callback(WithinBudget(budget, report))
        peak_since_last()
        before, wall = peak_since_last(), time.perf_counter()
        trainer.train()
        wall = time.perf_counter() - wall
    steps, size = trainer.state.global_step, trainer.args.per_device_train_batch_size
    seconds = 60 * minutes / steps
    print(
        f"gliner: {steps} steps of {size} rows, {seconds:.3f} CPU s a step, {size / seconds:.1f} rows/s of CPU time, ",
        end="",
    )
    print(f"peak memory {peak_since_last()} MiB, {before} before, {wall:.0f} s with the tests")
    return model.eval()


def main() -> None:
    """Train a GLiNER and save it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--settings", type=json.loads, default={}, help="Other settings of gliner's trainer, as JSON.")
    args = parser.parse_args()
    SETTINGS.update(args.settings)
    torch.set_num_threads(1)
    rows, tests = read_rows_folder(args.rows)
    model = train_gliner(rows, tests, args.minutes)
    model.save_pretrained(args.output)
    print(f1_line(entities_of(model), tests))


if __name__ == "__main__":
    main()
