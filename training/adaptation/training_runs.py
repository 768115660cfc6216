"""Trains the models of an adaptation, one for each seed, and evaluates them beside the baselines."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ...command_line.console import show_table
from ..checkpoints import checkpoints_in, last_complete_checkpoint, remove_incomplete, train_with_cleanup
from ..hardware import peak_memory
from .averaging import load_average
from .callbacks import DivergedError
from .cross_validation import out_of_fold, prefers_linear, without_evaluation
from .report import Evaluation, Result, Results, write_predictions
from .run import Adaptation, AdaptationArguments, training_arguments
from .scratch import average_folder, fold_folder, model_folder, record, training_folder
from .without_labels import temper


def train(run: Adaptation, recipe: Any, seed: int, results: Results) -> None:
    """Run or resume one training run, and keep its model in the scratch folder if it is the best so far."""
    folder = training_folder(run, seed)
    args = training_arguments(run, folder, seed, results.found)
    if recipe.folds or results.labelling:
        args = without_evaluation(args)
    elif recipe.linear is not None and last_complete_checkpoint(folder) is None:
        # The model may be best before training.
        args.eval_on_start = args.keep_best and args.eval_strategy != "no"
    if not results.baselines:
        # The baselines need a separate trainer: Accelerate would take the evaluated model as prepared for training,
        # and would not synchronise its gradients.
        results.baselines = baselines(recipe, copy.deepcopy(args))
    if args.should_save:
        remove_incomplete(folder)
    checkpoint = last_complete_checkpoint(folder)
    if args.process_index == 0 and args.seeds > 1:
        print(f"Seed {seed}")
    started = time.perf_counter()
    try:
        held_out = cross_validate(run, recipe, args, results) if recipe.folds else None
        # A new trainer sets the random seed, so that the model does not depend on which folds an earlier run finished.
        trainer = recipe.trainer(args, checkpoint)
        show_table(trainer, recipe.logged)
        weights = list(trainer.model.parameters())
        results.parameters = sum(weight.numel() for weight in weights)
        if results.tuning == "linear":
            recipe.set_linear(trainer.model)
            results.trained = sum(weight.numel() for weight in trainer.model.classifier.parameters())
        else:
            results.trained = sum(weight.numel() for weight in weights if weight.requires_grad)
            train_with_cleanup(trainer, checkpoint)
        if results.labelling:
            temper(trainer, recipe, results.labelling)
    except DivergedError:
        # It would diverge again.
        shutil.rmtree(folder, ignore_errors=True)
        for finished_fold in fold_folder(run).glob(f"{seed}-*"):
            finished_fold.unlink(missing_ok=True)
        raise
    seconds = time.perf_counter() - started
    judged = {} if held_out is None else {"validation": held_out}
    splits = [split for split in ("validation", "test") if split in recipe.rows and split not in judged]
    judged |= {split: recipe.judge(trainer, split) for split in splits}
    metrics, last = {split: found.metrics for split, found in judged.items()}, list(judged.values())[-1]
    results.metric = recipe.metric
    results.trainings.append(
        Result(
            seed,
            metrics,
            seconds,
            recipe.score(metrics["validation"]),
            asdict(recipe.training(trainer)),
            last.confusion,
        )
    )
    results.average = None  # that of fewer training runs
    results.peak_memory = max(results.peak_memory, peak_memory())
    if args.should_save:
        best = results.best.seed
        if best == seed or args.average_seeds:
            write_model(recipe, trainer, model_folder(run, seed), judged)
        record(run, results)
        others = (path for path in model_folder(run, best).parent.iterdir() if path.name != str(best))
        for other in () if args.average_seeds else others:
            shutil.rmtree(other)
        for each in checkpoints_in(folder):
            shutil.rmtree(each)
    trainer.accelerator.wait_for_everyone()


def cross_validate(run: Adaptation, recipe: Any, args: AdaptationArguments, results: Results) -> Evaluation:
    """Judge the training on held-out examples. The first seed decides whether the linear head alone is better."""
    found = out_of_fold(run, recipe, args, results.tuning)
    if not results.choice:
        labels = np.asarray(list(recipe.inputs["validation"]["labels"]))
        unlabelled = bool(results.unlabelled.get("used"))
        linear, results.choice = prefers_linear(recipe.task.problem_type, found, labels, unlabelled)
        results.tuning = "linear" if linear else "full"
        if args.process_index == 0:
            print(results.choice)
    results.baselines["linear_head"]["validation"] = recipe.judge_outputs("validation", found.linear).metrics
    return recipe.judge_outputs("validation", found.of(results.tuning))


def write_model(recipe: Any, trainer: Any, folder: Path, judged: Mapping[str, Evaluation]) -> None:
    """Write the model of a trainer, and its answers to the test examples, into a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    recipe.write(trainer, folder)
    if "test" in judged:
        write_predictions(folder / "predictions.jsonl", recipe.rows["test"], judged["test"].answers)


def average(run: Adaptation, recipe: Any, results: Results) -> None:
    """Average the weights of all training runs, and evaluate and keep the model."""
    args = training_arguments(run, training_folder(run, run.args.seed), run.args.seed, results.found)
    trainer = recipe.trainer(args)
    show_table(trainer, recipe.logged)
    load_average(
        trainer.accelerator.unwrap_model(trainer.model),
        [model_folder(run, result.seed) for result in results.trainings],
    )
    judged = {split: recipe.judge(trainer, split) for split in ("validation", "test") if split in recipe.rows}
    metrics, last = {split: found.metrics for split, found in judged.items()}, list(judged.values())[-1]
    first = results.trainings[0]
    seconds = sum(result.seconds for result in results.trainings)
    results.average = Result(
        first.seed, metrics, seconds, recipe.score(metrics["validation"]), first.training, last.confusion
    )
    if args.should_save:
        write_model(recipe, trainer, average_folder(run), judged)
        record(run, results)
    trainer.accelerator.wait_for_everyone()


def baselines(recipe: Any, args: AdaptationArguments) -> dict[str, dict[str, dict[str, float]]]:
    """Compute the metrics of each split before training, and those of the simple baselines that the task has."""
    # The linear head is fitted to the cross-validated examples.
    others = [split for split in ("validation", "test") if split in recipe.rows]
    splits = [split for split in others if split not in recipe.cross_validated]
    trainer = recipe.trainer(args)
    show_table(trainer, recipe.logged)
    if recipe.linear is not None:
        recipe.set_linear(trainer.model)
    before = {split: recipe.judge(trainer, split).metrics for split in splits}
    name = "before_training" if recipe.linear is None else "linear_head"
    return {name: before, **recipe.baselines()}
