"""A GLiNER (Zaratiana et al., 2024) over all-MiniLM-L6-v2, trained by the package gliner, and the F1 of its entities.

The package asks for older versions of transformers than it works with: `pip install --no-deps gliner==0.2.29`. The
first command trains for 15 minutes of one core on the rows in a folder that `extraction_rows.py` wrote. The second one
makes a GLiNER with new weights of the size of DeBERTa-v3-small, to measure speed:

    OMP_NUM_THREADS=1 python benchmarks/gliner_peer.py OUTPUT --rows ROWS --minutes 15
    python benchmarks/gliner_peer.py OUTPUT
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
from torch.utils.data import SequentialSampler
from transformers import AutoTokenizer, DebertaV2Config, TrainerCallback, set_seed

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
    "max_steps": 1_000_000,
}
# What the trainers have in common.
PLAIN: dict[str, Any] = {
    "report_to": "none",
    "save_strategy": "no",
    "use_cpu": True,
    "remove_unused_columns": False,
    "disable_tqdm": True,
    "logging_steps": 50,
}
DROPOUT = 0.1
WARM_UP = 0.05


def build_gliner() -> UniEncoderSpanGLiNER:
    """Return a GLiNER with the weights of all-MiniLM-L6-v2, and new ones in the rest."""
    set_seed(0)
    config = UniEncoderSpanConfig(model_name=str(MINILM), hidden_size=384, dropout=DROPOUT, span_mode="markerV0")
    return UniEncoderSpanGLiNER.load_from_config(config)


def build_deberta_gliner() -> UniEncoderSpanGLiNER:
    """Return a GLiNER with new weights, of the size of DeBERTa-v3-small but for its embeddings."""
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(MINILM)
    UniEncoderSpanGLiNER._set_tokenizer_spec_tokens(tokenizer)
    tokenizer.add_tokens(["<<ENT>>", "<<SEP>>"])
    encoder = DebertaV2Config(
        vocab_size=len(tokenizer),
        hidden_size=768,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=3072,
        type_vocab_size=0,
        relative_attention=True,
        position_buckets=256,
        position_biased_input=False,
        pos_att_type="p2c|c2p",
        share_att_key=True,
        norm_rel_ebd="layer_norm",
    )
    config = UniEncoderSpanConfig(
        encoder_config=encoder.to_dict(),
        hidden_size=512,
        vocab_size=len(tokenizer),
        class_token_index=tokenizer.convert_tokens_to_ids("<<ENT>>"),
    )
    return UniEncoderSpanGLiNER(config, tokenizer=tokenizer, backbone_from_pretrained=False)


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


class Budgeted:
    """Mixin that lets a `Trainer` read the rows in their order, with a learning rate that follows a budget, if any."""

    budget: Budget | None = None

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return the scheduler."""
        if self.budget is None:
            return super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, self.budget.rate)
        return self.lr_scheduler

    def _get_train_sampler(self, *args: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


class GlinerTrainer(Budgeted, Trainer):
    """The trainer of gliner."""


def make_trainer(model: UniEncoderSpanGLiNER, rows: Rows, folder: str, **changes: Any) -> GlinerTrainer:
    """Return gliner's trainer for rows in its format."""
    args = TrainingArguments(output_dir=folder, **PLAIN, **{**SETTINGS, **changes})
    tokenizer = model.data_processor.transformer_tokenizer
    collator = model._create_data_collator()
    return GlinerTrainer(model=model, args=args, train_dataset=rows, data_collator=collator, processing_class=tokenizer)


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


def train_within(
    name: str, trainer: Any, extract: Extract, tests: dict[str, Rows], minutes: float, part: int = 100
) -> None:
    """Train for some minutes of CPU time, and print the progress on a part of each test, and the cost of a step."""
    few = {test: random.Random(0).sample(rows, min(part, len(rows))) for test, rows in tests.items()}

    def report(step: int) -> None:
        trainer.model.eval()
        print(f"  {step} steps, {budget.share():.0%} of the time: {f1_line(extract, few)}", flush=True)
        trainer.model.train()

    budget = trainer.budget = Budget(60 * minutes)
    trainer.add_callback(WithinBudget(budget, report))
    peak_since_last()
    before = peak_since_last()
    trainer.train()
    trainer.model.eval()
    steps, size = trainer.state.global_step, trainer.args.per_device_train_batch_size
    seconds = 60 * minutes / steps
    print(
        f"{name}: {steps} steps of {size} rows, {seconds:.3f} CPU s a step, {size / seconds:.1f} rows a CPU second, ",
        end="",
    )
    print(f"peak memory {peak_since_last()} MiB, {before} before")
    print(f"{name}, all rows: {f1_line(extract, tests)}", flush=True)


def train_gliner(rows: Rows, tests: dict[str, Rows], minutes: float) -> UniEncoderSpanGLiNER:
    """Train a GLiNER for some minutes of CPU time, and print its progress."""
    model = build_gliner()
    with tempfile.TemporaryDirectory() as folder:
        train_within("gliner", make_trainer(model, rows, folder), entities_of(model), tests, minutes)
    return model


def main() -> None:
    """Make or train a GLiNER, and save it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--settings", type=json.loads, default={}, help="Other settings of gliner's trainer, as JSON.")
    args = parser.parse_args()
    SETTINGS.update(args.settings)
    torch.set_num_threads(1)
    if args.rows is None:
        return build_deberta_gliner().save_pretrained(args.output)
    rows, tests = read_rows_folder(args.rows)
    train_gliner(rows, tests, args.minutes).save_pretrained(args.output)


if __name__ == "__main__":
    main()
