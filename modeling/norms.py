"""The norm axis: which normalisation every layer, embedding and head uses."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig


def layer_norm(config: SequenceEncoderConfig) -> nn.LayerNorm:
    """Layer norm (Ba et al., 2016) over the hidden channels."""
    return nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)


def rms_norm(config: SequenceEncoderConfig) -> nn.RMSNorm:
    """Root-mean-square norm (Zhang and Sennrich, 2019) over the hidden channels; it has no bias."""
    return nn.RMSNorm(config.hidden_size, eps=config.norm_eps)


NORMS: dict[str, Callable[[SequenceEncoderConfig], nn.Module]] = {"layer_norm": layer_norm, "rms_norm": rms_norm}
