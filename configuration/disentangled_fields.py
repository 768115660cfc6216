"""Checks the fields of disentangled attention and of the convolution beside the first layer, which DeBERTa has."""

from typing import Any


def check_disentangled(config: Any) -> None:
    """Check the fields of a `disentangled` position bias."""
    bias = config.position_bias
    for name, least in (("position_buckets", 2), ("max_relative_positions", 1)):
        value = getattr(config, name)
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, or None, got {value}.")
    if bias == "disentangled":
        if not config.pos_att_type:
            raise ValueError("pos_att_type must have 'c2p', 'p2c' or both for position_bias='disentangled', got [].")
        if config.num_key_value_heads is not None:
            raise ValueError(
                f"position_bias='disentangled' needs num_key_value_heads=None, got {config.num_key_value_heads}."
            )
        return
    defaults = {"pos_att_type": None, "position_buckets": None, "max_relative_positions": None}
    for name, default in (defaults | {"share_att_key": False, "norm_rel_ebd": "none"}).items():
        if getattr(config, name) != default:
            raise ValueError(f"{name}={getattr(config, name)!r} needs position_bias='disentangled', got {bias!r}.")


def check_convolution(config: Any) -> None:
    """Check the fields of the convolution."""
    size = config.conv_kernel_size
    if size < 0 or (size and size % 2 == 0):
        raise ValueError(f"conv_kernel_size must be 0 or an odd number, got {size}.")
    if size and config.norm_placement != "post":
        raise ValueError(f"conv_kernel_size={size} needs norm_placement='post', got {config.norm_placement!r}.")
    if size and config.num_hidden_groups is not None:
        raise ValueError(f"conv_kernel_size={size} needs num_hidden_groups=None, got {config.num_hidden_groups}.")
