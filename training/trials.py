"""Times a few steps of a training, and keeps what the commands plan from that: how many steps fit into `--seconds`."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from ..command_line.console import show_table
from ..saving.whole_folders import write_atomically
from .checkpoints import train_with_cleanup

# The first step is not timed, because it allocates memory. The median leaves out a step that other work has delayed.
_STEPS = 6
# The share of `--seconds` after which a trial ends even if fewer steps are timed.
_TRIAL = 0.05
# Fewer steps teach nothing.
LEAST_STEPS = 10
# The share of `--seconds` that is planned. The rest is for what is not measured, such as saving.
PLANNED = 0.95


class _StepTimes(TrainerCallback):
    """A callback that records when each step ends, and ends a trial that takes too long.

    Args:
        seconds: The seconds from the end of the first step, after which the trial ends. It times at least one step.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the time. All processes end the trial after the same step."""
        self.ends.append(time.perf_counter())
        takes_long = len(self.ends) > 1 and self.ends[-1] - self.ends[0] > self.seconds
        control.should_training_stop = broadcast_object_list([takes_long])[0] or control.should_training_stop


def trial_arguments(args: Any, folder: Path) -> Any:
    """Return the arguments of a trial: a few steps that write and print nothing."""
    trial = copy.deepcopy(args)
    trial.output_dir, trial.max_steps, trial.warmup_steps = str(folder), _STEPS, 0
    trial.eval_strategy, trial.logging_strategy = IntervalStrategy.NO, IntervalStrategy.NO
    trial.save_strategy, trial.disable_tqdm, trial.report_to = SaveStrategy.NO, True, []
    return trial


def seconds_of_step(trainer: Trainer, seconds: float) -> float:
    """Run a trial, and return the seconds of a step.

    Args:
        trainer: A trainer with `trial_arguments`, whose model is trained.
        seconds: The seconds that the user allows for the whole command.
    """
    times = _StepTimes(_TRIAL * seconds)
    show_table(trainer, ("loss",))
    trainer.add_callback(times)
    train_with_cleanup(trainer, None)
    return median(end - start for start, end in pairwise(times.ends))


def affordable_steps(trainer: Trainer, args: Any, most: int, started: float, more: int) -> int:
    """Return the number of steps that fit into `--seconds`, from `LEAST_STEPS` to `most`, and print fewer than those.

    Args:
        trainer: A trainer with `trial_arguments`, whose model is trained.
        args: The arguments of the training.
        most: The number of steps without a limit.
        started: When the command started, by `time.perf_counter`.
        more: The number of evaluations in addition to those of `eval_strategy`.
    """
    step, evaluation = seconds_of_step(trainer, args.seconds), 0.0
    if trainer.eval_dataset is not None:
        before = time.perf_counter()
        trainer.evaluate()
        evaluation = time.perf_counter() - before
    fixed, of_step = evaluations_of(args, most)
    left = PLANNED * args.seconds - (time.perf_counter() - started) - (more + fixed) * evaluation
    affordable = math.floor(left / (step + of_step * evaluation))
    steps = min(most, max(LEAST_STEPS, affordable))
    if steps < most and args.process_index == 0:
        print(said_of_time(affordable >= LEAST_STEPS, f"{steps:,} of {most:,} steps", args.seconds))
    return steps


def said_of_time(is_enough: bool, amount: str, seconds: float) -> str:
    """Return what the user reads about a shorter training.

    Args:
        is_enough: Whether `seconds` leave time for `LEAST_STEPS` steps.
        amount: How long the training is if they do.
        seconds: The seconds that the user allows for the whole command.
    """
    if is_enough:
        return f"There is time for {amount} within {seconds:g} seconds."
    return f"There is no time for {LEAST_STEPS} steps within {seconds:g} seconds, but no training has fewer."


def evaluations_of(args: Any, most: int) -> tuple[float, float]:
    """Return the number of evaluations during a training, and those for each step in addition.

    Args:
        args: The arguments of the training.
        most: The number of steps in all epochs.
    """
    if args.eval_strategy == IntervalStrategy.NO:
        return 0.0, 0.0
    if args.eval_strategy == IntervalStrategy.EPOCH:
        # A training that stops within an epoch is evaluated there, too.
        return 1.0, args.num_train_epochs / most
    every = args.eval_steps or args.logging_steps
    return (1 / every, 0.0) if every < 1 else (0.0, 1 / every)


def planned_once(file: Path, should_save: bool, plan: Callable[[], Any]) -> Any:
    """Return a plan, which a resumed run reads from a file, because its checkpoints belong to it.

    Args:
        file: The file, in JSON.
        should_save: Whether this process writes it.
        plan: Makes the plan. All processes use that of the first one, so that they train for the same number of steps.
    """
    kept = broadcast_object_list([json.loads(file.read_text(encoding="utf-8")) if file.exists() else None])[0]
    if kept is None:
        kept = broadcast_object_list([plan()])[0]
        if should_save:
            write_atomically(file, [json.dumps(kept)])
    return kept
