"""Times a few steps of a training, from which the commands plan how many of them fit into `--seconds`."""

from __future__ import annotations

import copy
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from ..command_line.console import show_table
from .checkpoints import train_with_cleanup

# The first step is not timed, because it allocates memory. The median leaves out a step that other work has delayed.
_STEPS = 6


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
