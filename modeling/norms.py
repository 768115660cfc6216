"""The norm axis: which normalisation every layer, embedding and head uses."""

from collections.abc import Callable

from torch import nn

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig


def layer_norm(config: SequenceEncoderConfig, size: int | None = None) -> nn.LayerNorm:
    """Layer norm (Ba et al., 2016) over the hidden channels, or over `size` of them."""
    return nn.LayerNorm(size or config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)


def rms_norm(config: SequenceEncoderConfig, size: int | None = None) -> nn.RMSNorm:
    """Root-mean-square norm (Zhang and Sennrich, 2019), likewise; it has no bias."""
    return nn.RMSNorm(size or config.hidden_size, eps=config.norm_eps)


NORMS: dict[str, Callable[..., nn.Module]] = {"layer_norm": layer_norm, "rms_norm": rms_norm}
