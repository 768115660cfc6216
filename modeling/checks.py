"""Checks of what a caller hands in, before anything is computed; errors name the argument, its value and the limit.

Shapes: B batch, S sequence. Values are not looked at while a graph is traced, where they do not exist yet; elsewhere
each look makes the host wait for an accelerator, so that those of one kind are taken together.
"""

from typing import Any, Literal

import torch
from transformers import PreTrainedConfig
from transformers.utils.import_utils import is_tracing

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig

# The label of what is not to be predicted, as everywhere in torch and transformers.
IGNORED = -100

ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]


def check_tensor(name: str, value: Any) -> None:
    """Checks that an argument is a tensor.

    Raises:
        ValueError: if it is a list or anything else.
    """
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{name} must be a tensor, got {type(value).__name__}.")


def _check_ids(name: str, ids: Any) -> None:
    check_tensor(name, ids)
    if ids.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{name} must be int32 or int64, got {ids.dtype}.")


def _check_whole_numbers(name: str, values: Any) -> None:
    check_tensor(name, values)
    if values.is_floating_point():
        raise ValueError(f"{name} must be whole numbers, got {values.dtype}.")


def _check_ranges(checked: list[tuple[str, torch.Tensor, int, str]]) -> None:
    """Each with its name, how many values are allowed from 0 on, and what says so."""
    if not checked or is_tracing(checked[0][1]):
        return
    extremes = torch.stack([torch.stack(ids.aminmax()).long() for _, ids, _, _ in checked]).tolist()
    for (name, _, size, limit), (low, high) in zip(checked, extremes, strict=True):
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
        ValueError: for an argument that is missing, has another shape or type, or holds values outside its range.
    """
    batch, seq = check_shapes(config, input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
    if attention_mask is not None:
        check_floating_mask(attention_mask)
    checked = []
    if input_ids is not None:
        checked.append(("input_ids", input_ids, config.vocab_size, "vocab_size"))
    if token_type_ids is not None and config.type_vocab_size:
        hint = "; with one segment type they can be left out" if config.type_vocab_size == 1 else ""
        checked.append(("token_type_ids", token_type_ids, config.type_vocab_size, f"type_vocab_size{hint}"))
    _check_ranges(checked)
    return batch, seq


def check_shapes(
    config: SequenceEncoderConfig,
    input_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    token_type_ids: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
    dimensions: tuple[str, ...] = ("batch", "sequence"),
) -> tuple[int, ...]:
    """Checks the shapes and types of the arguments, and returns the sizes of `dimensions`.

    Raises:
        ValueError: for an argument that is missing, or has another shape or type.
    """
    if (input_ids is None) == (inputs_embeds is None):
        given = "both" if input_ids is not None else "neither"
        raise ValueError(f"Exactly one of input_ids and inputs_embeds is needed, got {given}.")
    named = ", ".join(dimensions)
    if input_ids is not None:
        _check_ids("input_ids", input_ids)
        if input_ids.dim() != len(dimensions):
            raise ValueError(f"input_ids must have shape ({named}), got {tuple(input_ids.shape)}.")
        tokens, shape = input_ids, tuple(input_ids.shape)
    else:
        assert inputs_embeds is not None
        check_tensor("inputs_embeds", inputs_embeds)
        width = "hidden_size" if config.embedding_size is None else "embedding_size"
        if inputs_embeds.dim() != len(dimensions) + 1 or inputs_embeds.shape[-1] != config.embedding_dim:
            raise ValueError(
                f"inputs_embeds must have shape ({named}, {width}={config.embedding_dim}), "
                f"got {tuple(inputs_embeds.shape)}."
            )
        tokens, shape = inputs_embeds, tuple(inputs_embeds.shape[:-1])
    if not is_tracing(tokens) and 0 in shape:
        raise ValueError(f"The batch is empty: ({named}) is {shape}; each must be at least 1.")

    if attention_mask is not None:
        _check_mask_shape(attention_mask, shape, config.num_attention_heads)
    one_for_all = (*(1 for _ in shape[:-1]), shape[-1])
    for name, ids, allowed in (
        ("position_ids", position_ids, (shape, one_for_all)),
        ("token_type_ids", token_type_ids, (shape,)),
    ):
        if ids is not None:
            _check_ids(name, ids)
            if tuple(ids.shape) not in allowed:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(ids.shape)}.")
    return shape


def _check_mask_shape(attention_mask: torch.Tensor, shape: tuple[int, ...], heads: int) -> None:
    *texts, seq = shape
    got: Any = type(attention_mask).__name__
    if isinstance(attention_mask, torch.Tensor):
        got = tuple(attention_mask.shape)
        of_pairs = len(got) == len(shape) + 2 and got[-3] in (1, heads) and got[-2:] == (seq, seq)
        if got == shape or (of_pairs and list(got[:-3]) in (texts, [1 for _ in texts])):
            return
    raise ValueError(
        f"attention_mask must be a tensor of the shape of the input, {shape}, or a mask of pairs of tokens, of shape "
        f"({', '.join(map(str, texts))}, 1 or {heads} heads, {seq}, {seq}); got {got}."
    )


def check_floating_mask(mask: torch.Tensor) -> None:
    """Checks a floating mask: a 2-D one holds zeros and ones, a 4-D one is added to the scores.

    Raises:
        ValueError: for values that fit the other shape.
    """
    if not mask.is_floating_point() or is_tracing(mask):
        return
    value = float(mask.min() if mask.dim() == 2 else mask.max())
    if mask.dim() == 2 and not value >= 0:
        raise ValueError(
            f"attention_mask of shape {tuple(mask.shape)} contains {value}; allowed are 0 at padding and 1 elsewhere. "
            "Only a 4-D mask is added to the scores."
        )
    if mask.dim() == 4 and not value <= 0:
        raise ValueError(
            f"attention_mask is a floating 4-D mask, which is added to the scores, and contains {value}; allowed are 0 "
            "and less. A mask of zeros and ones must be bool or integer."
        )


def check_embeddings_type(config: SequenceEncoderConfig, inputs_embeds: torch.Tensor, weights: torch.dtype) -> None:
    """Checks that token vectors have the type of the weights, or become it before the first layer.

    Raises:
        ValueError: if the first layer could not take them.
    """
    given = inputs_embeds.dtype
    # Autocast converts all but the widest type.
    if given == weights or (given != torch.float64 and torch.is_autocast_enabled(inputs_embeds.device.type)):
        return
    # The sum with segments or learned positions has the wider type of the two, as in BERT.
    widened = config.type_vocab_size > 0 or config.position_embedding == "learned"
    if not (widened and torch.promote_types(given, weights) == weights):
        raise ValueError(
            f"inputs_embeds must be {weights}, the type of the model's weights, got {given}; convert them with "
            f"inputs_embeds.to({weights})."
        )


def check_positions(config: SequenceEncoderConfig, position_ids: torch.Tensor) -> None:
    """Checks that learned positions have a row for every position; the other kinds know no limit.

    Raises:
        ValueError: if a text is longer than `max_position_embeddings`, or a position is negative.
    """
    if config.position_embedding != "learned" or is_tracing(position_ids) or position_ids.numel() == 0:
        return
    low, high = torch.stack(position_ids.aminmax()).tolist()
    if low < 0 or high >= config.max_position_embeddings:
        raise ValueError(
            f"position_ids reach {low if low < 0 else high}, but position_embedding='learned' has rows for positions 0 "
            f"to {config.max_position_embeddings - 1} (max_position_embeddings={config.max_position_embeddings}): "
            f"truncate the texts to {config.max_position_embeddings} tokens, or choose position_embedding='sinusoidal' "
            "or 'rotary', which have no limit."
        )


def check_first_positions(position_ids: torch.Tensor, starts: torch.Tensor, offset: int) -> None:
    """Checks that each sequence starts at position 0 or at `position_offset`, which tells how its positions count.

    `starts`, (B, S) bool, marks the first token of every sequence.

    Raises:
        ValueError: if a sequence starts at another position, from which both readings would be possible.
    """
    if is_tracing(position_ids):
        return
    first = position_ids[starts]
    other = (first != 0) & (first != offset)
    if bool(other.any()):
        raise ValueError(
            f"position_ids start a text at {int(first[other][0])}; with position_offset={offset} they must start at 0, "
            f"or at {offset} as RoBERTa's do (DataCollatorWithFlattening(position_ids_start={offset})). A text starts "
            " wherever position_ids do not grow; attention_mask must be 0 at padding."
        )


def check_offsets(
    cu_seq_lens_q: torch.Tensor | None,
    cu_seq_lens_k: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    shape: tuple[int, int],
) -> None:
    """Checks `cu_seq_lens_q` of a batch that comes packed: one row, no mask, growing from 0 to the row's length.

    Raises:
        ValueError: if it describes another batch than the one at hand, or is missing beside `cu_seq_lens_k`.
    """
    if cu_seq_lens_q is None:
        if cu_seq_lens_k is not None:
            raise ValueError(
                "cu_seq_lens_k is given without cu_seq_lens_q, which says where documents start; give cu_seq_lens_q."
            )
        return
    _check_ids("cu_seq_lens_q", cu_seq_lens_q)
    if attention_mask is not None:
        raise ValueError("cu_seq_lens_q describes a batch without padding and goes without attention_mask, got both.")
    if shape[0] != 1:
        raise ValueError(f"cu_seq_lens_q describes a batch of one packed row, got a batch of {shape[0]} rows.")
    if cu_seq_lens_q.dim() != 1:
        raise ValueError(f"cu_seq_lens_q must have shape (documents + 1,), got {tuple(cu_seq_lens_q.shape)}.")
    if is_tracing(cu_seq_lens_q):
        return
    offsets = cu_seq_lens_q.tolist()
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != shape[1] or sorted(offsets) != offsets:
        raise ValueError(
            f"cu_seq_lens_q must grow from 0 to the number of tokens in the row, {shape[1]}, got {offsets}."
        )


def check_document_index(seq_idx: torch.Tensor, attention_mask: torch.Tensor | None, shape: tuple[int, int]) -> None:
    """Checks `seq_idx` where it alone says which document each token is of: a whole number for each, and no mask.

    Raises:
        ValueError: if it describes another batch than the one at hand.
    """
    _check_whole_numbers("seq_idx", seq_idx)
    if tuple(seq_idx.shape) != shape:
        raise ValueError(f"seq_idx must have shape {shape}, got {tuple(seq_idx.shape)}.")
    if attention_mask is not None:
        raise ValueError(
            "seq_idx without position_ids describes a batch without padding and goes without attention_mask, got both."
        )


def check_class_labels(name: str, labels: torch.Tensor, size: int, limit: str, shape: tuple[int, ...]) -> None:
    """Checks that class labels have the expected shape and are -100 (ignored) or in [0, size).

    Raises:
        ValueError: for another shape, a floating type or a label outside the range.
    """
    _check_whole_numbers(name, labels)
    if tuple(labels.shape) not in (tuple(shape), (*shape, 1), (torch.Size(shape).numel(),)):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(labels.shape)}.")
    if is_tracing(labels) or labels.numel() == 0:
        return
    labels = labels.long()  # 156 as uint8 would equal -100
    outside = (labels != IGNORED) & ((labels < 0) | (labels >= size))
    if bool(outside.any()):
        raise ValueError(
            f"{name} contains {int(labels[outside].flatten()[0])}; allowed are 0 to {size - 1} ({limit}), and "
            f"{IGNORED} for what is to be ignored."
        )


def check_needed(needed: torch.Tensor | bool, shape: tuple[int, int]) -> None:
    """Checks that what is needed of a batch of a shape (B, S) is all, nothing, or one truth for each token.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(needed, bool):
        return
    check_tensor("needed", needed)
    if needed.dtype != torch.bool or tuple(needed.shape) != shape:
        raise ValueError(
            f"needed must be True, False or a tensor of bool of shape {shape}, got {needed.dtype} of shape "
            f"{tuple(needed.shape)}."
        )


def batch_shape(input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> tuple[int, int] | None:
    """(B, S) of a batch; None if there is none, which `check_inputs` then says."""
    tokens = input_ids if input_ids is not None else inputs_embeds
    if not isinstance(tokens, torch.Tensor) or tokens.dim() < 2:
        return None
    return tokens.shape[0], tokens.shape[1]


def check_targets(name: str, labels: torch.Tensor, num_labels: int, problem_type: str | None, batch: int) -> None:
    """Checks that the numbers of a regression, or the zeros and ones of several labels, are one for each output.

    Raises:
        ValueError: for another shape, or for several labels that are not between 0 and 1.
    """
    check_tensor(name, labels)
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


def check_classification_labels(
    labels: torch.Tensor, problem_type: ProblemType | None, num_labels: int, batch: int
) -> ProblemType:
    """Checks the labels of whole texts, and returns what kind they are: `problem_type`, or what they show without it.

    Raises:
        ValueError: for labels of another shape or type, or outside the range.
    """
    check_tensor("labels", labels)
    if problem_type is None:
        # As transformers decides: zeros and ones of type bool are several labels.
        whole = labels.dtype in (torch.int32, torch.int64)
        problem_type = "single_label_classification" if whole else "multi_label_classification"
        problem_type = "regression" if num_labels == 1 else problem_type
    if problem_type == "single_label_classification":
        check_class_labels("labels", labels, num_labels, "num_labels", (batch,))
    else:
        check_targets("labels", labels, num_labels, problem_type, batch)
    return problem_type


def check_answer_positions(
    name: str, positions: torch.Tensor, shape: tuple[int, int], attention_mask: torch.Tensor | None
) -> None:
    """Checks the positions of an answer's start or end; those past the sequence are allowed, and ignored.

    Raises:
        ValueError: for another shape or type, a negative position, or one in the padding that a 2-D mask marks.
    """
    _check_whole_numbers(name, positions)
    if positions.numel() != shape[0]:
        raise ValueError(f"{name} must have shape ({shape[0]},), got {tuple(positions.shape)}.")
    if is_tracing(positions) or positions.numel() == 0:
        return
    index = positions.reshape(-1).long()
    wrong = index < 0
    if isinstance(attention_mask, torch.Tensor) and tuple(attention_mask.shape) == shape:
        token_mask = (attention_mask != 0).to(index.device)
        inside = (index < shape[1]) & token_mask.any(dim=1)
        wrong = wrong | (inside & ~token_mask.gather(1, index.clamp(0, shape[1] - 1)[:, None])[:, 0])
    if bool(wrong.any()):
        value = int(index[wrong][0])
        if value >= 0:
            raise ValueError(f"{name} contains {value}, which is padding in its row.")
        raise ValueError(
            f"{name} contains {value}; allowed are 0 to {shape[1] - 1}, and more for an answer outside the text."
        )


def check_num_labels(name: str, config: PreTrainedConfig) -> int:
    """Checks that a configuration has the labels that a classifying head needs, and returns how many.

    Raises:
        ValueError: if there are none.
    """
    if config.num_labels is None or config.num_labels < 1:
        raise ValueError(f"{name} needs num_labels >= 1 in its configuration, got {config.num_labels}.")
    return config.num_labels
