"""Shortens a training so that the command takes about as many seconds as the user allows."""

from __future__ import annotations

import math
import time
from typing import Any, cast

from ..trials import LEAST_STEPS, PLANNED, planned_once, seconds_of_step, trial_arguments
from .cross_validation import LEAST_TO_CHOOSE
from .plan import plan_for
from .report import Results
from .run import Adaptation

_FILE = "budget.json"


def keep_to_budget(run: Adaptation, setup: Any, results: Results, started: float) -> None:
    """Shorten the training to what `--seconds` leaves, measured with a few steps and an evaluation.

    A resumed run keeps what it measured first, since its checkpoints belong to that number of epochs. `results.found`
    gets the options that change. Without time for fine-tuning, `results.tuning` becomes "linear". The run has `started`
    at this time of `time.perf_counter`.
    """
    kept = planned_once(run.scratch / _FILE, run.args.should_save, lambda: _shortened(run, setup, started))
    if kept["said"] and run.args.process_index == 0:
        print(kept["said"])
    results.found = kept["found"]
    if kept["linear"]:
        results.tuning, results.choice = "linear", kept["said"]


def _shortened(run: Adaptation, setup: Any, started: float) -> dict[str, Any]:
    """Return the options that change, whether only the linear head is kept, and what the user reads about it."""
    args, examples = run.args, len(setup.rows["train"])
    step, evaluation = _measured(run, setup)
    batch = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
    steps = math.ceil(examples / batch)
    # Models of folds are trained first.
    are_trained = setup.folds and examples >= LEAST_TO_CHOOSE
    shares = [1 - len(held_out) / examples for held_out in setup.folds] if are_trained else []
    evaluates = args.eval_strategy != "no"
    epoch = (1 + sum(shares)) * steps * step + evaluates * evaluation
    # The baseline and the result are evaluated, too, and so is the end of a training that stops within an epoch.
    evaluations = (2 + evaluates) * evaluation
    left = (PLANNED * cast(float, args.seconds) - (time.perf_counter() - started)) / args.seeds - evaluations
    epochs = round(left / epoch, 2)
    if epochs >= args.num_train_epochs:
        return {"found": {}, "linear": False, "said": ""}
    if epochs * steps >= LEAST_STEPS:
        said = f"There is time for {epochs:g} epochs within {args.seconds:g} seconds."
    elif run.model.tuning == "auto" and setup.can_start_linear and setup.linear is not None:
        said = f"{args.seconds:g} seconds are too few to train all weights, so only the linear head is kept."
        return {"found": {}, "linear": True, "said": said}
    else:
        epochs = min(args.num_train_epochs, math.ceil(100 * LEAST_STEPS / steps) / 100)
        said = f"The training has at least {LEAST_STEPS} steps, which take more than {args.seconds:g} seconds."
    planned = plan_for(examples, args.world_size, epochs * steps, makes_pairs=bool(setup.made_pairs))
    shorter = {name: planned[name] for name in ("warmup_steps", "save_strategy") if name in args.planned}
    return {"found": {"num_train_epochs": epochs, **shorter}, "linear": False, "said": said}


def _measured(run: Adaptation, setup: Any) -> tuple[float, float]:
    """Return the seconds of a training step, and those of an evaluation."""
    args = trial_arguments(run.args, run.scratch / "trial")
    args.keep_best = False
    trainer = setup.trainer(args)
    step = seconds_of_step(trainer) + getattr(trainer, "seconds_of_vectors", 0.0)
    before = time.perf_counter()
    if not setup.folds:
        setup.judge(trainer, "validation")
    return step, time.perf_counter() - before
