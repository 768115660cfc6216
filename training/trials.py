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
# Fewer steps teach nothing.
LEAST_STEPS = 10
# The share of `--seconds` that is planned. The rest is for what is not measured, such as saving.
PLANNED = 0.95


class _StepTimes(TrainerCallback):
    """A callback that records when each step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the time."""
        self.ends.append(time.perf_counter())


def trial_arguments(args: Any, folder: Path) -> Any:
    """Return the arguments of a trial: a few steps that write and print nothing."""
    trial = copy.deepcopy(args)
    trial.output_dir, trial.max_steps, trial.warmup_steps = str(folder), _STEPS, 0
    trial.eval_strategy, trial.logging_strategy = IntervalStrategy.NO, IntervalStrategy.NO
    trial.save_strategy, trial.disable_tqdm, trial.report_to = SaveStrategy.NO, True, []
    return trial


def seconds_of_step(trainer: Trainer) -> float:
    """Run a trial, and return the seconds of a step.

    Args:
        trainer: A trainer with `trial_arguments`, whose model is trained.
    """
    times = _StepTimes()
    show_table(trainer, ("loss",))
    trainer.add_callback(times)
    train_with_cleanup(trainer, None)
    return median(end - start for start, end in pairwise(times.ends))


def affordable_steps(step: float, seconds: float, spent: float) -> int:
    """Return the number of steps that fit into some seconds, or `LEAST_STEPS` if that is more.

    Args:
        step: The seconds of a step.
        seconds: The seconds that the user allows.
        spent: Those that are over, or that evaluations will take.
    """
    return max(LEAST_STEPS, math.floor((PLANNED * seconds - spent) / step))


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
