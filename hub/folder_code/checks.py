"""The arguments that a model needs to run. The installed package checks all others, and says what is allowed."""

from typing import Any, Literal

import torch
from transformers import PreTrainedConfig

from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ...modeling.checks import batch_shape as batch_shape
from ...modeling.checks import has_values as has_values
from ...modeling.checks import on_host as on_host

# The label that losses ignore, as everywhere in torch and transformers.
IGNORED = -100

ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]


def unchecked(*arguments: Any) -> None:
    """Check nothing."""


check_is_encoder = check_tensor = check_integers = check_floating_mask = check_embeddings_type = unchecked
check_positions = check_first_positions = check_offsets = check_document_index = check_needed = unchecked
check_attentions = check_windows_with_gaps = unchecked
check_class_labels = check_targets = check_answer_positions = check_label_weights = unchecked
check_zero_shot_labels = check_numbers = check_entity_labels = unchecked


def check_shapes(
    config: SequenceEncoderConfig,
    *inputs: torch.Tensor | None,
    dimensions: tuple[str, ...] = ("batch", "sequence"),
) -> tuple[int, ...]:
    """Return the sizes of `dimensions`, the names of the dimensions of `input_ids`."""
    input_ids, *_, inputs_embeds = inputs
    tokens = inputs_embeds if input_ids is None else input_ids
    if tokens is None or (input_ids is not None and inputs_embeds is not None):
        given = "neither" if tokens is None else "both"
        raise ValueError(f"Exactly one of input_ids and inputs_embeds is needed, got {given}.")
    return tuple(tokens.shape[: len(dimensions)])


check_inputs = check_shapes


def check_classification_labels(
    labels: torch.Tensor, problem_type: ProblemType | None, num_labels: int, batch: int
) -> ProblemType:
    """Return `problem_type`, or the type that the labels imply if it is None."""
    if problem_type is not None:
        return problem_type
    if num_labels == 1:
        return "regression"
    # As in transformers, labels of dtype bool mean a multi-label classification.
    return "single_label_classification" if labels.dtype in (torch.int32, torch.int64) else "multi_label_classification"


def check_num_labels(name: str, config: PreTrainedConfig) -> int:
    """Return the number of labels of a configuration."""
    return config.num_labels or 0
