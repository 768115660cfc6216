"""Loads a teacher, checks that it can be distilled, and finds what its student learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from ...bulk.arguments import EmbeddingArguments, ModelArguments, PredictionArguments
from ...bulk.predictions import stated_activation
from ...bulk.results import Computation
from ...command_line import UsageError
from ...conversion.source import Source
from ...inference.device import choose_device, prepare
from ...inference.uses import use_of
from ...modeling import (
    SequenceEncoderForSequenceClassification,
    SequenceEncoderForTokenClassification,
    SequenceEncoderModel,
    SequenceEncoderPreTrainedModel,
)
from ...saving.exported_models import check_not_exported
from ...vectors.vector_kinds import text_vectors_of
from ..encoders import check_trainable, named_error
from .narrowing import check_hidden_size
from .objectives import (
    LabelObjective,
    Objective,
    ScoreObjective,
    SeveralLabelsObjective,
    TagObjective,
    VectorObjective,
    matryoshka_sizes,
)
from .run import Distillation
from .student import check_layers
from .teacher_outputs import TeacherLogits, TeacherTags, TeacherVectors

# What computes the outputs of a model, by the class of the model.
_COMPUTATIONS: dict[type[Any], Any] = {
    SequenceEncoderModel: (TeacherVectors, EmbeddingArguments),
    SequenceEncoderForSequenceClassification: (TeacherLogits, PredictionArguments),
    SequenceEncoderForTokenClassification: (TeacherTags, PredictionArguments),
}


@dataclass
class Teacher:
    """A teacher, and what its student learns.

    Attributes:
        source: Where it is.
        tokenizer: Its tokenizer.
        objective: What the student learns.
        layers: The number of layers of the student.
        loaded: The model while it is in memory.
    """

    source: Source
    tokenizer: PreTrainedTokenizerBase
    objective: Objective
    layers: int
    loaded: SequenceEncoderPreTrainedModel | None

    @property
    def model(self) -> SequenceEncoderPreTrainedModel:
        """The model in float32, which is loaded again if it was released."""
        if self.loaded is None:
            self.loaded = cast(Any, self.source.load()).float()
        return cast(SequenceEncoderPreTrainedModel, self.loaded)


def load_teacher(run: Distillation) -> Teacher:
    """Load the teacher of a run.

    Raises:
        UsageError: If it cannot be distilled, or the options do not fit it.
    """
    asked = run.model
    try:
        source = Source(asked.model)
        check_not_exported(source.folder)
        other = text_vectors_of(source.folder)
        model = source.load()
        check_trainable(model.config)
        tokenizer = source.tokenizer_for(model)
    except (OSError, ValueError) as error:
        raise error if isinstance(error, UsageError) else named_error(asked.model, error) from error
    lacks_recipe = isinstance(model, SequenceEncoderModel) and model.embedding_recipe is None
    if other is not None or lacks_recipe or type(model) not in _COMPUTATIONS:
        kind = "that gives other vectors than a dense one for a text" if other is not None else "without modules.json"
        raise UsageError(
            f"{asked.model} is a {type(model).__name__}{f' {kind}' if other is not None or lacks_recipe else ''}, and "
            f"distill takes sentence encoders, classifiers, cross-encoders and taggers. {use_of(model)}"
        )
    layers = check_layers(model.config.num_hidden_layers, asked.layers, asked.hidden_size is not None)
    if asked.hidden_size is not None:
        check_hidden_size(model.config, asked.hidden_size)
    model.float()
    return Teacher(source, tokenizer, _objective_of(run, model, tokenizer), layers, model)


def _objective_of(run: Distillation, model: Any, tokenizer: PreTrainedTokenizerBase) -> Objective:
    """Return what a student learns from a teacher.

    Raises:
        UsageError: If an option does not fit the teacher.
    """
    computation, config, sizes = computation_of(run, model, tokenizer), model.config, run.model.matryoshka_dims
    is_classifier, kind = type(computation) is TeacherLogits, type(model).__name__
    if not is_classifier and (pair := run.data.text_pair_column) is not None:
        raise UsageError(f"--text_pair_column {pair} needs a classifier or a cross-encoder, got a {kind}.")
    if isinstance(computation, TeacherVectors):
        largest = run.model.hidden_size or computation.prepared.kept_channels
        if too_large := [size for size in sizes or () if size > largest]:
            raise UsageError(f"--matryoshka_dims must be at most {largest}, got {too_large[0]}.")
        return VectorObjective(computation.prepared, sizes or matryoshka_sizes(largest), run.model.hidden_size)
    if sizes is not None:
        raise UsageError(f"--matryoshka_dims needs a sentence encoder, got a {kind}.")
    if not is_classifier:
        return TagObjective()
    if run.data.text_pair_column is None and stated_activation(config) is not None:
        raise UsageError(
            f"{run.model.model} is a cross-encoder, which reads pairs; name the column of the second texts with "
            "--text_pair_column."
        )
    if config.problem_type == "regression" or config.num_labels == 1:
        return ScoreObjective()
    return SeveralLabelsObjective() if config.problem_type == "multi_label_classification" else LabelObjective()


def computation_of(run: Distillation, model: Any, tokenizer: PreTrainedTokenizerBase) -> TeacherVectors | TeacherLogits:
    """Return what computes the outputs of a teacher or of its student.

    Raises:
        UsageError: If an option does not fit the model.
    """
    computation, options = _COMPUTATIONS[type(model)]
    reading = ModelArguments(run.model.model, max_length=run.model.max_length)
    try:
        return cast("TeacherVectors | TeacherLogits", computation(model, tokenizer, reading, options()))
    except ValueError as error:
        raise named_error(run.model.model, error) from error


def prepared_computation(run: Distillation, teacher: Teacher, model: Any) -> tuple[Computation, str]:
    """Prepare a teacher or its student for inference, and return its computation and a sentence about it."""
    sentence = prepare(model, choose_device(str(run.args.device)), "auto")
    return computation_of(run, model, teacher.tokenizer), sentence
