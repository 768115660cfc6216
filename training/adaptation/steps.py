"""The steps of an adaptation, from reading the examples to saving the model, in one or several processes.

The output folder contains the model, its tokenizer, its card and `results.json`, and only appears when it is complete.
Until then, the folder that `scratch` describes keeps what `--resume` needs.
"""

from __future__ import annotations

import glob
import shutil
from collections.abc import Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
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
from .calibration import calibrate_model, calibration_split, check_calibrated_model
from .encoder import encoder_of
from .examples.cross_validation import fits_only_head, folds_of, is_cross_validated
from .examples.label_names import label_by_names, read_class_names, with_names_in_turn
from .examples.loading import (
    hold_out,
    lacks_pairs,
    load_examples,
    number_texts,
    warn_about_contradictions,
    warn_about_shared_texts,
    with_made_pairs,
)
from .examples.unlabelled_texts import check_unlabelled, learn_from_unlabelled
from .label_check import facts_of, list_label_errors
from .plan import FALLBACK, MANY_EXAMPLES, PLANNED, Plan, plan_for, rate_for
from .report import Results, errors_as_warnings, plot_confusion
from .run import Adaptation
from .runs.budget import keep_to_budget
from .runs.scratch import (
    digest_of,
    finished,
    is_finished,
    progress_of,
    record,
    record_settings,
    scratch_of,
    settings_of,
)
from .runs.training import average, search, train
from .setups import SETUPS, Setup


@dataclass(frozen=True)
class Adapted:
    """What a run has trained.

    Attributes:
        plan: What it trained, on what and why.
        results: The results of all training runs; empty if the run was already finished.
        files: The files that it wrote into the output folder.
        text: What the console shows; empty in processes that print nothing.
    """

    plan: Plan
    results: Results
    files: frozenset[str] = frozenset()
    text: str = ""


def run_adaptation(run: Adaptation) -> Adapted:
    """Fine-tune an encoder, from reading the examples to saving the model.

    Args:
        run: The arguments of the run.

    Returns:
        What was trained. If `resume` is set and the run is finished, nothing is trained again.

    Raises:
        FileExistsError: If the output folder is not empty and `overwrite` is not set, or it contains something other
            than a model; or if there is an interrupted run and neither `resume` nor `overwrite` is set.
        KeyboardInterrupt: If the user interrupts the run. The message says what is kept and how to resume.
        UsageError: If the task cannot use the examples, or arguments contradict each other. Both are found before
            anything is computed.
    """
    try:
        with GracefulStop().watch():
            return _run_steps(run)
    except KeyboardInterrupt as interruption:
        raise KeyboardInterrupt(progress_of(run)) from interruption


def _run_steps(run: Adaptation) -> Adapted:
    started = command_start()
    check_output(run, may_be_finished=run.args.resume and (run.output / "results.json").exists())
    setup = read_examples(run)
    plan = decide(run, setup)
    if not plan.is_finished:
        check_output(run)
    with scratch_of(run, plan.settings) as resumed:
        if plan.is_finished:
            return describe_finished(run, plan)
        plan = prepare(run, plan, setup, resumed)
        results = start_results(run, plan, setup)
        choose_options(run, plan, setup, results, started)
        train_all(run, plan, setup, results)
        return save(run, plan, setup, results) if run.args.should_save else Adapted(plan, results)


# Decide.


def read_examples(run: Adaptation) -> Setup:
    """Read the examples, and check everything that can be checked without an encoder."""
    with run.args.main_process_first(local=run.args.save_on_each_node, desc="reading examples"):
        examples = load_examples(run.data)
        unlabelled = examples.pop("unlabelled", None)
        names = None if run.data.label_names_file is None else read_class_names(run.data)
        if names is not None and run.data.lacks_labels:
            examples = with_names_in_turn(run, examples, names.names)
        examples, made_pairs = with_made_pairs(run, examples) if lacks_pairs(run, examples) else (examples, {})
        setup = SETUPS[run.model.task](run, examples)
        setup.class_names, setup.made_pairs = names, made_pairs
        setup.unlabelled = None if unlabelled is None else check_unlabelled(setup, unlabelled)
        return setup


def decide(run: Adaptation, setup: Setup) -> Plan:
    """Return the plan of a run, given the setup that has read its examples."""
    args = run.args
    with args.main_process_first(local=args.save_on_each_node, desc="dividing examples"):
        judged_by = choose_validation(run, setup)
        plan_options(run, setup)
        if args.should_save:
            others = [split for split in setup.rows if split != "train" and split not in setup.cross_validated]
            warn_about_shared_texts(setup.rows, setup.task.texts, others)
    calibrated_on = calibration_split(setup)
    settings = settings_of(run, setup.rows, setup.unlabelled, setup.class_names)
    return Plan(
        model=run.model.model,
        task=run.model.task,
        tuning=run.model.tuning,
        output=run.output,
        examples={split: len(rows) for split, rows in setup.rows.items()},
        judged_by=judged_by,
        options=_options_of(run),
        planned=tuple(args.planned),
        seeds=tuple(range(args.seed, args.seed + args.seeds)),
        search_trials=args.search_trials,
        seconds=args.seconds,
        calibrated_on=calibrated_on,
        settings=settings,
        is_finished=args.resume and is_finished(run, settings),
    )


def choose_validation(run: Adaptation, setup: Setup) -> str:
    """Split the training examples into folds, or hold out some of them, unless there are validation examples.

    Returns:
        What the model is judged by, and why.
    """
    # The setup has read the labels before, since a rare label may be held out.
    classes, train = setup.classes, setup.rows["train"]
    if classes is not None and run.args.should_save and not run.data.lacks_labels:
        warn_about_contradictions(run.data, number_texts(train, setup.task.texts), classes)
    if setup.can_start_linear and is_cross_validated(run, setup.rows):
        setup.folds = folds_of(classes, number_texts(train, setup.task.texts), run.args.seed)
        setup.rows = {**setup.rows, "validation": train.select(np.concatenate(setup.folds))}
        parts = f"{len(setup.folds)} folds" if len(setup.folds) > 1 else "a part"
        return (
            f"cross-validation on {parts} of the training examples, because these are fewer than {MANY_EXAMPLES:,} "
            "and there are no others"
        )
    given = "validation" in setup.rows
    setup.rows, setup.positions = hold_out(setup.rows, run.data, run.args.seed, classes)
    if "validation" in setup.made_pairs:
        return "pairs made from texts that are not trained on"
    return "the validation examples" if given else "training examples that are held out, because there are no others"


def plan_options(run: Adaptation, setup: Setup) -> None:
    """Set the options that the user has not set by the number of training examples."""
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
            makes_pairs=bool(setup.made_pairs),
        )
        for name in run.args.planned:
            setattr(run.args, name, planned[name])


def _options_of(run: Adaptation) -> dict[str, Any]:
    return {name: getattr(run.args, name) for name in FALLBACK}


# Run.


def describe_finished(run: Adaptation, plan: Plan) -> Adapted:
    """Return that an earlier run has already done all."""
    said = f"The run in {run.output.resolve()} is finished." if run.args.process_index == 0 else ""
    files = frozenset(model_files(run.output)) if run.args.should_save else frozenset()
    return Adapted(plan, Results(run.model.task, run.model.tuning, run.args.masked_tuning), files, said)


def prepare(run: Adaptation, plan: Plan, setup: Setup, resumed: bool) -> Plan:
    """Load the encoder, and encode the examples for it.

    Returns:
        The plan, with the learning rate for this encoder, and without a calibration that it does not support.
    """
    args, calibrated_on = run.args, plan.calibrated_on
    if args.resume and not resumed and args.should_save:
        print(f"--resume found no interrupted run for {run.output}; starting a new one.")
    with args.main_process_first(local=args.save_on_each_node, desc="preparing"):
        set_seed(args.seed)
        may_write = args.should_save and not resumed
        any_family = run.model.tuning == "adapter"
        checkpoint, tokenizer = encoder_of(run.model.model, run.scratch / "base", any_family, may_write, run.model.task)
        record_settings(run, plan.settings)
        if run.data.lacks_labels:
            setup.labelling = label_by_names(setup, checkpoint, tokenizer)
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
    return replace(plan, options=_options_of(run), calibrated_on=calibrated_on)


def start_results(run: Adaptation, plan: Plan, setup: Setup) -> Results:
    """Return the results of an interrupted run, or new ones, with what is known about the examples."""
    results = finished(run)
    results.run, results.labelling = digest_of(plan.settings), setup.labelling
    results.unlabelled, results.made_pairs = learn_from_unlabelled(setup), setup.made_pairs
    if results.tuning == "auto" and not setup.folds:
        results.tuning = "linear" if setup.labelling else "full"
    results.labels, results.cut = setup.labels, {split: asdict(cut) for split, cut in setup.cut.items()}
    return results


def choose_options(run: Adaptation, plan: Plan, setup: Setup, results: Results, started: float) -> None:
    """Search for better options, or shorten the training to the time that there is. `results.found` gets the options.

    The run has `started` at this time of `time.perf_counter`.
    """
    if plan.search_trials and not results.found:
        results.found = search(run, setup)
        record(run, results)
    if plan.seconds and results.tuning != "linear":
        keep_to_budget(run, setup, results, started, plan.calibrated_on)
    results.searched = setup.searched
    shows = run.args.process_index == 0 and plan.tuning in PLANNED and not fits_only_head(setup, results)
    if shows and plan.choices:
        print(plan.choices)


def train_all(run: Adaptation, plan: Plan, setup: Setup, results: Results) -> None:
    """Run the training of each seed that is not finished, and average their weights if the user wants that."""
    trained = {result.seed for result in results.trainings}
    for seed in plan.seeds:
        if seed not in trained:
            train(run, setup, seed, results)
    if run.args.average_seeds and results.average is None:
        average(run, setup, results)


def save(run: Adaptation, plan: Plan, setup: Setup, results: Results) -> Adapted:
    """Write the kept model into the output folder, calibrated, with its report and its card."""
    calibration: CalibrationReport | None = None
    doubts: LabelErrors | None = None
    with atomic_folder(run.output, run.args.overwrite, "--overwrite") as written:
        kept = "average" if results.average else str(results.best.seed)
        shutil.copytree(run.scratch / "models" / kept, written, dirs_exist_ok=True)
        if plan.calibrated_on is not None:
            with errors_as_warnings("the calibration"):
                calibration = calibrate_model(setup, plan.calibrated_on, written, results)
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
        files = frozenset(files_in(written))
    said = [results.as_text(), *([] if calibration is None else [str(calibration)])]
    if doubts is not None and doubts.found:
        said.append(f"{doubts} See {run.output / FILE}.")
    return Adapted(plan, results, files, "\n".join([*said, f"Saved in {run.output.resolve()}."]))


def steps_of(run: Adaptation, setup: Setup) -> float | None:
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


def push(run: Adaptation, files: Set[str]) -> None:
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
