"""Loads a teacher, checks that it can be distilled, and finds what its student learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from ...bulk.arguments import EmbeddingArguments, ModelArguments
from ...bulk.results import Computation
from ...command_line import UsageError
from ...conversion.source import Source
from ...inference.device import choose_device, prepare
from ...inference.uses import use_of
from ...modeling import SequenceEncoderModel, SequenceEncoderPreTrainedModel
from ...saving.exported_models import check_not_exported
from ...vectors.vector_kinds import text_vectors_of
from ..encoders import check_trainable, named_error
from .objectives import Objective, VectorObjective, matryoshka_sizes
from .run import Distillation
from .student import check_layers
from .teacher_outputs import TeacherVectors


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
    if other is not None or not isinstance(model, SequenceEncoderModel) or model.embedding_recipe is None:
        kind = "other than one dense vector for a text" if other is not None else "without modules.json"
        described = kind if isinstance(model, SequenceEncoderModel) else ""
        raise UsageError(
            f"{asked.model} is a {type(model).__name__} {described}".rstrip()
            + f", and the teacher must be a sentence encoder such as all-MiniLM-L6-v2. {use_of(model)}"
        )
    layers = check_layers(model.config.num_hidden_layers, asked.layers)
    model.float()
    computation = computation_of(run, model, tokenizer)
    channels = computation.prepared.kept_channels
    if too_large := [size for size in asked.matryoshka_dims or () if size > channels]:
        raise UsageError(f"--matryoshka_dims must be at most {channels}, got {too_large[0]}.")
    sizes = asked.matryoshka_dims or matryoshka_sizes(channels)
    return Teacher(source, tokenizer, VectorObjective(computation.prepared, sizes), layers, model)


def computation_of(run: Distillation, model: Any, tokenizer: PreTrainedTokenizerBase) -> TeacherVectors:
    """Return what computes the outputs of a teacher or of its student.

    Raises:
        UsageError: If an option does not fit the model.
    """
    try:
        return TeacherVectors(model, tokenizer, _reading(run), EmbeddingArguments())
    except ValueError as error:
        raise named_error(run.model.model, error) from error


def prepared_computation(run: Distillation, teacher: Teacher, model: Any) -> tuple[Computation, str]:
    """Prepare a teacher or its student for inference, and return its computation and a sentence about it."""
    sentence = prepare(model, choose_device(str(run.args.device)), "auto")
    return computation_of(run, model, teacher.tokenizer), sentence


def _reading(run: Distillation) -> ModelArguments:
    return ModelArguments(run.model.model, max_length=run.model.max_length)
