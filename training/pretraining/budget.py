"""Shortens a pretraining run so that the command takes about as many seconds as the user allows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from transformers import Trainer, set_seed

from ...data.packs import PackedWindows
from ..trials import affordable_steps, planned_once, trial_arguments
from .run import Pretraining
from .trainer import packs_per_step

BUDGET, TRIAL = "budget.json", "trial"


def keep_to_seconds(
    run: Pretraining, train: PackedWindows, trainer_of: Callable[[Pretraining], Trainer], started: float
) -> None:
    """Set the number of steps to what `--seconds` leaves time for, but no more than those of `--num_train_epochs`.

    A resumed run keeps its number of steps, because its schedule and its checkpoints belong to it.

    Args:
        run: The run, whose `max_steps` is set.
        train: What it trains on.
        trainer_of: Builds a trainer with a copy of the model.
        started: When the run started, by `time.perf_counter`.
    """
    file, args = run.scratch / BUDGET, run.args
    kept = planned_once(file, args.should_save, lambda: {"steps": _affordable_steps(run, train, trainer_of, started)})
    args.max_steps = kept["steps"]


def _affordable_steps(
    run: Pretraining, train: PackedWindows, trainer_of: Callable[[Pretraining], Trainer], started: float
) -> int:
    args = run.args
    trial = trial_arguments(args, run.scratch / TRIAL)
    trial.resume = trial.push_to_hub = trial.load_best_model_at_end = False
    trial.ema_decay, trial.start_share = None, 0.0
    most = math.ceil(args.num_train_epochs * len(train) / packs_per_step(args))
    # The model is evaluated again after the training.
    steps = affordable_steps(trainer_of(dataclasses.replace(run, args=trial)), args, most, started, more=1)
    # The trial must not change what the run draws.
    set_seed(args.seed)
    return steps
