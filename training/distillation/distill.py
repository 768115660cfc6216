"""Run `sequence-encoder distill`: compute the outputs of a teacher once, and train a smaller student on them.

The output folder contains the student, its tokenizer, its card and `distillation.json`, and only appears when it is
complete. Until then, a scratch folder next to it keeps what `--resume` needs:

.NAME-distillation/
  lock, settings.json   as in `adaptation/runs/scratch.py`
  plan.json             the layers, and the share of the texts and the number of steps that fit into `--seconds`
  teacher/              what the teacher has computed, as `embed` writes it
  texts/                the same, mapped into memory
  trainings/student/    the checkpoints
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from transformers import set_seed
from transformers.trainer_utils import IntervalStrategy

from ...command_line import UsageError
from ...command_line.clock import command_start
from ...command_line.console import show_table
from ...command_line.counts import counted
from ...data.token_batches import TokenBudgetCollator, TokenBudgetDataset
from ...inference.corpora.arguments import PathOrName, RowArguments, arguments_of
from ...inference.corpora.run import Run
from ...saving.whole_folders import atomic_folder, check_replaceable, write_atomically
from ..adaptation.runs.callbacks import callbacks_of
from ..adaptation.runs.scratch import digest_of, has_progress, record_settings, scratch_of, settings_of
from ..checkpoints import last_complete_checkpoint, remove_incomplete, train_with_cleanup
from ..hub_trainer import HubTrainer
from ..interruptions import GracefulStop
from ..sparse_embeddings import with_sparse_embeddings
from ..trials import affordable_steps, trial_arguments
from .arguments import DISTILL
from .initial_student import average_with_start, initial_student, rate_of
from .labelled import LabelledTexts, read_labelled
from .objectives import SimilarityObjective, VectorObjective
from .report import Report, compare, compare_static, write_student
from .run import KINDS, Distillation, DistillationArguments, parse
from .static_student import distill_static
from .student import Student, with_dropout_of
from .teacher import Teacher, load_teacher, prepared_computation
from .teacher_outputs import TARGET
from .texts import LONGEST_JOINED, Collator, SampledRows, affordable_share, read_outputs, read_vectors

_PLAN, RESULTS = "plan.json", "distillation.json"
# Number of texts in a shard of what the teacher computes.
_SHARD_ROWS = 2048
# The share of `--seconds` that the teacher may take, also for a static student, which learns much faster.
_OF_TEACHER, _OF_TEACHER_OF_STATIC = 1 / 3, 2 / 3


def run_command(arguments: list[str]) -> None:
    """Run `sequence-encoder distill`."""
    run_distillation(parse(arguments))


def distill(
    model: PathOrName, corpus: PathOrName | None = None, output_dir: PathOrName = "distilled", **options: Any
) -> Report:
    """Make a smaller and faster model from a trained one, as `sequence-encoder distill`.

    Args:
        model: The folder or the Hub id of the teacher.
        corpus: A file, folder, pattern or Hub dataset. Only a static student needs none.
        output_dir: The folder to write.
        **options: The options of the command, by their names.

    Returns:
        The size, the quality and the speed of the student beside its teacher.

    Raises:
        ValueError: If an option is not allowed, or the teacher cannot be distilled.
        FileExistsError: If the folder must not be replaced, or there is an interrupted run and neither `resume` nor
            `overwrite` is set.
    """
    given = {"model": model, "corpus": corpus, "output_dir": output_dir, **options}
    return run_distillation(Distillation(*arguments_of(DISTILL, given, KINDS)))


def run_distillation(run: Distillation) -> Report:
    """Run a distillation, from reading the teacher to saving the student. See `distill`."""
    try:
        with GracefulStop().watch():
            return _distill(run)
    except KeyboardInterrupt as interruption:
        raise KeyboardInterrupt(_progress_of(run)) from interruption


@dataclass(frozen=True)
class Plan:
    """What a run decides before it trains, which `plan.json` keeps for a resumed run. None is not decided yet.

    Attributes:
        share: The share of the texts that the teacher reads.
        computed: Whether the teacher has read them.
        layers: The layers of the teacher that the student starts from, none for a pretrained student.
        steps: The number of training steps that fit into `--seconds`.
    """

    share: float | None = None
    computed: bool = False
    layers: list[int] | None = None
    steps: int | None = None

    @classmethod
    def of(cls, run: Distillation) -> Plan:
        """Return the plan of an interrupted run, or an empty one."""
        file = run.scratch / _PLAN
        return cls(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else cls()

    def decide(self, run: Distillation, **decisions: Any) -> Plan:
        """Return the plan with further decisions, which it also writes."""
        plan = dataclasses.replace(self, **decisions)
        decided = {name: value for name, value in dataclasses.asdict(plan).items() if value is not None}
        write_atomically(run.scratch / _PLAN, [json.dumps(decided)])
        return plan


@dataclass(frozen=True)
class _Start:
    """What a run reads before it computes anything.

    Attributes:
        teacher: The teacher, and the pretrained student, if there is one.
        labelled: The texts of `--test_file`.
        settings: What must not change when the run is resumed.
        started: When the command started, by `time.perf_counter`.
    """

    teacher: Teacher
    labelled: LabelledTexts | None
    settings: dict[str, Any]
    started: float

    @property
    def digest(self) -> str:
        """The digest that identifies the run in its report."""
        return digest_of(self.settings)


def _distill(run: Distillation) -> Report:
    args, started = run.args, command_start()
    earlier = Report.read(run.output / RESULTS) if args.resume else None
    for read in filter(None, (run.model.model, run.model.student)):
        check_replaceable(run.output, args.overwrite or earlier is not None, "--overwrite", Path(read))
    start = _start(run, started)
    if earlier is not None and earlier.run == start.digest:
        print(f"The run in {run.output.resolve()} is finished.")
        return earlier
    check_replaceable(run.output, args.overwrite, "--overwrite")
    with scratch_of(run, start.settings) as resumed:
        if args.resume and not resumed:
            print(f"--resume found no interrupted run for {run.output}; starting a new one.")
        record_settings(run, start.settings)
        set_seed(args.seed)
        return _make_static(run, start) if run.model.static else _make_smaller(run, start, resumed)


def _start(run: Distillation, started: float) -> _Start:
    """Load the teacher and the labelled texts, and check the options against them."""
    teacher = load_teacher(run)
    names = [str(name) for _, name in sorted((cast(Any, teacher.model.config).id2label or {}).items())]
    labelled = read_labelled(run.data, teacher.objective, names)
    if run.model.static and not isinstance(teacher.objective, VectorObjective):
        raise UsageError(
            f"--static needs a sentence encoder, got a {type(teacher.model).__name__}; name a static encoder with "
            "--student instead."
        )
    if run.args.learning_rate is None:
        run.args.learning_rate = rate_of(teacher)
    settings = settings_of(run, {}) | {"content of the teacher": teacher.source.identity}
    if teacher.student is not None:
        settings["content of the student"] = teacher.student.source.identity
    return _Start(teacher, labelled, settings, started)


def _make_smaller(run: Distillation, start: _Start, resumed: bool) -> Report:
    """Train a student with layers on the outputs of the teacher, and save it."""
    teacher = start.teacher
    plan = _compute_outputs(run, teacher)
    by_query = run.data.text_pair_column is not None
    texts = read_outputs(run.scratch / "teacher", run.scratch / "texts", run.args.seed, by_query)
    if not resumed:
        what = counted(texts.count, "pair" if by_query else "text")
        tokens = counted(sum(texts.lengths), "token")
        print(f"{what} of {tokens} to learn from, {len(texts.held_out):,} held out.")
    initial, layers = initial_student(run, teacher, texts, plan.layers)
    plan = plan.decide(run, layers=layers)
    teacher.loaded = None  # Nothing needs it during the training.
    batches = TokenBudgetDataset(texts.units, run.args.max_tokens, run.args.seed, texts.lengths)

    def trainer_of(own: DistillationArguments, checkpoint: Path | None = None) -> HubTrainer:
        student = Student(copy.deepcopy(initial), teacher.objective)
        return _trainer(own, student, batches, texts.held_out, checkpoint)

    if run.args.max_steps <= 0:
        if plan.steps is None:
            plan = plan.decide(run, steps=_affordable_steps(run, trainer_of, len(batches), start.started))
        run.args.max_steps = cast(int, plan.steps)
    trained = _train(run, teacher, trainer_of)
    averaged = isinstance(teacher.objective, SimilarityObjective) and average_with_start(
        trained, initial, texts.held_out
    )
    started_from = teacher.model if teacher.student is None else teacher.student.model
    student = with_dropout_of(cast(Any, trained.model).model.cpu(), started_from.config).eval()
    report = Report(
        run=start.digest,
        texts=texts.count + len(texts.held_out),
        held_out=len(texts.held_out),
        steps=trained.state.global_step,
        epochs=round(trained.state.global_step / len(batches), 2),
        seconds=0.0,
        averaged=averaged,
    )
    compare(report, run, teacher, student, texts.held_out, start.labelled)
    return _save(report, run, start, student, teacher.student_tokenizer, trained)


def _train(run: Distillation, teacher: Teacher, trainer_of: Callable[..., HubTrainer]) -> HubTrainer:
    """Train a student, from the last checkpoint of an interrupted run if there is one."""
    folder = run.scratch / "trainings" / "student"
    remove_incomplete(folder)
    own = copy.deepcopy(run.args)
    own.output_dir = str(folder)
    checkpoint = last_complete_checkpoint(folder)
    # The student may be best before training.
    own.eval_on_start = checkpoint is None and own.eval_strategy != IntervalStrategy.NO
    trained = trainer_of(own, checkpoint)
    show_table(trained, ("loss", "eval_loss", f"eval_{teacher.objective.metric}"))
    train_with_cleanup(trained, checkpoint)
    if (steps := trained.state.global_step) < run.args.max_steps:
        print(f"Stopped after {steps:,} of {run.args.max_steps:,} steps, because the held-out texts gain nothing more.")
    return trained


def _make_static(run: Distillation, start: _Start) -> Report:
    """Make a static student, from the vocabulary of the teacher alone or from texts, and save it."""
    args, teacher, texts, vectors = run.args, start.teacher, None, None
    if run.data.corpus is not None:
        _compute_outputs(run, teacher)
        texts, vectors = read_vectors(run.scratch / "teacher", run.scratch / "texts", run.data.text_column)
    student, tokenizer = distill_static(
        cast(Any, teacher.model),
        teacher.tokenizer,
        texts,
        vectors,
        dim=run.model.dim,
        num_train_epochs=math.ceil(args.num_train_epochs),
        max_length=run.model.max_length,
        seed=args.seed,
    )
    report = Report(run=start.digest, texts=len(texts or ()), held_out=0, steps=0, epochs=0.0, seconds=0.0)
    compare_static(report, run, teacher, student, tokenizer, texts, start.labelled)
    return _save(report, run, start, student, tokenizer, None)


def _save(report: Report, run: Distillation, start: _Start, student: Any, tokenizer: Any, trained: Any) -> Report:
    """Write the folder of a student with its report, and print and return the report."""
    report.seconds = time.perf_counter() - start.started
    with atomic_folder(run.output, run.args.overwrite, "--overwrite") as written:
        write_student(report, run, start.teacher, student, tokenizer, trained, written)
        (written / RESULTS).write_text(report.as_json(), encoding="utf-8")
    print(f"{report}\nSaved in {run.output.resolve()}.")
    return report


def _compute_outputs(run: Distillation, teacher: Teacher) -> Plan:
    """Let the teacher compute its outputs, unless an earlier run did, and return what is planned."""
    plan, folder = Plan.of(run), run.scratch / "teacher"
    if plan.computed:
        return plan
    computation, sentence = prepared_computation(run, copy.deepcopy(teacher.model), teacher.tokenizer)
    if teacher.student is not None:
        cast(Any, computation).student = teacher.student.computation
    columns = [run.data.text_column] if run.model.static else []
    shards = RowArguments(output_dir=str(folder), shard_rows=_SHARD_ROWS, columns=columns)
    rows = SampledRows(run.data, shards, run.data.text_pair_column)
    if isinstance(teacher.objective, VectorObjective) and not run.model.static and run.model.hidden_size is None:
        rows.longest_joined = min(LONGEST_JOINED, cast(Any, computation).prepared.max_length or LONGEST_JOINED)
    if plan.share is None:
        of_teacher = _OF_TEACHER_OF_STATIC if run.model.static else _OF_TEACHER
        seconds = math.inf if run.args.max_steps > 0 or not run.args.seconds else of_teacher * run.args.seconds
        share = 1.0
        if seconds < math.inf:
            rows.open(folder / ".sequence-encoder")
            share = affordable_share(rows, computation, seconds)
            rows.deadline = time.monotonic() + 2 * seconds
        plan = plan.decide(run, share=share)
    rows.share = cast(float, plan.share)
    parts = (run.model, run.data, shards)
    Run("distill", parts, teacher.source, folder, rows, "parquet", lambda: (computation, sentence))()
    return plan.decide(run, computed=True)


def _trainer(
    args: DistillationArguments, student: Student, batches: Any, held_out: Any, checkpoint: Path | None
) -> HubTrainer:
    objective, pad_token_id = student.objective, cast(Any, student.model).config.pad_token_id
    args.metric_for_best_model, args.greater_is_better, args.label_names = "loss", False, [TARGET]
    return with_sparse_embeddings(HubTrainer)(
        student,
        args,
        train_dataset=batches,
        eval_dataset=held_out,
        data_collator=TokenBudgetCollator(Collator(pad_token_id)),
        compute_metrics=lambda found: {objective.metric: objective.score(found.predictions, found.label_ids)},
        callbacks=callbacks_of(
            args, args.eval_strategy != IntervalStrategy.NO, args.early_stopping_patience, checkpoint
        ),
    )


def _affordable_steps(run: Distillation, trainer: Any, batches: int, started: float) -> int:
    """Return the number of steps: those of `--num_train_epochs`, or as many as `--seconds` leaves time for."""
    most = math.ceil(run.args.num_train_epochs * batches)
    if not run.args.seconds:
        return most
    trial = trial_arguments(run.args, run.scratch / "trial")
    trial.early_stopping_patience = None
    # The student is evaluated before the training, and compared after it.
    return affordable_steps(trainer(trial), run.args, most, started, more=2)


def _progress_of(run: Distillation) -> str:
    """Describe what an interrupted run has saved, and how to resume it."""
    if not has_progress(run.scratch):
        return "Interrupted before anything was saved."
    return f"Interrupted. {run.scratch} keeps what is computed. Continue with the same command and --resume."
