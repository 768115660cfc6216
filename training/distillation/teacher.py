"""Loads a teacher and its pretrained student, checks them against the options, and chooses the objective."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, cast

from transformers import PreTrainedTokenizerBase, set_seed

from ...command_line import UsageError
from ...conversion.source import Source
from ...inference.corpora.arguments import EmbeddingArguments, ModelArguments, PredictionArguments
from ...inference.corpora.predictions import stated_activation
from ...inference.device import choose_device, prepare
from ...inference.uses import use_of
from ...inference.vectors.vector_kinds import text_vectors_of
from ...modeling import (
    SequenceEncoderForSequenceClassification,
    SequenceEncoderForTokenClassification,
    SequenceEncoderModel,
    SequenceEncoderPreTrainedModel,
)
from ...saving.exported_models import check_not_exported
from ..encoders import check_trainable, named_error, pooling_fields
from .objectives import (
    LabelObjective,
    Objective,
    ScoreObjective,
    SeveralLabelsObjective,
    SimilarityObjective,
    TagObjective,
    VectorObjective,
    matryoshka_sizes,
)
from .run import Distillation
from .student import check_hidden_size, check_layers
from .teacher_outputs import TeacherLogits, TeacherTags, TeacherVectors

# What computes the outputs of a model, by the class of the model.
_COMPUTATIONS: dict[type[Any], Any] = {
    SequenceEncoderModel: (TeacherVectors, EmbeddingArguments),
    SequenceEncoderForSequenceClassification: (TeacherLogits, PredictionArguments),
    SequenceEncoderForTokenClassification: (TeacherTags, PredictionArguments),
}
# What a new head takes from the configuration of a teacher: its labels, and the activation of a cross-encoder.
_OF_HEAD = (
    *("id2label", "label2id", "problem_type"),
    *("sentence_transformers", "sbert_ce_default_activation_function"),
)


@dataclass
class PretrainedStudent:
    """A smaller pretrained model that learns the outputs of a teacher, in place of a student made of its layers.

    Attributes:
        source: Where it is.
        model: The model in float32.
        tokenizer: Its tokenizer, which may be another than that of the teacher.
        computation: What computes its outputs.
    """

    source: Source
    model: SequenceEncoderPreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    computation: TeacherVectors | TeacherLogits


@dataclass
class Teacher:
    """A teacher, and what its student learns.

    Attributes:
        source: Where it is.
        tokenizer: Its tokenizer.
        objective: What the student learns.
        layers: The number of layers of the student.
        loaded: The model while it is in memory.
        student: A pretrained student, or None if the student starts from layers of the teacher.
    """

    source: Source
    tokenizer: PreTrainedTokenizerBase
    objective: Objective
    layers: int
    loaded: SequenceEncoderPreTrainedModel | None
    student: PretrainedStudent | None = None

    @property
    def student_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the student."""
        return self.tokenizer if self.student is None else self.student.tokenizer

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
    source, model, tokenizer = _load(
        asked.model, "distill takes sentence encoders, classifiers, cross-encoders and taggers"
    )
    student = None if asked.student is None else _load_student(run, model, asked.student)
    if student is not None:
        layers = student.model.config.num_hidden_layers
        weights = [each.num_parameters(exclude_embeddings=True) for each in (student.model, model)]
        if weights[0] > weights[1]:
            print(
                f"--student {asked.student} has {weights[0]:,} weights besides its embeddings, more than the "
                f"{weights[1]:,} of the teacher {asked.model}, so it will be slower. Are they the wrong way round?"
            )
    else:
        layers = check_layers(model.config.num_hidden_layers, asked.layers, asked.hidden_size is not None)
    if asked.hidden_size is not None:
        check_hidden_size(model.config, asked.hidden_size)
    return Teacher(source, tokenizer, _objective_of(run, model, tokenizer, student), layers, model, student)


def _load(name: str, takes: str, base_model: bool = False) -> tuple[Source, Any, PreTrainedTokenizerBase]:
    """Return a checkpoint, its model in float32 and its tokenizer.

    Args:
        name: The folder or the Hub id.
        takes: What can be loaded, for errors.
        base_model: Whether to load only the encoder, which then needs no recipe for vectors.

    Raises:
        UsageError: If there is no such checkpoint, or it cannot be trained or give vectors.
    """
    try:
        source = Source(name)
        check_not_exported(source.folder)
        other = text_vectors_of(source.folder)
        model = source.load(base_model)
        check_trainable(model.config)
        tokenizer = source.tokenizer_for(model)
    except (OSError, ValueError) as error:
        raise error if isinstance(error, UsageError) else named_error(name, error) from error
    lacks_recipe = not base_model and isinstance(model, SequenceEncoderModel) and model.embedding_recipe is None
    if other is not None or lacks_recipe or type(model) not in _COMPUTATIONS:
        kind = "that gives other vectors than a dense one for a text" if other is not None else "without modules.json"
        raise UsageError(
            f"{name} is a {type(model).__name__}{f' {kind}' if other is not None or lacks_recipe else ''}, and "
            f"{takes}. {use_of(model)}"
        )
    return source, cast(Any, model).float(), tokenizer


def _load_student(run: Distillation, teacher: Any, name: str) -> PretrainedStudent:
    """Return a pretrained student, with a new head if its teacher has one.

    Raises:
        UsageError: If it does not fit the teacher.
    """
    if isinstance(teacher, SequenceEncoderForTokenClassification):
        raise UsageError("--student does not support taggers: the student would need the tokenizer of the teacher.")
    if isinstance(teacher, SequenceEncoderModel):
        takes = "--student takes sentence encoders"
        source, model, tokenizer = _load(name, takes)
        if not isinstance(model, SequenceEncoderModel):
            raise UsageError(f"{name} is a {type(model).__name__}, and {takes}. {use_of(model)}")
    else:
        source, encoder, tokenizer = _load(name, "--student takes encoders", base_model=True)
        model = _with_new_head(encoder, teacher, name, run.args.seed)
    return PretrainedStudent(source, model, tokenizer, computation_of(run, model, tokenizer, name))


def _with_new_head(encoder: Any, teacher: Any, name: str, seed: int) -> Any:
    """Return a model with the encoder of a checkpoint, and a new head for the labels of a teacher.

    Raises:
        UsageError: If the checkpoint has a pooling that no head supports.
    """
    config = copy.deepcopy(encoder.config)
    try:
        config.update({**pooling_fields(name, None), "logit_calibration": None})
    except UsageError as error:
        raise UsageError(f"--student {name} has vectors that no head supports: {error.__cause__}") from error
    for field in _OF_HEAD:
        if hasattr(teacher.config, field) or hasattr(config, field):
            setattr(config, field, getattr(teacher.config, field, None))
    # A resumed run needs the same head.
    set_seed(seed)
    model = type(teacher)(config)
    # A head with mean pooling has no pooler.
    wanted = model.base_model.state_dict().keys()
    model.base_model.load_state_dict({key: each for key, each in encoder.state_dict().items() if key in wanted})
    return model


def _objective_of(
    run: Distillation, model: Any, tokenizer: PreTrainedTokenizerBase, student: PretrainedStudent | None
) -> Objective:
    """Return what a student learns from a teacher.

    Raises:
        UsageError: If an option does not fit the teacher.
    """
    computation = computation_of(run, model, tokenizer, run.model.model)
    config, sizes = model.config, run.model.matryoshka_dims
    is_classifier, kind = type(computation) is TeacherLogits, type(model).__name__
    if not is_classifier and (pair := run.data.text_pair_column) is not None:
        raise UsageError(f"--text_pair_column {pair} needs a classifier or a cross-encoder, got a {kind}.")
    if isinstance(computation, TeacherVectors):
        prepared = (computation if student is None else cast(TeacherVectors, student.computation)).prepared
        largest = run.model.hidden_size or prepared.kept_channels
        if too_large := [size for size in sizes or () if size > largest]:
            raise UsageError(f"--matryoshka_dims must be at most {largest}, got {too_large[0]}.")
        objective = VectorObjective if student is None else SimilarityObjective
        return objective(prepared, sizes or matryoshka_sizes(largest), run.model.hidden_size)
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


def computation_of(
    run: Distillation, model: Any, tokenizer: PreTrainedTokenizerBase, name: str
) -> TeacherVectors | TeacherLogits:
    """Return what computes the outputs of a teacher or of its student, whose name is for errors.

    Raises:
        UsageError: If an option does not fit the model.
    """
    computation, options = _COMPUTATIONS[type(model)]
    reading = ModelArguments(name, max_length=run.model.max_length)
    try:
        return cast("TeacherVectors | TeacherLogits", computation(model, tokenizer, reading, options()))
    except ValueError as error:
        raise named_error(name, error) from error


def prepared_computation(
    run: Distillation, model: Any, tokenizer: PreTrainedTokenizerBase
) -> tuple[TeacherVectors | TeacherLogits, str]:
    """Prepare a teacher or its student for inference, and return its computation and a sentence about it."""
    sentence = prepare(model, choose_device(str(run.args.device)), "auto")
    return computation_of(run, model, tokenizer, run.model.model), sentence
