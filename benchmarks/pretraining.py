"""Compare pretraining with other recipes, by the loss of masked tokens and by downstream tasks, and ablate its parts.

All models train on the documentation of the installed libraries, with the same tokenizer, number of parameters and
time, and are evaluated on the same masked tokens of held-out documents. `race` trains BERT for all of that time, and
our encoder for all and for a third of it. `ablation` trains one encoder for each changed part. `downstream` trains each
arm, also from a checkpoint, and scores it on tasks (`pretraining_downstream.py`). Only training time counts. The script
first measures how many steps fit into the time. In the ablation, the models take turns in this measurement, so that
other load on the machine slows all of them alike. For a table of what `downstream` has found so far:

    python benchmarks/pretraining.py downstream --scratch folder --table
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from peers import print_machine
from pretraining_arms import Clock, Held, bert_trainer, our_trainer, step_times, train_for
from transformers import Trainer
from transformers.utils import logging

from sequence_encoder.data.corpus import write_documentation
from sequence_encoder.saving.whole_folders import write_atomically

HELD_OUT, EVALUATIONS, ROUNDS = 200, 20, 3

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


def race(held: Held, minutes: float, rates: list[float]) -> None:
    """Train BERT, and our encoder for a third of the time and all of it. Plot the curves, and save them to resume."""
    file = held.scratch / "curves.json"
    curves: dict[str, list[tuple[float, float]]] = json.loads(file.read_text()) if file.exists() else {}

    def run(name: str, make: Callable[[int], Trainer], share: float = 1.0) -> float:
        if name not in curves:
            seconds = statistics.median([time for _ in range(2) for time in step_times(make)])
            curves[name] = train_for(name, make, share * minutes, seconds, held, EVALUATIONS)[1].curve
            write_atomically(file, [json.dumps(curves)])
        return curves[name][-1][1]

    best = min(rates, key=lambda rate: run(f"BERT, concatenated, {rate:g}", partial(bert_trainer, held, rate)))
    run(f"BERT, padded, {best:g}", partial(bert_trainer, held, best, concatenated=False))
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
            times[name] += step_times(makers[name])
    seconds = {name: statistics.median(found) for name, found in times.items()}
    clocks: dict[str, Clock] = {
        name: train_for(name, make, minutes, seconds[name], held, 1)[1] for name, make in makers.items()
    }
    for name, clock in sorted(clocks.items(), key=lambda item: item[1].curve[-1][1]):
        print(f"{name:<24} {clock.curve[-1][1]:.3f}  {1 / seconds[name]:.2f} steps/s, {clock.steps} steps")


def main() -> None:
    """Parse the command line, and run the chosen benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    for name in ("race", "ablation"):
        command = commands.add_parser(name)
        command.add_argument("--minutes", type=float, default=20)
        command.add_argument("--scratch", type=Path, help="folder to keep the texts, the tokenizer and the curves in")
        if name == "race":
            command.add_argument("--rates", type=float, nargs="+", default=[1e-3], help="learning rates for BERT")
        else:
            command.add_argument("--only", nargs="+", default=[], help="only these lines of the ablation")
    command = commands.add_parser("downstream")
    command.add_argument("--minutes", type=float, nargs="+", default=[4, 16], help="train for each of these")
    command.add_argument("--choose_at", type=float, default=4, help="choose learning rates after these minutes")
    command.add_argument("--scratch", type=Path, required=True, help="folder to keep texts, models and results in")
    command.add_argument("--arms", nargs="*", default=[], help="only these arms")
    command.add_argument("--models", nargs="*", default=[], help="score these models instead of training")
    command.add_argument("--final", action="store_true", help="also score the task that is held out")
    command.add_argument("--table", action="store_true", help="only print the table and draw the picture")
    options = parser.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory() as folder:
        scratch = options.scratch or Path(folder)
        scratch.mkdir(exist_ok=True)
        if options.what == "downstream":
            downstream(scratch, options)
            return
        held = Held(scratch, write_documentation(scratch, HELD_OUT, seed=0))
        if options.what == "race":
            race(held, options.minutes, options.rates)
        else:
            ablation(held, options.minutes, options.only)


def downstream(scratch: Path, options: argparse.Namespace) -> None:
    """Train and score what the table lacks, and print it."""
    from pretraining_downstream import PEERS, Runs

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    runs = Runs(scratch, options.final)
    for model in options.models:
        runs.evaluate(model, Path(model))
    if not (options.table or options.models):
        runs.compare(options.arms or PEERS, options.choose_at, options.minutes)
    runs.table()
    runs.plot()


if __name__ == "__main__":
    main()
