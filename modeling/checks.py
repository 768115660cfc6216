"""Checks of what a caller hands in, before anything is computed; errors name the argument, its value and the limit.

Shapes: B batch, S sequence. Values are not looked at while a graph is traced, where they do not exist yet.
"""

from __future__ import annotations

import torch
from transformers.utils.import_utils import is_tracing

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig


def _check_range(name: str, values: torch.Tensor, size: int, limit: str) -> None:
    if is_tracing(values) or values.numel() == 0:
        return
    low, high = (int(value) for value in values.aminmax())
    if low < 0 or high >= size:
        raise ValueError(f"{name} contains {low if low < 0 else high}; allowed are 0 to {size - 1} ({limit}).")


def check_inputs(
    config: SequenceEncoderConfig,
    input_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    token_type_ids: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
) -> tuple[int, int]:
    """Checks the arguments of the model's forward against the configuration and each other, and returns (B, S).

    Raises:
        ValueError: for an argument that is missing, has another shape, or holds ids outside its range.
    """
    if (input_ids is None) == (inputs_embeds is None):
        given = "both" if input_ids is not None else "neither"
        raise ValueError(f"Exactly one of input_ids and inputs_embeds is needed, got {given}.")
    if input_ids is not None:
        if input_ids.dim() != 2:
            raise ValueError(f"input_ids must have shape (batch, sequence), got {tuple(input_ids.shape)}.")
        if input_ids.is_floating_point():
            raise ValueError(f"input_ids must be whole numbers, got {input_ids.dtype}.")
        shape = (input_ids.shape[0], input_ids.shape[1])
    else:
        assert inputs_embeds is not None
        if inputs_embeds.dim() != 3 or inputs_embeds.shape[-1] != config.hidden_size:
            raise ValueError(
                f"inputs_embeds must have shape (batch, sequence, hidden_size={config.hidden_size}), "
                f"got {tuple(inputs_embeds.shape)}."
            )
        shape = (inputs_embeds.shape[0], inputs_embeds.shape[1])
    if not is_tracing(input_ids if input_ids is not None else inputs_embeds) and 0 in shape:
        raise ValueError(f"The batch is empty: (batch, sequence) is {shape}; both must be at least 1.")

    _check_mask_shape(attention_mask, shape)
    if position_ids is not None and tuple(position_ids.shape) not in (shape, (1, shape[1])):
        raise ValueError(f"position_ids must have shape {shape}, got {tuple(position_ids.shape)}.")
    if token_type_ids is not None and tuple(token_type_ids.shape) != shape:
        raise ValueError(f"token_type_ids must have shape {shape}, got {tuple(token_type_ids.shape)}.")

    if input_ids is not None:
        _check_range("input_ids", input_ids, config.vocab_size, "vocab_size")
    if token_type_ids is not None and config.type_vocab_size:
        _check_range("token_type_ids", token_type_ids, config.type_vocab_size, "type_vocab_size")
    return shape


def _check_mask_shape(attention_mask: torch.Tensor | None, shape: tuple[int, int]) -> None:
    if attention_mask is None:
        return
    batch, seq = shape
    if not isinstance(attention_mask, torch.Tensor):
        raise ValueError(
            f"attention_mask must be a tensor of shape {shape} or ({batch}, 1, {seq}, {seq}), "
            f"got {type(attention_mask).__name__}."
        )
    given = tuple(attention_mask.shape)
    four_dimensional = len(given) == 4 and given[0] in (1, batch) and given[2:] == (seq, seq)
    if given != shape and not four_dimensional:
        raise ValueError(
            f"attention_mask must have the shape of the input, {shape}, or be a 4-D mask of shape "
            f"({batch}, 1 or heads, {seq}, {seq}); got {given}."
        )


def check_positions(config: SequenceEncoderConfig, position_ids: torch.Tensor) -> None:
    """Checks that learned positions have a row for every position; the other kinds know no limit.

    Raises:
        ValueError: if a text is longer than `max_position_embeddings`, or a position is negative.
    """
    if config.position_embedding != "learned" or is_tracing(position_ids) or position_ids.numel() == 0:
        return
    low, high = (int(value) for value in position_ids.aminmax())
    if low < 0 or high >= config.max_position_embeddings:
        raise ValueError(
            f"position_ids reach {low if low < 0 else high}, but position_embedding='learned' has rows for positions 0 "
            f"to {config.max_position_embeddings - 1} (max_position_embeddings={config.max_position_embeddings}): "
            f"truncate the texts to {config.max_position_embeddings} tokens, or choose position_embedding='sinusoidal' "
            "or 'rotary', which have no limit."
        )


def check_offsets(
    cu_seq_lens: torch.Tensor | None, attention_mask: torch.Tensor | None, shape: tuple[int, int]
) -> None:
    """Checks `cu_seq_lens_q` of a batch that comes packed: one row, no mask, growing from 0 to the row's length.

    Raises:
        ValueError: if it describes another batch than the one at hand.
    """
    if cu_seq_lens is None:
        return
    if attention_mask is not None:
        raise ValueError("cu_seq_lens_q describes a batch without padding and goes without attention_mask, got both.")
    if shape[0] != 1:
        raise ValueError(f"cu_seq_lens_q describes a batch of one packed row, got a batch of {shape[0]} rows.")
    if is_tracing(cu_seq_lens):
        return
    offsets = cu_seq_lens.tolist()
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != shape[1] or sorted(offsets) != offsets:
        raise ValueError(
            f"cu_seq_lens_q must grow from 0 to the number of tokens in the row, {shape[1]}, got {offsets}."
        )


def check_class_labels(name: str, labels: torch.Tensor, size: int, limit: str, shape: tuple[int, ...]) -> None:
    """Checks that class labels have the expected shape and are -100 (ignored) or in [0, size).

    Raises:
        ValueError: for another shape, a floating type or a label outside the range.
    """
    if labels.dtype.is_floating_point:
        raise ValueError(f"{name} must be whole numbers, got {labels.dtype}.")
    if tuple(labels.shape) not in (tuple(shape), (*shape, 1), (torch.Size(shape).numel(),)):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(labels.shape)}.")
    if is_tracing(labels) or labels.numel() == 0:
        return
    outside = (labels != -100) & ((labels < 0) | (labels >= size))
    if bool(outside.any()):
        raise ValueError(
            f"{name} contains {int(labels[outside].flatten()[0])}; allowed are 0 to {size - 1} ({limit}), and -100 for "
            "what is to be ignored."
        )


def batch_shape(input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> tuple[int, int] | None:
    """(B, S) of a batch; None if there is none, which `check_inputs` then says."""
    tokens = input_ids if input_ids is not None else inputs_embeds
    return None if tokens is None or tokens.dim() < 2 else (tokens.shape[0], tokens.shape[1])


def check_targets(name: str, labels: torch.Tensor, num_labels: int, problem_type: str | None, batch: int) -> None:
    """Checks that the numbers of a regression, or the zeros and ones of several labels, are one for each output.

    Raises:
        ValueError: for another shape, or for several labels that are not between 0 and 1.
    """
    expected = (batch, num_labels)
    if tuple(labels.shape) != expected and not (num_labels == 1 and tuple(labels.shape) == (batch,)):
        raise ValueError(
            f"{name} must have shape {expected} for problem_type={problem_type!r}, got {tuple(labels.shape)}."
        )
    if problem_type == "multi_label_classification" and not is_tracing(labels):
        outside = (labels < 0) | (labels > 1)
        if bool(outside.any()):
            raise ValueError(
                f"{name} contains {labels[outside].flatten()[0].item()}; allowed for several labels are 0 to 1."
            )


def check_answer_positions(
    name: str, positions: torch.Tensor, shape: tuple[int, int], real: torch.Tensor | None = None
) -> None:
    """Checks the positions of an answer's start or end; those past the sequence are allowed, and ignored.

    Raises:
        ValueError: for another shape or type, a negative position, or one in the padding (`real` is (B, S) bool).
    """
    if positions.is_floating_point():
        raise ValueError(f"{name} must be whole numbers, got {positions.dtype}.")
    if positions.numel() != shape[0]:
        raise ValueError(f"{name} must have shape ({shape[0]},), got {tuple(positions.shape)}.")
    if not is_tracing(positions) and positions.numel() and int(positions.min()) < 0:
        raise ValueError(
            f"{name} contains {int(positions.min())}; allowed are 0 to {shape[1] - 1}, and more for an answer outside "
            "the text."
        )
    if real is not None and not is_tracing(positions):
        index = positions.reshape(-1).to(real.device)
        inside = (index < shape[1]) & real.any(dim=1)
        padding = inside & ~real.expand(shape).gather(1, index.clamp(max=shape[1] - 1)[:, None])[:, 0]
        if bool(padding.any()):
            raise ValueError(f"{name} contains {int(index[padding][0])}, which is padding in its row.")


def check_num_labels(name: str, config: SequenceEncoderConfig) -> int:
    """Checks that a configuration has the labels that a classifying head needs, and returns how many.

    Raises:
        ValueError: if there are none.
    """
    if config.num_labels is None or config.num_labels < 1:
        raise ValueError(f"{name} needs num_labels >= 1 in its configuration, got {config.num_labels}.")
    return config.num_labels
