"""Trains the models of an adaptation: one for each seed, beside the baselines, and those of a search with Optuna."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedModel, PrinterCallback, ProgressCallback
from transformers.trainer_utils import SaveStrategy

from ....command_line import UsageError
from ....command_line.console import show_table
from ...checkpoints import checkpoints_in, last_complete_checkpoint, remove_incomplete, train_with_cleanup
from ...hardware import peak_memory
from ..examples.cross_validation import out_of_fold, prefers_linear, without_evaluation
from ..examples.label_names import temper
from ..report import Evaluation, Result, Results, write_predictions
from ..run import Adaptation, AdaptationArguments, training_arguments
from .callbacks import DivergedError
from .scratch import SEARCH, record


def train(run: Adaptation, setup: Any, seed: int, results: Results) -> Result:
    """Run or resume one training run, and keep its model in the scratch folder if it is the best so far.

    Returns:
        The result of the training run, which is also added to the results.
    """
    folder = run.scratch / "trainings" / str(seed)
    args = arguments_of_seed(run, setup, seed, results)
    if not results.baselines:
        # The baselines need a separate trainer: Accelerate would take the evaluated model as prepared for training,
        # and would not synchronise its gradients.
        results.baselines = baselines(setup, judge_before_training(setup, copy.deepcopy(args)))
    if args.should_save:
        remove_incomplete(folder)
    checkpoint = last_complete_checkpoint(folder)
    if args.process_index == 0 and args.seeds > 1:
        print(f"Seed {seed}")
    started = time.perf_counter()
    with without_diverged(run, seed):
        held_out = cross_validate(run, setup, args, results) if setup.folds else None
        # A new trainer sets the random seed, so that the model does not depend on which folds an earlier run finished.
        trainer = setup.trainer(args, checkpoint)
        fit(setup, trainer, checkpoint, results)
    seconds = time.perf_counter() - started
    judged = judge_trained(setup, trainer, held_out, results)
    result = result_of(setup, judged, seed, seconds, asdict(setup.training(trainer)))
    results.metric = setup.metric
    results.trainings.append(result)
    results.average = None  # that of fewer training runs
    results.peak_memory = max(results.peak_memory, peak_memory())
    if args.should_save:
        keep_best(run, setup, trainer, judged, results)
    trainer.accelerator.wait_for_everyone()
    return result


def arguments_of_seed(run: Adaptation, setup: Any, seed: int, results: Results) -> AdaptationArguments:
    """Return the arguments of the `Trainer` of one training run."""
    folder = run.scratch / "trainings" / str(seed)
    args = training_arguments(run, folder, seed, results.found)
    if setup.folds or results.labelling:
        return without_evaluation(args)
    if setup.linear is not None and last_complete_checkpoint(folder) is None:
        # The model may be best before training.
        args.eval_on_start = args.keep_best and args.eval_strategy != "no"
    return args


@contextmanager
def without_diverged(run: Adaptation, seed: int) -> Iterator[None]:
    """Remove what a training run has saved if it diverges, because it would diverge again."""
    try:
        yield
    except DivergedError:
        shutil.rmtree(run.scratch / "trainings" / str(seed), ignore_errors=True)
        for finished_fold in run.scratch.glob(f"folds/{seed}-*"):
            finished_fold.unlink(missing_ok=True)
        raise


def fit(setup: Any, trainer: Any, checkpoint: Path | None, results: Results) -> None:
    """Train the model of a trainer, or give it the linear head if only that is kept."""
    show_table(trainer, setup.logged)
    weights = list(trainer.model.parameters())
    results.parameters = sum(weight.numel() for weight in weights)
    if results.tuning == "linear":
        setup.set_linear(trainer.model)
        results.trained = sum(weight.numel() for weight in trainer.model.classifier.parameters())
    else:
        results.trained = sum(weight.numel() for weight in weights if weight.requires_grad)
        train_with_cleanup(trainer, checkpoint)
    if results.labelling:
        temper(trainer, setup, results.labelling)


def judge_trained(setup: Any, trainer: Any, held_out: Evaluation | None, results: Results) -> dict[str, Evaluation]:
    """Evaluate a trained model on each split, except where its evaluation is already known."""
    judged = {} if held_out is None else {"validation": held_out}
    if results.tuning == "linear" and not results.labelling:
        judged |= setup.judged_linear
    setup.judged_linear = {}
    return judged | judge_splits(setup, trainer, [split for split in ("validation", "test") if split not in judged])


def keep_best(run: Adaptation, setup: Any, trainer: Any, judged: Mapping[str, Evaluation], results: Results) -> None:
    """Write the model of the last training run if it is the best so far, and remove what is no longer needed."""
    best, seed, models = str(results.best.seed), str(results.trainings[-1].seed), run.scratch / "models"
    if best == seed or run.args.average_seeds:
        write_model(setup, trainer, models / seed, judged)
    record(run, results)
    for model in () if run.args.average_seeds else models.iterdir():
        if model.name != best:
            shutil.rmtree(model)
    for each in checkpoints_in(run.scratch / "trainings" / seed):
        shutil.rmtree(each)


def cross_validate(run: Adaptation, setup: Any, args: AdaptationArguments, results: Results) -> Evaluation:
    """Judge the training on held-out examples. The first seed decides whether the linear head alone is better."""
    found = out_of_fold(run, setup, args, results.tuning)
    if not results.choice:
        labels = np.asarray(list(setup.inputs["validation"]["labels"]))
        unlabelled = bool(results.unlabelled.get("used"))
        linear, results.choice = prefers_linear(setup.task.problem_type, found, labels, unlabelled)
        results.tuning = "linear" if linear else "full"
        if args.process_index == 0:
            print(results.choice)
    results.baselines["linear_head"]["validation"] = setup.judge_outputs("validation", found.linear).metrics
    return setup.judge_outputs("validation", found.of(results.tuning))


def write_model(setup: Any, trainer: Any, folder: Path, judged: Mapping[str, Evaluation]) -> None:
    """Write the model of a trainer, and its answers to the test examples, into a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    setup.write(trainer, folder)
    if "test" in judged:
        write_predictions(folder / "predictions.jsonl", setup.rows["test"], judged["test"].answers())


def average(run: Adaptation, setup: Any, results: Results) -> None:
    """Average the weights of all training runs, and evaluate and keep the model."""
    models = run.scratch / "models"
    folder = run.scratch / "trainings" / str(run.args.seed)
    trainer = setup.trainer(training_arguments(run, folder, run.args.seed, results.found))
    show_table(trainer, setup.logged)
    model = trainer.accelerator.unwrap_model(trainer.model)
    load_average(model, [models / str(result.seed) for result in results.trainings])
    judged = judge_splits(setup, trainer, ("validation", "test"))
    first, seconds = results.trainings[0], sum(result.seconds for result in results.trainings)
    results.average = result_of(setup, judged, first.seed, seconds, first.training)
    if run.args.should_save:
        write_model(setup, trainer, models / "average", judged)
        record(run, results)
    trainer.accelerator.wait_for_everyone()


def judge_splits(setup: Any, trainer: Any, splits: Sequence[str]) -> dict[str, Evaluation]:
    """Evaluate the model of a trainer on those of the splits that have examples."""
    judged = {}
    for split in splits:
        if split in setup.rows:
            started = time.perf_counter()
            judged[split] = setup.judge(trainer, split)
            judged[split].seconds = time.perf_counter() - started
    return judged


def result_of(
    setup: Any, judged: Mapping[str, Evaluation], seed: int, seconds: float, training: dict[str, Any]
) -> Result:
    """Return the result of a model, given its evaluations; see `Result`."""
    metrics, last = {split: found.metrics for split, found in judged.items()}, list(judged.values())[-1]
    return Result(seed, metrics, seconds, setup.score(metrics["validation"]), training, last.confusion, last.by_label)


@torch.no_grad()
def load_average(model: Any, folders: Sequence[Path]) -> None:
    """Set the weights of a model to the means of those of saved models (model soups, Wortsman et al., 2022)."""
    kind: Any = type(model)
    # A model of sentence-transformers is loaded by its class, which would choose the GPU.
    transformers_model = isinstance(model, PreTrainedModel)
    load = partial(kind.from_pretrained, dtype=torch.float32) if transformers_model else partial(kind, device="cpu")
    totals: dict[str, torch.Tensor] = {}
    for folder in folders:
        for name, weight in load(str(folder)).state_dict().items():
            totals[name] = totals[name] + weight.double() if name in totals else weight.double()
    model.load_state_dict({name: (total / len(folders)).float() for name, total in totals.items()})


def judge_before_training(setup: Any, args: AdaptationArguments) -> dict[str, Evaluation]:
    """Evaluate the model before training on each split."""
    # The linear head is fitted to the cross-validated examples.
    splits = [split for split in ("validation", "test") if split not in setup.cross_validated]
    trainer = setup.trainer(args)
    show_table(trainer, setup.logged)
    if setup.linear is not None:
        setup.set_linear(trainer.model)
    judged = judge_splits(setup, trainer, splits)
    if setup.linear is not None and setup.run.model.tuning == "auto":
        setup.judged_linear = judged
    return judged


def baselines(setup: Any, judged: Mapping[str, Evaluation]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the metrics of each split before training, and those of the simple baselines that the task has."""
    before = {split: found.metrics for split, found in judged.items()}
    name = "before_training" if setup.linear is None else "linear_head"
    return {name: before, **setup.baselines()}


def search(run: Adaptation, setup: Any) -> dict[str, Any]:
    """Search the best learning rate, epochs and batch size with `Trainer.hyperparameter_search` and Optuna.

    A resumed search keeps its finished trials. Its later trials differ from those of an uninterrupted search, because
    the state of the sampler's random numbers is not saved.

    Raises:
        UsageError: If all trials diverge.
    """
    import optuna
    from optuna.trial import TrialState

    args = run.args
    metric = str(args.metric_for_best_model or "loss").removeprefix("eval_")
    # `AdaptationArguments` has set them.
    rate, epochs = cast(float, args.learning_rate), cast(float, args.num_train_epochs)
    study: dict[str, Any] = {
        "study_name": "search",
        "storage": f"sqlite:///{run.scratch / SEARCH}",
        "load_if_exists": True,
        "direction": "maximize" if args.greater_is_better else "minimize",
    }
    with args.main_process_first(local=args.save_on_each_node, desc="reading finished trials"):
        trials = optuna.create_study(**study).get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))

    def space(trial: Any) -> dict[str, Any]:
        return {
            "learning_rate": trial.suggest_float("learning_rate", rate / 10, 10 * rate, log=True),
            "num_train_epochs": trial.suggest_int("num_train_epochs", 1, max(2, round(2 * epochs))),
            "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [8, 16, 32, 64]),
        }

    trial_args = training_arguments(run, run.scratch / "search", args.seed, {"save_strategy": SaveStrategy.NO})
    try:
        trainer = setup.trainer(trial_args, with_model=False)
        # Optuna already logs a line for each trial.
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        best: Any = trainer.hyperparameter_search(
            hp_space=space,
            backend="optuna",
            n_trials=max(0, args.search_trials - len(trials)),
            compute_objective=lambda metrics: metrics[f"eval_{metric}"],
            sampler=optuna.samplers.TPESampler(seed=args.seed + len(trials)),
            catch=(DivergedError,),
            **study,
        )
    except ValueError as error:
        raise UsageError(f"--search_trials {args.search_trials}: {error}") from error
    return dict(best.hyperparameters)
