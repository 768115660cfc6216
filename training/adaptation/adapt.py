"""Run `sequence-encoder adapt`: train an encoder for a task on examples, in one or several processes.

The output folder contains the model, its tokenizer, its card and `results.json`, and only appears when it is complete.
Until then, the folder that `scratch` describes keeps what `--resume` needs.
"""

from __future__ import annotations

import glob
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
from accelerate import PartialState
from transformers import set_seed

from ...command_line import UsageError
from ...command_line.clock import command_start
from ...command_line.counts import counted
from ...command_line.progress import Progress
from ...evaluation.calibration.calibrating import CalibrationReport
from ...evaluation.calibration.command import add_to_card
from ...evaluation.label_errors import FILE, LabelErrors
from ...modeling.text_encoding.recipe_files import read_recipe
from ...saving.model_files import FILES_WITH_TEXTS, model_files
from ...saving.staged_files import files_in
from ...saving.whole_folders import atomic_folder, check_replaceable
from ..arguments import HUB_ERRORS
from ..interruptions import GracefulStop
from .budget import keep_to_budget
from .calibration import calibrate_model, calibration_split, check_calibrated_model
from .cross_validation import fits_only_head, folds_of, is_cross_validated
from .encoder import encoder_of
from .examples import hold_out, load_examples, number_texts, warn_about_contradictions, warn_about_shared_texts
from .extraction_setup import ExtractionSetup
from .head_setup import HeadSetup
from .hyperparameter_search import search
from .label_check import facts_of, list_label_errors
from .plan import PLANNED, in_words, plan_for, rate_for
from .report import Results, errors_as_warnings, plot_confusion
from .run import Adaptation, parse
from .scratch import (
    digest_of,
    finished,
    is_finished,
    progress_of,
    record,
    record_settings,
    scratch_of,
    settings_of,
)
from .similarity_setup import SimilaritySetup
from .tasks import EXTRACTION_TASKS, HEAD_TASKS, WRITING_TASKS
from .training_runs import average, train
from .unlabelled_texts import check_unlabelled, learn_from_unlabelled
from .without_labels import label_by_names, read_class_names, with_names_in_turn
from .without_pairs import lacks_pairs, with_made_pairs
from .writing_setup import WritingSetup


def run_command(arguments: list[str]) -> None:
    """Run `sequence-encoder adapt`."""
    adapt(parse(arguments))
    PartialState().destroy_process_group()


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
    try:
        with GracefulStop().watch():
            return _adapt(run)
    except KeyboardInterrupt as interruption:
        raise KeyboardInterrupt(progress_of(run)) from interruption


def _adapt(run: Adaptation) -> Results:
    args, started = run.args, command_start()
    may_be_finished = args.resume and (run.output / "results.json").exists()
    check_output(run, may_be_finished)
    setup, labelling = read_examples(run), {}
    calibrated_on = calibration_split(setup)
    settings = settings_of(run, setup.rows, setup.unlabelled, setup.class_names)
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
                run.model.model,
                run.scratch / "base",
                any_family,
                args.should_save and not resumed,
                run.model.task,
            )
            record_settings(run, settings)
            if run.data.lacks_labels:
                labelling = label_by_names(setup, checkpoint, tokenizer)
            with Progress("Tokenising the examples", show=args.process_index == 0 and not args.disable_tqdm):
                setup.prepare(checkpoint, tokenizer)
            if run.model.tuning in PLANNED and "learning_rate" in args.planned:
                knows = run.model.task == "embedding" and read_recipe(checkpoint) is not None
                rate = cast(float, args.learning_rate)
                args.learning_rate = rate_for(rate, setup.hidden_size, knows, bool(setup.made_pairs))
            calibrated_on = check_calibrated_model(setup, calibrated_on)
        if args.process_index == 0:
            for split, cut in setup.cut.items():
                print(f"{split}: {counted(len(setup.rows[split]), 'example')}; {cut.in_words(setup.max_length)}.")
        results = finished(run)
        results.run, results.labelling = digest_of(settings), labelling
        results.unlabelled, results.made_pairs = learn_from_unlabelled(setup), setup.made_pairs
        if results.tuning == "auto" and not setup.folds:
            results.tuning = "linear" if labelling else "full"
        results.labels, results.cut = setup.labels, {split: asdict(cut) for split, cut in setup.cut.items()}
        if args.search_trials and not results.found:
            results.found = search(run, setup)
            record(run, results)
        if args.seconds and results.tuning != "linear":
            keep_to_budget(run, setup, results, started, calibrated_on)
        results.searched = setup.searched
        if args.process_index == 0 and run.model.tuning in PLANNED and not fits_only_head(setup, results):
            print(in_words(args, args.planned, len(setup.rows["train"])), end="")
        trained = {result.seed for result in results.trainings}
        for seed in range(args.seed, args.seed + args.seeds):
            if seed not in trained:
                train(run, setup, seed, results)
        if args.average_seeds and results.average is None:
            average(run, setup, results)
        if args.should_save:
            calibration: CalibrationReport | None = None
            doubts: LabelErrors | None = None
            with atomic_folder(run.output, args.overwrite, "--overwrite") as written:
                kept = "average" if results.average else str(results.best.seed)
                shutil.copytree(run.scratch / "models" / kept, written, dirs_exist_ok=True)
                if calibrated_on is not None:
                    with errors_as_warnings("the calibration"):
                        calibration = calibrate_model(setup, calibrated_on, written, results)
                        results.calibration = calibration.calibration.facts
                with errors_as_warnings("the list of labels that look wrong"):
                    doubts = list_label_errors(setup, written)
                    results.label_errors = facts_of(doubts)
                for runs in run.scratch.glob("trainings/*/runs"):
                    shutil.copytree(runs, written / "runs", dirs_exist_ok=True)
                (written / "results.json").write_text(results.as_json(), encoding="utf-8")
                with errors_as_warnings("the model card"):
                    setup.write_cards(results, written)
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


def read_examples(run: Adaptation) -> HeadSetup | SimilaritySetup:
    """Read the examples, and check everything that can be checked without an encoder."""
    with run.args.main_process_first(local=run.args.save_on_each_node, desc="reading examples"):
        examples = load_examples(run.data)
        unlabelled = examples.pop("unlabelled", None)
        names = None if run.data.label_names_file is None else read_class_names(run.data)
        if names is not None and run.data.lacks_labels:
            examples = with_names_in_turn(run, examples, names.names)
        examples, made_pairs = with_made_pairs(run, examples) if lacks_pairs(run, examples) else (examples, {})
        kinds = {
            **dict.fromkeys(HEAD_TASKS, HeadSetup),
            **dict.fromkeys(EXTRACTION_TASKS, ExtractionSetup),
            **dict.fromkeys(WRITING_TASKS, WritingSetup),
        }
        setup = kinds.get(run.model.task, SimilaritySetup)(run, examples)
        setup.class_names, setup.made_pairs = names, made_pairs
        setup.unlabelled = None if unlabelled is None else check_unlabelled(setup, unlabelled)
        # The setup has read the labels before, since a rare label may be held out.
        classes = setup.classes
        train = setup.rows["train"]
        if classes is not None and run.args.should_save and not run.data.lacks_labels:
            warn_about_contradictions(run.data, number_texts(train, setup.task.texts), classes)
        if setup.can_start_linear and is_cross_validated(run, setup.rows):
            setup.folds = folds_of(classes, number_texts(train, setup.task.texts), run.args.seed)
            setup.rows = {**setup.rows, "validation": train.select(np.concatenate(setup.folds))}
        else:
            setup.rows, setup.positions = hold_out(setup.rows, run.data, run.args.seed, classes)
        if run.data.lacks_labels and run.model.tuning == "auto":
            # Only the head is fitted.
            run.args.planned = []
        elif run.model.tuning in PLANNED:
            planned = plan_for(
                len(setup.rows["train"]),
                run.args.world_size,
                steps_of(run, setup),
                starts_linear=setup.can_start_linear,
                is_embedding=run.model.task == "embedding",
                makes_pairs=bool(made_pairs),
            )
            for name in run.args.planned:
                setattr(run.args, name, planned[name])
        if run.args.should_save:
            others = [split for split in setup.rows if split != "train" and split not in setup.cross_validated]
            warn_about_shared_texts(setup.rows, setup.task.texts, others)
        return setup


def steps_of(run: Adaptation, setup: Any) -> float | None:
    """Return the number of steps if the user has set it or the number of epochs, else None."""
    args = run.args
    if args.max_steps > 0:
        return args.max_steps
    if "num_train_epochs" in args.planned:
        return None
    batch = cast(int, args.per_device_train_batch_size) * args.world_size
    return cast(float, args.num_train_epochs) * len(setup.rows["train"]) / batch


def check_output(run: Adaptation, may_be_finished: bool = False) -> None:
    """Check that the run may write the output folder, which may already contain the finished run.

    Raises:
        FileExistsError: If the folder contains something that must not be replaced.
        OSError: If the folder cannot be written.
    """
    if run.args.should_save:
        for kept in (run.model.model, run.model.from_adapter):
            replace = run.args.overwrite or may_be_finished
            check_replaceable(run.output, replace, "--overwrite", Path(kept) if kept else None)


def push(run: Adaptation, files: set[str]) -> None:
    """Upload the files that a run wrote to the Hub in one commit, except those that contain texts of the user.

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
