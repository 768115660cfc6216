"""Finds the scales of a layer: those that change its output least on inputs that the ranges do not come from.

Shapes: K inputs, N outputs.
"""

from __future__ import annotations

import torch
from torch import nn

from ...modeling.quantized.eight_bit_embedding import EightBitEmbedding
from ...modeling.quantized.eight_bit_linear import HIGHEST, LOWEST, EightBitLinear
from .input_ranges import Inputs

# How much of the range of a channel moves from its input to its weight (α of SmoothQuant).
_SMOOTHING = (0.0, 0.25, 0.5, 0.65, 0.8, 0.9)
# How much wider than the recorded ranges the integers reach.
_MARGINS = (1.0, 1.15, 1.3)
_LARGEST_WEIGHT = 127


def fit_linear(linear: nn.Linear, seen: Inputs, unseen: Inputs, outliers: int, uniform: bool) -> EightBitLinear:
    """Quantize a linear layer.

    Args:
        linear: The layer.
        seen: Inputs that determine the ranges.
        unseen: Other inputs, on which the errors of the candidates are compared.
        outliers: The number of channels with the largest values to leave out.
        uniform: Whether all other channels must have the same scale and offset.
    """
    weight = linear.weight.detach().float()
    channels = torch.maximum(seen.lowest.abs(), seen.highest.abs()).topk(outliers).indices.sort().values
    kept = torch.ones(len(seen.lowest), dtype=torch.bool)
    kept[channels] = False
    rows = unseen.rows * kept
    expected = rows @ weight.t()
    # No channel is so narrow that its scale is 0.
    half = ((seen.highest - seen.lowest) / 2).clamp(min=1e-6)
    middle = (seen.highest + seen.lowest) / 2
    if uniform:
        low, high = seen.lowest[kept].min(), seen.highest[kept].max()
        half, middle = ((high - low) / 2).expand_as(half), ((high + low) / 2).expand_as(half)
    column = (weight * kept).abs().amax(0).clamp(min=1e-6)
    best: tuple[float, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor] | None = None
    for smoothing in (None,) if uniform else _SMOOTHING:
        share = torch.ones_like(half) if smoothing is None else half**smoothing / column ** (1 - smoothing)
        for margin in _MARGINS:
            scale = share * (half / share)[kept].max() * margin / HIGHEST
            # Inputs in bfloat16 are multiplied by the inverse, which it then represents exactly.
            scale = 1 / (1 / scale).bfloat16().float()
            offset = (-middle / scale).round().clamp(LOWEST, HIGHEST)
            integers = ((rows / scale + offset).round().clamp(LOWEST, HIGHEST) - offset) * kept
            scaled = weight * scale * kept
            row_scale = (scaled.abs().amax(1) / _LARGEST_WEIGHT).clamp(min=torch.finfo(torch.float32).tiny)
            quantized = (scaled / row_scale[:, None]).round()
            error = float(((integers @ quantized.t()) * row_scale - expected).square().sum())
            if best is None or error < best[0]:
                best = (error, scale, offset, quantized, row_scale)
    assert best is not None
    _, scale, offset, quantized, row_scale = best
    result = EightBitLinear(linear.in_features, linear.out_features, linear.bias is not None, outliers)
    result.weight.data = quantized.to(torch.int8)
    result.weight_scale, result.input_scale, result.input_offset = row_scale, scale, offset
    if result.bias is not None:
        result.bias.data = linear.bias.detach().clone()
    if result.outlier_weight is not None:
        result.outlier_channels = channels
        result.outlier_weight.data = linear.weight.detach()[:, channels].clone()
    return result.train(linear.training)


def fit_embedding(embedding: nn.Embedding) -> EightBitEmbedding:
    """Quantize a table of vectors, each with the scale of its largest value."""
    weight = embedding.weight.detach()
    scale = weight.float().abs().amax(1, keepdim=True) / _LARGEST_WEIGHT
    # As the layer multiplies with it.
    scale = scale.clamp(min=torch.finfo(torch.float16).tiny).to(weight.dtype)
    result = EightBitEmbedding(embedding.num_embeddings, embedding.embedding_dim)
    result.weight.data = (
        (weight.float() / scale.float()).round().clamp(-_LARGEST_WEIGHT, _LARGEST_WEIGHT).to(torch.int8)
    )
    result.weight_scale.data = scale
    return result.train(embedding.training)
