"""The norms that layers, embeddings and heads can use."""

from collections.abc import Callable

from torch import nn

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig


def layer_norm(config: SequenceEncoderConfig, size: int | None = None) -> nn.LayerNorm:
    """Create a layer norm (Ba et al., 2016) over `size` channels, by default `hidden_size`."""
    return nn.LayerNorm(size or config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)


def rms_norm(config: SequenceEncoderConfig, size: int | None = None) -> nn.RMSNorm:
    """Create a root-mean-square norm (Zhang and Sennrich, 2019), which has no bias, over `size` channels."""
    return nn.RMSNorm(size or config.hidden_size, eps=config.norm_eps)


NORMS: dict[str, Callable[..., nn.Module]] = {"layer_norm": layer_norm, "rms_norm": rms_norm}
