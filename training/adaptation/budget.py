"""Shortens a training so that the command takes about as many seconds as the user allows."""

from __future__ import annotations

import copy
import json
import math
import time
from functools import partial
from typing import Any, cast

import numpy as np
from transformers.trainer_utils import IntervalStrategy

from ...saving.whole_folders import write_atomically
from ..trials import LEAST_STEPS, PLANNED, planned_once, seconds_of_step, trial_arguments
from .cross_validation import LEAST_TO_CHOOSE
from .linear_head import frozen_vectors
from .plan import plan_for
from .report import Results
from .run import Adaptation, training_arguments
from .similarity_setup import SimilaritySetup
from .tasks.similarity import POOL
from .training_runs import before_training

_FILE, _LINEAR_FILE = "budget.json", "linear_head.json"
# The share of `--seconds` in which the examples are encoded that a linear head is fitted to.
_LINEAR = 0.2
# The time to calibrate a model on an example, in float32, beside that of an evaluation, which may be in bfloat16.
_CALIBRATION = 4
# The share of `--seconds` in which an evaluation computes the vectors of the texts that it searches.
_EVALUATION = 0.05


def keep_to_budget(
    run: Adaptation, setup: Any, results: Results, started: float, calibrated_on: str | None = None
) -> None:
    """Shorten the training to what `--seconds` leaves, measured with a few steps and the evaluation of the baseline.

    A resumed run keeps what it measured first, since its checkpoints belong to that number of epochs. `results.found`
    gets the options that change. Without time for fine-tuning, `results.tuning` becomes "linear". The run has `started`
    at this time of `time.perf_counter`, and ends with the calibration of the model on a split, if any.
    """
    calibration = 0 if calibrated_on is None else len(setup.rows[calibrated_on])
    plan = partial(_shortened, run, setup, results, started, calibration)
    kept = planned_once(run.scratch / _FILE, run.args.should_save, plan)
    if kept["searched"] is not None:
        setup.search_among(kept["searched"])
    if kept["said"] and run.args.process_index == 0:
        print(kept["said"])
    results.found = kept["found"]
    if kept["linear"]:
        results.tuning, results.choice = "linear", kept["said"]


def examples_within(run: Adaptation, model: Any, inputs: Any, collator: Any) -> int:
    """Return how many examples a model encodes in the part of `--seconds` that is for fitting a linear head.

    A resumed run keeps the number, because the same head must start the training of other seeds.
    """
    file, args = run.scratch / _LINEAR_FILE, copy.deepcopy(run.args)
    if file.exists():
        return int(json.loads(file.read_text(encoding="utf-8")))
    args.disable_tqdm = True
    sample = np.random.default_rng(0).permutation(len(inputs))[: 2 * args.per_device_eval_batch_size]
    started = time.perf_counter()
    frozen_vectors(model, inputs.select(sample), collator, args)
    seconds_of_one = (time.perf_counter() - started) / len(sample)
    count = max(len(sample), math.floor(_LINEAR * cast(float, args.seconds) / seconds_of_one))
    if args.should_save:
        write_atomically(file, [json.dumps(count)])
    return count


def _shortened(run: Adaptation, setup: Any, results: Results, started: float, calibration: int) -> dict[str, Any]:
    """Return what `--seconds` leaves time for, and set the baselines of the results.

    Returns:
        The options that change; whether only the linear head is kept; among how many texts evaluations search, if they
        do; and what the user reads about it.
    """
    args, examples = run.args, len(setup.rows["train"])
    batch = cast(int, args.per_device_train_batch_size) * args.gradient_accumulation_steps
    steps = math.ceil(examples / (batch * args.world_size))
    step, searched = _seconds_of_step(run, setup), None
    # Without gradients, a model takes a third of the time. A pair has two texts.
    forward = step / 3 / batch
    if isinstance(setup, SimilaritySetup) and setup.task.searches:
        searched = min(POOL, math.ceil(_EVALUATION * cast(float, args.seconds) / (forward / 2)))
        setup.search_among(searched)
    judging, simple = _judged_before_training(run, setup, results)
    # The check of the labels fits models like those of the simple baselines.
    after = _CALIBRATION * forward * calibration + simple + args.average_seeds * judging
    left = (PLANNED * cast(float, args.seconds) - (time.perf_counter() - started) - after) / args.seeds - judging
    epochs = _affordable_epochs(setup, left, steps * step, forward, _evaluation(setup, results, judging))
    fewer = searched is not None and searched < POOL
    among = f"Evaluations search among about {searched:,} texts instead of {POOL:,}." if fewer else ""
    kept: dict[str, Any] = {"found": {}, "linear": False, "searched": searched, "said": among}
    if epochs >= cast(float, args.num_train_epochs):
        return kept
    limit = f"{args.seconds:g} seconds"
    if epochs * steps < LEAST_STEPS and _can_keep_linear(run, setup):
        said = f"{limit} are too few to train all weights, so only the linear head is kept."
        return {**kept, "linear": True, "said": said}
    if epochs * steps >= LEAST_STEPS:
        epochs = round(epochs, 2)
        said = f"There is time for {epochs:g} epochs within {limit}."
    else:
        epochs = min(args.num_train_epochs, math.ceil(100 * LEAST_STEPS / steps) / 100)
        said = f"The training has at least {LEAST_STEPS} steps, which take more than {limit}."
    planned = plan_for(examples, args.world_size, epochs * steps, makes_pairs=bool(setup.made_pairs))
    shorter = {name: planned[name] for name in ("warmup_steps", "save_strategy") if name in args.planned}
    return {**kept, "found": {"num_train_epochs": epochs, **shorter}, "said": f"{said} {among}".rstrip()}


def _seconds_of_step(run: Adaptation, setup: Any) -> float:
    args = trial_arguments(run.args, run.scratch / "trial")
    args.keep_best = False
    trainer = setup.trainer(args)
    return seconds_of_step(trainer, cast(float, args.seconds)) + getattr(trainer, "seconds_of_vectors", 0.0)


def _judged_before_training(run: Adaptation, setup: Any, results: Results) -> tuple[float, float]:
    """Set the baselines of the results.

    Returns:
        The seconds of an evaluation of a model on all splits, and of the simple baselines.
    """
    before = time.perf_counter()
    results.baselines = before_training(setup, training_arguments(run, run.scratch / "trial", run.args.seed, {}))
    judged = time.perf_counter()
    results.baselines |= setup.baselines()
    return judged - before, time.perf_counter() - judged


def _evaluation(setup: Any, results: Results, judging: float) -> float:
    """Return the seconds of an evaluation during the training, or 0 if there are none."""
    args = setup.run.args
    if setup.folds or results.labelling or args.eval_strategy == IntervalStrategy.NO:
        return 0.0
    validation, test = (len(setup.rows.get(split, ())) for split in ("validation", "test"))
    return judging * validation / (validation + test)


def _affordable_epochs(setup: Any, left: float, epoch: float, forward: float, evaluation: float) -> float:
    """Return the number of epochs that there is time for, including those of models of folds.

    Args:
        setup: The setup of the run.
        left: The seconds that are left for the training.
        epoch: The seconds of an epoch.
        forward: The seconds in which the model computes its outputs for an example.
        evaluation: The seconds of an evaluation during the training.
    """
    examples = len(setup.rows["train"])
    if setup.folds and examples >= LEAST_TO_CHOOSE:
        held_out = sum(map(len, setup.folds))
        left -= forward * held_out
        epoch *= 1 + len(setup.folds) - held_out / examples
    # The end of a training that stops within an epoch is evaluated, too, unless that chooses nothing.
    epochs = (left - evaluation) / (epoch + evaluation)
    return epochs if setup.linear is not None else max(epochs, min(1.0, left / epoch))


def _can_keep_linear(run: Adaptation, setup: Any) -> bool:
    return run.model.tuning == "auto" and setup.can_start_linear and setup.linear is not None
