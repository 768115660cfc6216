"""Run `sequence-encoder adapt`: train an encoder for a task on examples, in one or several processes.

The output folder contains the model, its tokenizer, its card and `results.json`, and only appears when it is complete.
Until then, the folder that `scratch` describes keeps what `--resume` needs.
"""

from __future__ import annotations

import copy
import glob
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
from transformers import PrinterCallback, ProgressCallback, set_seed
from transformers.trainer_utils import SaveStrategy

from ...command_line import UsageError
from ...command_line.console import show_table
from ...command_line.counts import counted
from ...command_line.progress import Progress
from ...evaluation.calibrate_command import add_to_card
from ...evaluation.calibrating import CalibrationReport
from ...evaluation.label_errors import FILE, LabelErrors
from ...saving.model_files import FILES_WITH_TEXTS, model_files
from ...saving.staged_files import files_in
from ...saving.whole_folders import atomic_folder, check_replaceable
from ..arguments import HUB_ERRORS
from ..checkpoints import checkpoints_in, last_complete_checkpoint, remove_incomplete, train_with_cleanup
from ..hardware import peak_memory
from ..interruptions import GracefulStop
from .arguments import check_libraries
from .averaging import load_average
from .budget import keep_to_budget
from .calibration import calibrate_model, calibration_split, check_calibrated_model
from .callbacks import DivergedError
from .confusion_plot import plot_confusion
from .cross_validation import folds_of, is_cross_validated, out_of_fold, prefers_linear, without_evaluation
from .encoder import encoder_of
from .examples.loading import (
    hold_out,
    load_examples,
    number_texts,
    warn_about_contradictions,
    warn_about_shared_texts,
)
from .head_recipe import HeadRecipe
from .label_check import facts_of, list_label_errors
from .plan import PLANNED, in_words, plan_for, rate_for_width
from .report import Evaluation, Result, Results, errors_as_warnings, write_predictions
from .run import Adaptation, AdaptationArguments
from .scratch import (
    average_folder,
    digest_of,
    finished,
    fold_folder,
    is_finished,
    model_folder,
    progress_of,
    record,
    record_settings,
    scratch_of,
    search_storage,
    settings_of,
    training_folder,
)
from .similarity_recipe import SimilarityRecipe
from .tasks import HEAD_TASKS, WRITING_TASKS
from .without_labels import label_by_names, temper, with_names_in_turn
from .writing_recipe import WritingRecipe


def adapt(run: Adaptation) -> Results:
    """Fine-tune an encoder, from reading the examples to saving the model.

    Args:
        run: The arguments of the run.

    Returns:
        The results of all training runs. If `resume` is set and the run is finished, nothing is trained again.

    Raises:
        FileExistsError: If the output folder is not empty and `overwrite` is not set, or it contains something other
            than a model; or if there is an interrupted run and neither `resume` nor `overwrite` is set.
        KeyboardInterrupt: If the user interrupts the run. The message says what is kept and how to resume.
        UsageError: If the task cannot use the examples, or arguments contradict each other. Both are found before
            anything is computed.
    """
    check_libraries(run.model, run.args)
    try:
        with GracefulStop().watch():
            return _adapt(run)
    except KeyboardInterrupt as interruption:
        raise KeyboardInterrupt(progress_of(run)) from interruption


def _adapt(run: Adaptation) -> Results:
    args, started = run.args, time.perf_counter()
    may_be_finished = args.resume and (run.output / "results.json").exists()
    check_output(run, may_be_finished)
    recipe, labelling = read_examples(run), {}
    calibrated_on = calibration_split(run, recipe.task, recipe.rows, bool(recipe.folds))
    settings = settings_of(run, recipe.rows)
    done = may_be_finished and is_finished(run, settings)
    if not done:
        check_output(run)
    with scratch_of(run, settings) as resumed:
        if done:
            if args.process_index == 0:
                print(f"The run in {run.output.resolve()} is finished.")
            if args.should_save and args.push_to_hub:
                push(run, model_files(run.output))
            return Results(run.model.task, run.model.tuning, run.args.masked_tuning)
        if args.resume and not resumed and args.should_save:
            print(f"--resume found no interrupted run for {run.output}; starting a new one.")
        with args.main_process_first(local=args.save_on_each_node, desc="preparing"):
            any_family = run.model.tuning == "adapter"
            set_seed(args.seed)
            checkpoint, tokenizer = encoder_of(
                run.model.from_checkpoint,
                run.scratch / "base",
                any_family,
                args.should_save and not resumed,
                with_head=run.model.task in WRITING_TASKS,
            )
            if args.should_save:
                record_settings(run, settings)
            if run.data.labels is not None:
                labelling = label_by_names(recipe, checkpoint, tokenizer)
            with Progress("Tokenising the examples", show=args.process_index == 0 and not args.disable_tqdm):
                recipe.prepare(checkpoint, tokenizer)
            if run.model.tuning in PLANNED and "learning_rate" in args.planned:
                args.learning_rate = rate_for_width(cast(float, args.learning_rate), recipe.hidden_size)
            calibrated_on = check_calibrated_model(run, recipe, calibrated_on)
        if args.process_index == 0:
            if run.model.tuning in PLANNED and (plan := in_words(args, args.planned, len(recipe.rows["train"]))):
                print(plan)
            for split, cut in recipe.cut.items():
                print(f"{split}: {counted(len(recipe.rows[split]), 'example')}; {cut.in_words(recipe.max_length)}.")
        results = finished(run)
        results.run, results.labelling = digest_of(settings), labelling
        if results.tuning == "auto" and not recipe.folds:
            results.tuning = "linear" if labelling else "full"
        results.labels, results.cut = recipe.labels, {split: asdict(cut) for split, cut in recipe.cut.items()}
        if args.search_trials and not results.found:
            results.found = search(run, recipe)
            record(run, results)
        if args.seconds and results.tuning != "linear" and not results.trainings:
            keep_to_budget(run, recipe, results, started)
        trained = {result.seed for result in results.trainings}
        for seed in range(args.seed, args.seed + args.seeds):
            if seed not in trained:
                train(run, recipe, seed, results)
        if args.average_seeds and results.average is None:
            average(run, recipe, results)
        if args.should_save:
            calibration: CalibrationReport | None = None
            doubts: LabelErrors | None = None
            with atomic_folder(run.output, args.overwrite, "--overwrite") as written:
                kept = average_folder(run) if results.average else model_folder(run, results.best.seed)
                shutil.copytree(kept, written, dirs_exist_ok=True)
                if calibrated_on is not None:
                    with errors_as_warnings("the calibration"):
                        calibration = calibrate_model(recipe, calibrated_on, written, results)
                        results.calibration = calibration.calibration.facts
                with errors_as_warnings("the list of labels that look wrong"):
                    doubts = list_label_errors(recipe, written)
                    results.label_errors = facts_of(doubts)
                for runs in run.scratch.glob("trainings/*/runs"):
                    shutil.copytree(runs, written / "runs", dirs_exist_ok=True)
                (written / "results.json").write_text(results.as_json(), encoding="utf-8")
                with errors_as_warnings("the model card"):
                    recipe.write_cards(results, written)
                    if calibration is not None:
                        add_to_card(written, calibration)
                with errors_as_warnings("the picture of the confusion matrix"):
                    plot_confusion(results, written / "confusion_matrix.png")
                files = files_in(written)
    if args.should_save:
        print(results.as_text())
        if calibration is not None:
            print(calibration)
        if doubts is not None and doubts.found:
            print(f"{doubts} See {run.output / FILE}.")
        print(f"Saved in {run.output.resolve()}.")
        if args.push_to_hub:
            push(run, files)
    return results


def check_output(run: Adaptation, may_be_finished: bool = False) -> None:
    """Check that the run may write the output folder.

    Args:
        run: The arguments of the run.
        may_be_finished: Whether the folder may already contain the finished run.

    Raises:
        FileExistsError: If the folder contains something that must not be replaced.
        OSError: If the folder cannot be written.
    """
    if run.args.should_save:
        for kept in (run.model.from_checkpoint, run.model.from_adapter):
            replace = run.args.overwrite or may_be_finished
            check_replaceable(run.output, replace, "--overwrite", Path(kept) if kept else None)


def read_examples(run: Adaptation) -> HeadRecipe | SimilarityRecipe:
    """Read the examples, and check everything that can be checked without an encoder."""
    with run.args.main_process_first(local=run.args.save_on_each_node, desc="reading examples"):
        examples = load_examples(run.data)
        if run.data.labels is not None:
            examples = with_names_in_turn(run, examples)
        kinds = {**dict.fromkeys(HEAD_TASKS, HeadRecipe), **dict.fromkeys(WRITING_TASKS, WritingRecipe)}
        recipe = kinds.get(run.model.task, SimilarityRecipe)(run, examples)
        # The recipe has read the labels before, since a rare label may be held out.
        classes = recipe.classes
        train = recipe.rows["train"]
        if classes is not None and run.args.should_save and run.data.labels is None:
            warn_about_contradictions(run.data, number_texts(train, recipe.task.texts), classes)
        if recipe.can_start_linear and is_cross_validated(run, recipe.rows):
            recipe.folds = folds_of(classes, number_texts(train, recipe.task.texts), run.args.seed)
            recipe.rows = {**recipe.rows, "validation": train.select(np.concatenate(recipe.folds))}
        else:
            recipe.rows, recipe.positions = hold_out(recipe.rows, run.data, run.args.seed, classes)
        if run.data.labels is not None and run.model.tuning == "auto":
            # Only the head is fitted.
            run.args.planned = []
        elif run.model.tuning in PLANNED:
            planned = plan_for(
                len(recipe.rows["train"]),
                run.args.world_size,
                steps_of(run, recipe),
                starts_linear=recipe.can_start_linear,
                is_embedding=run.model.task == "embedding",
            )
            for name in run.args.planned:
                setattr(run.args, name, planned[name])
        if run.args.should_save:
            others = [split for split in recipe.rows if split != "train" and split not in recipe.cross_validated]
            warn_about_shared_texts(recipe.rows, recipe.task.texts, others)
        return recipe


def steps_of(run: Adaptation, recipe: Any) -> float | None:
    """Return the number of steps if the user has set it or the number of epochs, else None."""
    args = run.args
    if args.max_steps > 0:
        return args.max_steps
    if "num_train_epochs" in args.planned:
        return None
    batch = cast(int, args.per_device_train_batch_size) * args.world_size
    return cast(float, args.num_train_epochs) * len(recipe.rows["train"]) / batch


def train(run: Adaptation, recipe: Any, seed: int, results: Results) -> None:
    """Run or resume one training run, and keep its model in the scratch folder if it is the best so far."""
    folder = training_folder(run, seed)
    args = _arguments(run, folder, seed, results.found)
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
        linear, results.choice = prefers_linear(recipe.task.problem_type, found, labels)
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
    args = _arguments(run, training_folder(run, run.args.seed), run.args.seed, results.found)
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


def search(run: Adaptation, recipe: Any) -> dict[str, Any]:
    """Search the learning rate, the epochs and the batch size with `Trainer.hyperparameter_search` and Optuna.

    A resumed search keeps its finished trials. Its later trials differ from those of an uninterrupted search, because
    the state of the sampler's random numbers is not saved.

    Args:
        run: The arguments of the run.
        recipe: The recipe that builds the `Trainer`.

    Returns:
        The best hyperparameters.

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
        "storage": search_storage(run),
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

    trial_args = _arguments(run, run.scratch / "search", args.seed, {"save_strategy": SaveStrategy.NO})
    try:
        trainer = recipe.trainer(trial_args, with_model=False)
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


def push(run: Adaptation, files: set[str]) -> None:
    """Upload files of the output folder to the Hub in one commit.

    Args:
        run: The arguments of the run.
        files: The files that the run wrote. Other files in the folder belong to the user and are not uploaded, and
            neither are those that contain texts of the user.

    Raises:
        UsageError: If the upload fails.
    """
    from huggingface_hub import HfApi

    args = run.args
    api = HfApi(token=args.hub_token)
    try:
        repo = api.create_repo(args.hub_model_id or run.output.name, private=args.hub_private_repo, exist_ok=True)
        api.upload_folder(
            repo_id=repo.repo_id,
            folder_path=run.output,
            allow_patterns=[glob.escape(name) for name in sorted(files - FILES_WITH_TEXTS)],
            commit_message=f"Adapted to {run.model.task}",
        )
    except HUB_ERRORS as error:
        raise UsageError(f"the model is saved in {run.output}, but could not be pushed to the Hub: {error}") from error


def _arguments(run: Adaptation, folder: Path, seed: int, changed: dict[str, Any]) -> AdaptationArguments:
    """Return the arguments of one training run, whose `Trainer` writes into `folder` and does not push."""
    args = copy.deepcopy(run.args)
    args.seed, args.push_to_hub, args.output_dir = seed, False, str(folder)
    for name, value in changed.items():
        setattr(args, name, value)
    return args
