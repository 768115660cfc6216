"""Checks arguments before anything is computed. A `ValueError` names the argument, its value and what is allowed.

Values are not checked during tracing or on the meta device, where there are none. Otherwise each check of values makes
the host wait for an accelerator, so related checks are combined.

Shapes: B batch, S sequence.
"""

from typing import Any

import torch
from transformers.utils.generic import is_flash_attention_requested
from transformers.utils.import_utils import is_tracing

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig


def has_values(tensor: torch.Tensor) -> bool:
    """Return whether a tensor has values: not during tracing, and not on the meta device."""
    return not (is_tracing(tensor) or tensor.is_meta)


def check_is_encoder(config: SequenceEncoderConfig) -> None:
    """Check that a configuration does not ask for a decoder."""
    for name in ("is_decoder", "add_cross_attention"):
        if value := getattr(config, name, False):
            raise ValueError(
                f"{name}={value!r} is not supported: a SequenceEncoder has neither a causal mask nor cross-attention. "
                "Set it to False, or choose a decoder of another family, such as BERT, for example with "
                "DenoisingAutoEncoderLoss(…, decoder_name_or_path=…, tie_encoder_decoder=False)."
            )


def check_tensor(name: str, value: Any) -> None:
    """Check that an argument is a tensor."""
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{name} must be a tensor, got {type(value).__name__}.")


def _check_ids(name: str, ids: Any) -> None:
    check_tensor(name, ids)
    if ids.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{name} must be int32 or int64, got {ids.dtype}.")


def check_integers(name: str, values: Any) -> None:
    """Check that an argument is a tensor of integers or booleans."""
    check_tensor(name, values)
    if values.is_floating_point():
        raise ValueError(f"{name} must be integers, got {values.dtype}.")


def _check_ranges(checked: list[tuple[str, torch.Tensor, int, str]]) -> None:
    """Check that integers are in range, given tuples of a name, a tensor, the upper limit, and what sets it."""
    if not checked or not has_values(checked[0][1]):
        return
    extremes = torch.stack([torch.stack(ids.aminmax()).long() for _, ids, _, _ in checked]).tolist()
    for (name, _, size, limit), (low, high) in zip(checked, extremes, strict=True):
        if low < 0 or high >= size:
            raise ValueError(f"{name} must be from 0 to {size - 1} ({limit}), got {low if low < 0 else high}.")


def check_inputs(config: SequenceEncoderConfig, *inputs: torch.Tensor | None) -> tuple[int, int]:
    """Check the inputs of a model, from `input_ids` to `inputs_embeds`, against its configuration; return (B, S)."""
    batch, seq = check_shapes(config, *inputs)
    input_ids, attention_mask, token_type_ids, _, _ = inputs
    if attention_mask is not None:
        check_floating_mask(attention_mask)
    checked = []
    if input_ids is not None:
        checked.append(("input_ids", input_ids, config.vocab_size, "vocab_size"))
    if token_type_ids is not None and config.type_vocab_size:
        hint = "; with one segment type, leave them out" if config.type_vocab_size == 1 else ""
        checked.append(("token_type_ids", token_type_ids, config.type_vocab_size, f"type_vocab_size{hint}"))
    _check_ranges(checked)
    return batch, seq


def check_shapes(
    config: SequenceEncoderConfig,
    *inputs: torch.Tensor | None,
    dimensions: tuple[str, ...] = ("batch", "sequence"),
) -> tuple[int, ...]:
    """Check the shapes and dtypes of the inputs of a model, and return the sizes of `dimensions`.

    These are the names of the dimensions of `input_ids`, which other inputs have as well.
    """
    input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds = inputs
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
        f"attention_mask must be a tensor of shape {shape} like the input, or a mask of pairs of tokens of shape "
        f"({', '.join(map(str, texts))}, 1 or {heads} heads, {seq}, {seq}); got {got}."
    )


def check_floating_mask(mask: torch.Tensor) -> None:
    """Check a floating mask: a 2-D mask has zeros and ones, and a 4-D mask is added to the scores."""
    if not mask.is_floating_point() or not has_values(mask):
        return
    value = float(mask.min() if mask.dim() == 2 else mask.max())
    if mask.dim() == 2 and not value >= 0:
        raise ValueError(
            f"attention_mask of shape {tuple(mask.shape)} must be 0 at padding and 1 elsewhere, got {value}. Only a "
            "4-D mask is added to the scores."
        )
    if mask.dim() == 4 and not value <= 0:
        raise ValueError(
            f"A floating 4-D attention_mask is added to the scores and must be at most 0, got {value}. A mask of zeros "
            "and ones must be bool or integer."
        )


def check_embeddings_type(config: SequenceEncoderConfig, inputs_embeds: torch.Tensor, weights: torch.dtype) -> None:
    """Check that token vectors have the dtype of the weights, or are converted to it before the first layer."""
    given = inputs_embeds.dtype
    # Autocast converts all dtypes but float64.
    if given == weights or (given != torch.float64 and torch.is_autocast_enabled(inputs_embeds.device.type)):
        return
    # Adding segments or learned positions promotes to the wider dtype, as in BERT.
    widened = bool(config.type_vocab_size or config.task_type_vocab_size) or config.position_embedding == "learned"
    if not (widened and torch.promote_types(given, weights) == weights):
        raise ValueError(
            f"inputs_embeds must be {weights} like the model's weights, got {given}; convert them with "
            f"inputs_embeds.to({weights})."
        )


def check_positions(config: SequenceEncoderConfig, position_ids: torch.Tensor) -> None:
    """Check that learned positions have a row for every position. The other kinds of positions have no limit."""
    if config.position_embedding != "learned" or not has_values(position_ids) or position_ids.numel() == 0:
        return
    low, high = torch.stack(position_ids.aminmax()).tolist()
    if low < 0 or high >= config.max_position_embeddings:
        raise ValueError(
            f"position_ids with position_embedding='learned' must be from 0 to {config.max_position_embeddings - 1} "
            f"(max_position_embeddings={config.max_position_embeddings}), got {low if low < 0 else high}. Truncate the "
            f"texts to {config.max_position_embeddings} tokens, or choose position_embedding='sinusoidal' or 'rotary', "
            "which have no limit."
        )


def check_first_positions(position_ids: torch.Tensor, starts: torch.Tensor, offset: int) -> None:
    """Check that the positions (B, S) of each sequence start at 0 or at `position_offset`; elsewhere, it is unknown.

    `starts`, (B, S) bool, marks the first token of every sequence.
    """
    if not has_values(position_ids):
        return
    first = position_ids[starts]
    other = (first != 0) & (first != offset)
    if bool(other.any()):
        raise ValueError(
            f"position_ids with position_offset={offset} must start at 0, or at {offset} as in RoBERTa "
            f"(DataCollatorWithFlattening(position_ids_start={offset})); got a text that starts at "
            f"{int(first[other][0])}. Texts start wherever position_ids do not increase, and attention_mask must be 0 "
            "at padding."
        )


def check_offsets(
    cu_seq_lens_q: torch.Tensor | None,
    cu_seq_lens_k: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    shape: tuple[int, int],
) -> None:
    """Check `cu_seq_lens_q` of a batch that the caller packed: one row, no mask, rising from 0 to the row's length."""
    if cu_seq_lens_q is None:
        if cu_seq_lens_k is not None:
            raise ValueError(
                "cu_seq_lens_k needs cu_seq_lens_q, from which the model reads where documents start; pass both."
            )
        return
    _check_ids("cu_seq_lens_q", cu_seq_lens_q)
    if attention_mask is not None:
        raise ValueError("cu_seq_lens_q needs a batch without padding and without attention_mask, got both.")
    if shape[0] != 1:
        raise ValueError(f"cu_seq_lens_q needs a batch of one packed row, got a batch of {shape[0]} rows.")
    if cu_seq_lens_q.dim() != 1:
        raise ValueError(f"cu_seq_lens_q must have shape (documents + 1,), got {tuple(cu_seq_lens_q.shape)}.")
    if not has_values(cu_seq_lens_q):
        return
    offsets = cu_seq_lens_q.tolist()
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != shape[1] or sorted(offsets) != offsets:
        raise ValueError(
            f"cu_seq_lens_q must increase from 0 to the number of tokens in the row, {shape[1]}, got {offsets}."
        )


def check_document_index(seq_idx: torch.Tensor, attention_mask: torch.Tensor | None, shape: tuple[int, int]) -> None:
    """Check `seq_idx` if only it assigns tokens to documents: it needs an integer for each token, and no mask."""
    check_integers("seq_idx", seq_idx)
    if tuple(seq_idx.shape) != shape:
        raise ValueError(f"seq_idx must have shape {shape}, got {tuple(seq_idx.shape)}.")
    if attention_mask is not None:
        raise ValueError(
            "seq_idx without position_ids needs a batch without padding and without attention_mask, got both."
        )


def check_needed(needed: torch.Tensor | bool, shape: tuple[int, int]) -> None:
    """Check that `needed` is True, False, or a bool for each token."""
    if isinstance(needed, bool):
        return
    check_tensor("needed", needed)
    if needed.dtype != torch.bool or tuple(needed.shape) != shape:
        raise ValueError(
            f"needed must be True, False or a bool tensor of shape {shape}, got {needed.dtype} of shape "
            f"{tuple(needed.shape)}."
        )


def check_attentions(config: SequenceEncoderConfig) -> None:
    """Check that the attention implementation can return attention weights."""
    implementation = config._attn_implementation
    if implementation not in ("eager", "sdpa"):
        raise ValueError(
            f"output_attentions needs attn_implementation 'sdpa' or 'eager', got {implementation!r}, which returns no "
            "weights. Load with attn_implementation='sdpa', or call model.set_attn_implementation('sdpa')."
        )


def check_windows_with_gaps(config: SequenceEncoderConfig) -> None:
    """Check that windows can count tokens inside a sequence that the mask leaves out."""
    if is_flash_attention_requested(config):
        raise ValueError(
            "attention_mask leaves out tokens inside a sequence. In sliding_attention layers, "
            f"attn_implementation={config._attn_implementation!r} would not count them in its window; choose 'sdpa'."
        )


def on_host(tensor: Any) -> Any:
    """Copy a tensor to the host once, for several checks; return one without values, and anything else, unchanged."""
    return tensor.cpu() if isinstance(tensor, torch.Tensor) and has_values(tensor) else tensor


def batch_shape(input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> tuple[int, int] | None:
    """Return (B, S) of a batch; None if the inputs are missing or invalid, which `check_inputs` reports later."""
    tokens = input_ids if input_ids is not None else inputs_embeds
    if not isinstance(tokens, torch.Tensor) or tokens.dim() < 2:
        return None
    return tokens.shape[0], tokens.shape[1]
