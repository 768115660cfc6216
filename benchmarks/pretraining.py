"""Compare pretraining with BERT as transformers' example trains it, and ablate the parts of pretraining.

All models train on the documentation of the installed libraries, with the same tokenizer, number of parameters and
wall-clock time, and are evaluated on the same masked tokens of held-out documents. `race` trains BERT for all of that
time, and our encoder for all and for a third of it. `ablation` trains one encoder for each changed part. Only training
time counts. The script first measures how many steps fit into the time. In the ablation, the models take turns in this
measurement, so that other load on the machine slows all of them alike.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peers import print_machine
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from sequence_encoder import SequenceEncoderTokenizer
from sequence_encoder.data.corpus import write_documentation
from sequence_encoder.data.packs import EvaluationWindows
from sequence_encoder.data.windows import segment_windows
from sequence_encoder.inference.bfloat16 import faster_in_bfloat16
from sequence_encoder.saving.whole_folders import write_atomically
from sequence_encoder.training.pretraining.objectives import Objectives, PretrainingCollator
from sequence_encoder.training.pretraining.pretrain import prepare
from sequence_encoder.training.pretraining.run import parse

LENGTH, ROWS, VOCABULARY, HELD_OUT, EVALUATIONS = 128, 32, 8192, 200, 20
# The number of steps to measure, and the number of rounds.
CALIBRATION, ROUNDS = 12, 3
OURS = ["--size", "mini", "--max_length", str(LENGTH), "--max_tokens", str(ROWS * LENGTH)]

# Differences from ours, which has rotary positions, pre-norm layers, gated networks and both objectives.
ABLATION = {
    "ours": [],
    "sinusoidal positions": ["--config_overrides", "position_embedding=sinusoidal,rope_parameters=null"],
    "learned positions": ["--config_overrides", "position_embedding=learned,rope_parameters=null"],
    "norms after": ["--config_overrides", "norm_placement=post"],
    "plain networks": ["--config_overrides", "feed_forward=mlp"],
    "no sentence order": ["--sop_weight", "0"],
    "AdamW": ["--muon", "False", "--learning_rate", "1e-3"],
    "preset bert": ["--preset", "bert"],
    "preset vanilla": ["--preset", "vanilla"],
}


class Clock(TrainerCallback):
    """Callback that records the held-out loss over the seconds of training, without the time of evaluations."""

    def __init__(self, steps: int, evaluate: Callable[[PreTrainedModel], float], evaluations: int) -> None:
        self.steps, self.evaluate, self.evaluations = steps, evaluate, evaluations
        self.curve: list[tuple[float, float]] = []
        self.times: list[float] = []

    @property
    def passed(self) -> float:
        """The seconds of training so far."""
        return sum(self.times)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.last = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the time of the step, and evaluate if an evaluation is due."""
        self.times.append(time.perf_counter() - self.last)
        if state.global_step * self.evaluations % self.steps < self.evaluations:
            self.curve.append((self.passed, self.evaluate(kwargs["model"])))
            print(f"  {self.passed:6.0f} s  step {state.global_step:5}  loss {self.curve[-1][1]:.3f}", flush=True)
        self.last = time.perf_counter()


class Held:
    """The documents, a tokenizer for all models, and masked tokens of held-out documents."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        files = write_documentation(scratch, HELD_OUT, seed=0)
        self.train, held_out = ([json.loads(line)["text"] for line in file.open(encoding="utf-8")] for file in files)
        self.tokenizer: PreTrainedTokenizerBase = SequenceEncoderTokenizer.train_from_iterator(
            self.train, VOCABULARY, lowercase=True, model_max_length=LENGTH, show_progress=False
        )
        self.tokenizer.save_pretrained(scratch / "tokenizer")
        windows = EvaluationWindows(list(segment_windows(held_out, self.tokenizer, LENGTH, pairs=False)))
        collate = PretrainingCollator(self.tokenizer, Objectives(sop_weight=0, mlm_probability=0.15))
        items = [windows[i] for i in range(len(windows))]
        self.batches = [collate(items[i : i + ROWS]) for i in range(0, len(items), ROWS)]

    @torch.no_grad()
    def loss(self, model: PreTrainedModel) -> float:
        """Compute the loss in nats per masked token."""
        model.eval()
        total, count = 0.0, 0
        for batch in self.batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=faster_in_bfloat16()):
                loss = model(**batch)[0]
            masked = int((batch["labels"] != -100).sum())
            total, count = total + float(loss) * masked, count + masked
        model.train()
        return total / count


def bert_trainer(held: Held, rate: float, concatenated: bool, steps: int) -> Trainer:
    """Build a `Trainer` for BERT of the size "mini", with the data of transformers' `run_mlm.py`."""
    set_seed(0)
    config = BertConfig(
        vocab_size=len(held.tokenizer),
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
        max_position_embeddings=LENGTH,
    )
    ids = held.tokenizer(held.train, return_special_tokens_mask=True, truncation=not concatenated, max_length=LENGTH)
    rows: list[dict[str, list[int]]]
    if concatenated:
        joined = {name: [x for row in ids[name] for x in row] for name in ("input_ids", "special_tokens_mask")}
        total = len(joined["input_ids"]) // LENGTH * LENGTH
        rows = [{name: x[i : i + LENGTH] for name, x in joined.items()} for i in range(0, total, LENGTH)]
    else:
        rows = [{name: ids[name][i] for name in ("input_ids", "special_tokens_mask")} for i in range(len(held.train))]
    arguments = TrainingArguments(
        output_dir=str(held.scratch / "bert"),
        max_steps=steps,
        per_device_train_batch_size=ROWS,
        learning_rate=rate,
        warmup_steps=0.1,
        weight_decay=0.01,
        use_cpu=True,
        bf16=faster_in_bfloat16(),
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    collate = DataCollatorForLanguageModeling(held.tokenizer, mlm_probability=0.15, seed=0)
    return Trainer(BertForMaskedLM(config), arguments, train_dataset=rows, data_collator=collate)


def our_trainer(held: Held, options: list[str], steps: int) -> Trainer:
    """Build the `Trainer` that `sequence-encoder pretrain` builds."""
    fixed = ["--output_dir", str(held.scratch / "ours"), "--overwrite", "--max_steps", str(steps)]
    fixed += ["--corpus", str(held.scratch / "documentation.jsonl"), "--tokenizer", str(held.scratch / "tokenizer")]
    fixed += ["--save_strategy", "no", "--report_to", "none", "--disable_tqdm", "True"]
    return prepare(parse([*OURS, *fixed, *options]))


def step_times(make: Callable[[int], Trainer], held: Held) -> list[float]:
    """Measure the seconds of single steps, without the first ones, which are slower."""
    clock = Clock(CALIBRATION, held.loss, 0)
    trainer = make(CALIBRATION)
    trainer.add_callback(clock)
    trainer.train()
    return clock.times[2:]


def timed(
    name: str, make: Callable[[int], Trainer], minutes: float, seconds: float, held: Held, evaluations: int
) -> Clock:
    """Train for as many steps of `seconds` each as fit into `minutes`."""
    steps = max(EVALUATIONS, round(60 * minutes / seconds))
    trainer, clock = make(steps), Clock(steps, held.loss, evaluations)
    size = sum(weight.numel() for weight in trainer.model.parameters())
    print(f"{name}: {size:,} parameters, {steps:,} steps", flush=True)
    trainer.add_callback(clock)
    trainer.train()
    return clock


def race(held: Held, minutes: float, rates: list[float]) -> None:
    """Train BERT, and our encoder for a third of the time and all of it. Plot the curves, and save them to resume."""
    file = held.scratch / "curves.json"
    curves: dict[str, list[tuple[float, float]]] = json.loads(file.read_text()) if file.exists() else {}

    def run(name: str, make: Callable[[int], Trainer], share: float = 1.0) -> float:
        if name not in curves:
            seconds = statistics.median([time for _ in range(2) for time in step_times(make, held)])
            curves[name] = timed(name, make, share * minutes, seconds, held, EVALUATIONS).curve
            write_atomically(file, [json.dumps(curves)])
        return curves[name][-1][1]

    best = min(rates, key=lambda rate: run(f"BERT, concatenated, {rate:g}", partial(bert_trainer, held, rate, True)))
    run(f"BERT, padded, {best:g}", partial(bert_trainer, held, best, False))
    for share in (1 / 3, 1):
        run(f"ours, {share * minutes:.1f} min", partial(our_trainer, held, []), share)
    goal = min(curve[-1][1] for name, curve in curves.items() if name.startswith("BERT"))
    for name, curve in curves.items():
        reached = next((f"{seconds:.0f} s" for seconds, loss in curve if loss <= goal), "never")
        print(f"{name:<36} loss {curve[-1][1]:.3f} in {curve[-1][0]:.0f} s; BERT's {goal:.3f}: {reached}")
    plot(curves, held.scratch / "race.png")


def plot(curves: dict[str, list[tuple[float, float]]], file: Path) -> None:
    """Plot the held-out losses over minutes of training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        seconds, losses = zip(*curve, strict=True)
        axes.plot([second / 60 for second in seconds], losses, label=name, marker=".")
    axes.set(xlabel="minutes of training", ylabel="held-out loss (nats per masked token)")
    axes.legend()
    figure.savefig(file, dpi=120)


def ablation(held: Held, minutes: float, only: list[str]) -> None:
    """Train one encoder for each line of `ABLATION`, for the same time."""
    makers = {name: partial(our_trainer, held, ABLATION[name]) for name in only or ABLATION}
    times: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(ROUNDS):
        for name in random.sample(list(makers), len(makers)):
            times[name] += step_times(makers[name], held)
    seconds = {name: statistics.median(found) for name, found in times.items()}
    clocks = {name: timed(name, make, minutes, seconds[name], held, 1) for name, make in makers.items()}
    for name, clock in sorted(clocks.items(), key=lambda item: item[1].curve[-1][1]):
        print(f"{name:<24} {clock.curve[-1][1]:.3f}  {1 / seconds[name]:.2f} steps/s, {clock.steps} steps")


def main() -> None:
    """Parse the command line, and run the chosen benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["race", "ablation"])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3], help="learning rates for BERT")
    parser.add_argument("--only", nargs="+", default=[], help="only these lines of the ablation")
    parser.add_argument("--scratch", type=Path, help="folder to keep the texts, the tokenizer and the curves in")
    options = parser.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory() as folder:
        scratch = options.scratch or Path(folder)
        scratch.mkdir(exist_ok=True)
        held = Held(scratch)
        if options.what == "race":
            race(held, options.minutes, options.rates)
        else:
            ablation(held, options.minutes, options.only)


if __name__ == "__main__":
    main()
