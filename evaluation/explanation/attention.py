"""The attention of chosen layers, without the slow path that returns the weights of all layers.

Shapes: H heads, L tokens of a row, D hidden.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ...modeling.attention.masks import padded_masks
from ...modeling.text_encoding.evaluation_mode import evaluation_mode
from .words import Row


@torch.no_grad()
def attention_weights(encoder: Any, row: Row, layers: Iterable[int]) -> dict[int, torch.Tensor]:
    """Compute the attention weights of some layers for one text.

    The model computes the text as always. Only the chosen layers compute their attention again, from their inputs.

    Args:
        encoder: The encoder.
        row: The tokens of the text.
        layers: The indices of layers.

    Returns:
        The weights of each layer, (H, L, L): how much each token (row) reads of each other (column).

    Raises:
        ValueError: If the attention implementation has no weights.
    """
    found: dict[int, torch.Tensor] = {}
    wanted, length = set(layers), len(row.ids)
    modules = [layer.self_attn for layer in encoder._layers_in_order()]
    types = [layer.layer_type for layer in encoder._layers_in_order()]
    depth, thread = -1, threading.get_ident()

    def compute(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Layers that share their weights are one module, so calls are counted.
        nonlocal depth
        # Other threads may use the model at the same time.
        if threading.get_ident() != thread:
            return
        depth += 1
        if depth not in wanted or kwargs.get("attend") is None:
            return
        lengths = kwargs["attend"].lengths
        # The model may have appended copies of the text's first tokens, as a separate sequence.
        first = sum(lengths[: lengths.index(length)])
        hidden = args[0][:, first : first + length]
        rotation = kwargs.get("rotation")
        if rotation is not None:
            rotation = tuple(each[:, first : first + length] if each.shape[1] > 1 else each for each in rotation)
        found[depth] = _weights(encoder, module, hidden, rotation, types[depth])

    handles = [module.register_forward_pre_hook(compute, with_kwargs=True) for module in dict.fromkeys(modules)]
    try:
        with evaluation_mode(encoder):
            encoder(**_inputs(encoder, row))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _weights(encoder: Any, module: Any, hidden: torch.Tensor, rotation: Any, layer_type: str) -> torch.Tensor:
    """Return the weights (H, L, L) of one layer for its input (1, L, D)."""
    masks = padded_masks(encoder.config, hidden, None, None)
    bias: tuple[torch.Tensor, ...] = ()
    if encoder.config.position_bias is not None:
        bias = encoder.position_bias.for_layers(encoder._layers_in_order(), hidden.shape[1], hidden)
        masks, bias = encoder.position_bias.in_padded(masks, *bias)
    weights = module.forward(hidden, masks[layer_type], *bias, rotation=rotation, output_attentions=True)[1]
    if weights is None:
        name = encoder.config._attn_implementation
        raise ValueError(f"attn_implementation {name!r} has no weights; call model.set_attn_implementation('sdpa').")
    return weights[0].float().cpu()


def _inputs(encoder: Any, row: Row) -> dict[str, torch.Tensor]:
    inputs = {"input_ids": row.ids, **({} if row.types is None else {"token_type_ids": row.types})}
    return {name: torch.tensor([values], device=encoder.device) for name, values in inputs.items()}


def rolled_out(weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return attention rollout (Abnar and Zuidema, 2020): how much of each token reaches each token of the last layer.

    Args:
        weights: The weights of all layers in order, (H, L, L) each.

    Returns:
        (L, L), whose rows sum to 1.
    """
    flow = torch.eye(weights[0].shape[-1])
    for layer in weights:
        # Half of what a layer returns is its input, which bypasses attention.
        flow = (0.5 * layer.mean(0) + 0.5 * torch.eye(len(flow))) @ flow
    return flow
