"""Compares a student with its teacher, and writes the folder of the student with its card.

Shapes: N texts, D channels.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from huggingface_hub import EvalResult

from ...command_line.counts import counted
from ...command_line.progress import Progress
from ...hub.card.card import Training, model_card
from ...hub.card.sections import example_of
from ...inference.corpora.arguments import EmbeddingArguments, ModelArguments
from ...saving.card_mark import save_card
from ...saving.module_list import MODULE_LIST
from ..encoders import card_fields_of
from ..hardware import device_name
from ..hub_trainer import training_of
from .labelled import LabelledTexts
from .objectives import correlation_of_cosines
from .run import Distillation
from .teacher import Teacher, prepared_computation
from .teacher_outputs import OF_TEACHER, TARGET, TeacherVectors, outputs_of, tokens_of

# The speeds are measured on this many texts, in turn.
_TIMED_TEXTS, _ROUNDS = 512, 3


@dataclass
class Report:
    """The size, the quality and the speed of a student beside its teacher.

    Attributes:
        run: The digest of the settings of the run.
        texts: The number of texts that the teacher has read.
        held_out: The number of those that the student has not learned from.
        steps: The number of training steps.
        epochs: How often the student has read the other texts.
        seconds: The duration of the run.
        quality: The metrics on the held-out texts.
        labelled: The metric on `--test_file`, of `teacher` and `student`.
        speed: How many times as fast as its teacher the student is.
        tokens_per_second: The tokens per second of `teacher` and `student`, both counted by the teacher's tokenizer.
        parameters: The number of parameters of `teacher` and `student`.
        layers: The number of layers of `teacher` and `student`.
        averaged: Whether a pretrained student has the average of its weights before and after the training.
        sampled: What a static student is compared on, instead of held-out texts.
        hardware: The hardware that all of it ran on.
    """

    run: str
    texts: int
    held_out: int
    steps: int
    epochs: float
    seconds: float
    quality: dict[str, float] = field(default_factory=dict)
    labelled: dict[str, Any] = field(default_factory=dict)
    speed: float = 0.0
    tokens_per_second: dict[str, float] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    layers: dict[str, int] = field(default_factory=dict)
    averaged: bool = False
    sampled: str = ""
    hardware: str = field(default_factory=device_name)

    @classmethod
    def read(cls, file: Path) -> Report | None:
        """Read a report that `as_json` has written, and return None for another file."""
        try:
            return cls(**json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def as_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    def __str__(self) -> str:
        quality = ", ".join(f"{name} {value:.4f}" for name, value in self.quality.items())
        rates, sizes = self.tokens_per_second, self.parameters
        found, labelled = self.labelled, ""
        if found:
            labelled = (
                f"On {found['texts']:,} labelled texts, the {found['metric']} is {found['student']:.4f}, and "
                f"{found['teacher']:.4f} for the teacher.\n"
            )
        compared = f"{self.held_out:,} held-out texts" if self.held_out else self.sampled
        return (
            f"On {compared}, compared with the teacher: {quality}.\n{labelled}"
            f"The student has {counted(self.layers['student'], 'layer')} and {sizes['student']:,} parameters, and the "
            f"teacher {self.layers['teacher']} and {sizes['teacher']:,}. The student computes {rates['student']:,.0f} "
            f"tokens a second, the teacher {rates['teacher']:,.0f} ({self.speed:.2f} times as fast, {self.hardware})."
        )


def compare(
    report: Report,
    run: Distillation,
    teacher: Teacher,
    student: Any,
    held_out: Any,
    labelled: LabelledTexts | None,
) -> None:
    """Complete the report with the quality on the held-out texts and the speed, as `embed` computes both models."""
    models = {"teacher": teacher.model, "student": student}
    report.parameters = {name: each.num_parameters() for name, each in models.items()}
    report.layers = {name: each.config.num_hidden_layers for name, each in models.items()}
    rows = held_out.with_format(None)[:]
    # Those of all tokens, if the teacher is a tagger.
    targets = np.concatenate([each.reshape(-1, each.shape[-1]) for each in held_out.with_format("numpy")[:][TARGET]])
    with Progress("Comparing the student with its teacher"):
        # Preparing a model for inference may change the dtype of its weights.
        tokenizers = {"teacher": teacher.tokenizer, "student": teacher.student_tokenizer}
        computations = {
            name: prepared_computation(run, copy.deepcopy(each), tokenizers[name])[0] for name, each in models.items()
        }
        outputs = outputs_of(computations["student"], tokens_of(rows, len(held_out)))
        report.quality = {teacher.objective.metric: teacher.objective.score(outputs, targets)}
        timed = dict.fromkeys(models, tokens_of(rows, min(_TIMED_TEXTS, len(held_out))))
        if teacher.student is not None:
            timed["teacher"] = tokens_of(rows, len(timed["student"].ids), OF_TEACHER)
        if labelled is not None:
            scores = {name: labelled.score_of(computation) for name, computation in computations.items()}
            report.labelled = {"metric": labelled.metric, "texts": len(labelled.labels), **scores}
        seconds: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(_ROUNDS):
            for name, computation in computations.items():
                started = time.perf_counter()
                outputs_of(computation, timed[name])
                seconds[name].append(time.perf_counter() - started)
    # Both rates count the tokens of the teacher, even if the student has another tokenizer.
    tokens = sum(map(len, timed["teacher"].ids))
    report.tokens_per_second = {name: tokens / min(times) for name, times in seconds.items()}
    report.speed = report.tokens_per_second["student"] / report.tokens_per_second["teacher"]


def compare_static(
    report: Report,
    run: Distillation,
    teacher: Teacher,
    student: Any,
    tokenizer: Any,
    texts: Sequence[str] | None,
    labelled: LabelledTexts | None,
) -> None:
    """Complete the report for a static student, whose vectors have other directions than those of its teacher."""
    report.parameters = {"teacher": teacher.model.num_parameters(), "student": student.num_parameters()}
    report.layers = {"teacher": cast(Any, teacher.model.config).num_hidden_layers, "student": 0}
    sample = list(texts or (labelled.columns[0] if labelled else tokenizer.get_vocab()))[:_TIMED_TEXTS]
    report.sampled = f"{len(sample):,} {'texts' if texts or labelled else 'tokens'}"
    with Progress("Comparing the student with its teacher"):
        computations: dict[str, Any] = {
            "teacher": prepared_computation(run, copy.deepcopy(teacher.model), teacher.tokenizer)[0],
            "student": TeacherVectors(student, tokenizer, ModelArguments(run.model.model), EmbeddingArguments()),
        }
        vectors, seconds = {}, {}
        for name, computation in computations.items():
            times = []
            for _ in range(_ROUNDS):
                started = time.perf_counter()
                vectors[name] = outputs_of(computation, computation.tokenize([sample]))
                times.append(time.perf_counter() - started)
            seconds[name] = min(times)
        report.quality = {"correlation of similarities": correlation_of_cosines(*vectors.values())}
        if labelled is not None:
            scores = {name: labelled.score_of(computation) for name, computation in computations.items()}
            report.labelled = {"metric": labelled.metric, "texts": len(labelled.labels), **scores}
    tokens = sum(map(len, computations["teacher"].tokenize([sample]).ids))
    report.tokens_per_second = {name: tokens / each for name, each in seconds.items()}
    report.speed = seconds["teacher"] / seconds["student"]


def write_student(
    report: Report, run: Distillation, teacher: Teacher, student: Any, tokenizer: Any, trainer: Any, folder: Path
) -> None:
    """Write a student, its tokenizer and its card into a folder."""
    student.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    started_from = run.model.student or run.model.model
    corpus = Path(run.data.corpus).name if run.data.corpus is not None else None
    read = f" on {report.texts:,} texts without labels from {corpus}" if corpus else ", from what it says about tokens"
    task = teacher.objective.task
    training = Training(hardware=report.hardware) if trainer is None else training_of(trainer, task=task)
    training.data = f"Distilled from {_shown_name(run.model.model)}{read}."
    training.seconds = report.seconds
    if run.model.student and (licence := card_fields_of(run.model.model).get("license")):
        training.data += f" The licence of the teacher is {licence}."
    if trainer is not None:
        layers, batches = report.layers, f"at most {run.args.max_tokens:,}"
        kept = f"{layers['student']} of the {layers['teacher']} layers of its teacher"
        training.data += f" The student started from {_shown_name(run.model.student) if run.model.student else kept}."
        if report.averaged:
            training.data += " Its weights are the average of those before and after the training."
        given = {**training.hyperparameters, "tokens a step": batches, "max_length": run.model.max_length}
        training.hyperparameters = {
            name: value for name, value in given.items() if value is not None and name != "examples a step"
        }
    training.results = [
        EvalResult(
            task_type=task,
            dataset_type="local",
            dataset_name=f"{report.held_out:,} held-out texts of {corpus}" if report.held_out else report.sampled,
            metric_type=name,
            metric_value=round(value, 4),
        )
        for name, value in report.quality.items()
    ]
    training.remarks = str(report).partition("\n")[2]
    usage = None
    if (folder / MODULE_LIST).exists():
        example = example_of(folder, run.output.resolve().name, student)
        usage = f'With sentence-transformers:\n\n```python\n{example}\nvectors = model.encode(["A text."])\n```'
    card = model_card(
        student,
        run.output.resolve().name,
        training,
        **card_fields_of(started_from),
        base_model=None if Path(started_from).exists() else started_from,
        usage=usage,
    )
    save_card(folder / "README.md", card.content)


def _shown_name(checkpoint: str) -> str:
    """Return a Hub id, or the name of a folder without its parents."""
    folder = Path(checkpoint)
    return folder.resolve().name if folder.exists() else checkpoint
