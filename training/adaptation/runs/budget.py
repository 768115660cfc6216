"""Shortens a training so that the command takes about as many seconds as the user allows."""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Any, cast

from transformers.trainer_utils import IntervalStrategy

from ...trials import (
    LEAST_STEPS,
    PLANNED,
    evaluations_of,
    planned_once,
    said_of_time,
    seconds_of_step,
    trial_arguments,
)
from ..examples.cross_validation import LEAST_TO_CHOOSE
from ..plan import plan_for
from ..report import Results
from ..run import Adaptation, training_arguments
from .training import baselines, judge_before_training

_FILE = "budget.json"
# The share of `--seconds` in which evaluations of embeddings encode the texts that they search.
_SEARCHES = 0.1
# The time to calibrate a model on an example, in float32, beside that of an evaluation, which may be in bfloat16.
_CALIBRATION = 4


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
    if results.trainings:
        return
    if kept["said"] and run.args.process_index == 0:
        print(kept["said"])
    results.found = kept["found"]
    if kept["linear"]:
        results.tuning, results.choice = "linear", kept["said"]


def _shortened(run: Adaptation, setup: Any, results: Results, started: float, calibration: int) -> dict[str, Any]:
    """Return what `--seconds` leaves time for, and set the baselines of the results.

    Returns:
        The options that change; whether only the linear head is kept; among how many texts evaluations search, if they
        do; and what the user reads about it.
    """
    args, examples = run.args, len(setup.rows["train"])
    batch = cast(int, args.per_device_train_batch_size) * args.gradient_accumulation_steps
    steps = math.ceil(examples / (batch * args.world_size))
    step = _seconds_of_step(run, setup)
    # Without gradients, a model takes a third of the time.
    forward = step / 3 / batch
    searched, said = _search_among_fewer(setup, forward)
    judged = judge_before_training(setup, training_arguments(run, run.scratch / "trial", args.seed, {}))
    before = time.perf_counter()
    results.baselines = baselines(setup, judged)
    # The check of the labels fits models like those of the simple baselines.
    after = time.perf_counter() - before + _CALIBRATION * forward * calibration
    judging = sum(found.seconds for found in judged.values())
    if setup.is_of_sentence_transformers:
        judging += forward * len(setup.rows.get("test", ()))  # the scores of the test pairs
    after += args.average_seeds * judging
    left = (PLANNED * cast(float, args.seconds) - (time.perf_counter() - started) - after) / args.seeds - judging
    evaluation = 0.0 if setup.folds or results.labelling else judged["validation"].seconds
    epochs = _affordable_epochs(setup, left, steps, step, evaluation)
    kept: dict[str, Any] = {"found": {}, "linear": False, "searched": searched, "said": said}
    most, least = cast(float, args.num_train_epochs), LEAST_STEPS / steps
    if max(epochs, least) >= most:
        return kept
    if epochs < least and run.model.tuning == "auto" and setup.can_start_linear and setup.linear is not None:
        shorter = f"{args.seconds:g} seconds are too few to train all weights, so only the linear head is kept."
        return {**kept, "linear": True, "said": shorter}
    shorter = said_of_time(epochs >= least, f"{epochs:.3g} epochs", cast(float, args.seconds))
    epochs = max(epochs, least)
    planned = plan_for(examples, args.world_size, epochs * steps, makes_pairs=bool(setup.made_pairs))
    # Rounded up, so that no step is lost.
    found: dict[str, Any] = {"num_train_epochs": math.ceil(1e4 * epochs) / 1e4}
    found.update((name, planned[name]) for name in ("warmup_steps", "save_strategy") if name in args.planned)
    return {**kept, "found": found, "said": f"{shorter} {said}".rstrip()}


def _seconds_of_step(run: Adaptation, setup: Any) -> float:
    args = trial_arguments(run.args, run.scratch / "trial")
    args.keep_best = False
    trainer = setup.trainer(args)
    return seconds_of_step(trainer, cast(float, args.seconds)) + getattr(trainer, "seconds_of_vectors", 0.0)


def _search_among_fewer(setup: Any, forward: float) -> tuple[int | None, str]:
    """Let evaluations search among as many texts as the model encodes in their part of `--seconds`.

    Returns:
        The number, if they search, and a sentence for the user if it is smaller than without a limit.
    """
    if setup.searched is None:
        return None, ""
    args, without = setup.run.args, setup.searched
    # Each split is evaluated before the training, and after that of each seed. A pair has two texts.
    times = (1 + args.seeds) * len(setup.evaluators)
    most = max(1, math.floor(_SEARCHES * cast(float, args.seconds) / times / (forward / 2)))
    setup.search_among(most)
    fewer = setup.searched < without
    return most, f"Evaluations search among {setup.searched:,} texts instead of {without:,}." if fewer else ""


def _affordable_epochs(setup: Any, left: float, steps: int, step: float, evaluation: float) -> float:
    """Return the number of epochs that there is time for, including those of models of folds.

    Args:
        setup: The setup of the run.
        left: The seconds that are left for the training.
        steps: The number of steps in an epoch.
        step: The seconds of a step.
        evaluation: The seconds of an evaluation during the training.
    """
    args, examples, epoch = setup.run.args, len(setup.rows["train"]), steps * step
    if setup.folds and examples >= LEAST_TO_CHOOSE:
        held_out = sum(map(len, setup.folds))
        left -= held_out / examples * epoch / 3
        epoch *= 1 + len(setup.folds) - held_out / examples
    fixed, of_step = evaluations_of(args, math.ceil(cast(float, args.num_train_epochs) * steps))
    if setup.linear is not None and args.keep_best and args.eval_strategy != IntervalStrategy.NO:
        fixed += 1  # The model may be best before training.
    epochs = (left - fixed * evaluation) / (epoch + of_step * steps * evaluation)
    if setup.is_of_sentence_transformers and args.eval_strategy == IntervalStrategy.EPOCH:
        # A single epoch is not evaluated.
        epochs = max(epochs, min(1.0, left / epoch))
    return epochs
