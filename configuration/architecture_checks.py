"""Checks the fields of a `SequenceEncoderConfig` that must fit each other."""

# The configuration imports this module, so that it cannot be imported here.
import math
from itertools import pairwise
from typing import Any

from .parameter_count import encoder_parameters
from .rope_parameters import check_rope_parameters

# Sizes beyond these fail only after minutes or with no memory left: 10**12 weights are 4 TB in float32.
_MAX_LAYERS = 10_000
_MAX_WEIGHTS = 10**12
# The least values of fields that are not None.
_LEAST = {
    **dict.fromkeys(("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size"), 1),
    **dict.fromkeys(("max_position_embeddings", "max_relative_positions", "sliding_window"), 1),
    **dict.fromkeys(("embedding_size", "prediction_head_size", "multi_vector_size"), 1),
    "position_buckets": 2,
    **dict.fromkeys(("num_hidden_layers", "type_vocab_size", "task_type_vocab_size", "position_offset"), 0),
}


def check_number_of_weights(config: Any) -> None:
    """Check that a model is small enough to build, before anything else reads its sizes."""
    if config.num_hidden_layers > _MAX_LAYERS:
        raise ValueError(f"num_hidden_layers must be at most {_MAX_LAYERS:,}, got {config.num_hidden_layers}.")
    weights = encoder_parameters(config)
    if weights > _MAX_WEIGHTS:
        sizes = ["vocab_size", "type_vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size"]
        sizes += ["task_type_vocab_size"] if config.task_type_vocab_size else []
        if config.position_bias == "disentangled":
            sizes += ["position_buckets", "max_relative_positions"]
        given = ", ".join(f"{name}={getattr(config, name)}" for name in (*sizes, "num_hidden_layers"))
        raise ValueError(
            f"{given} need about {weights:,} weights ({weights * 4 >> 30:,} GiB in float32); at most "
            f"{_MAX_WEIGHTS:,} weights are allowed."
        )


def check_architecture(config: Any) -> None:
    """Check sizes, probabilities and the fields that depend on them."""
    check_number_of_weights(config)
    for name, least in _LEAST.items():
        value, field = getattr(config, name), config.__dataclass_fields__[name]
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}{', or None' * (field.default is None)}, got {value}.")
    for name in ("norm_eps", "initializer_range"):
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"{name} must be positive, got {getattr(config, name)}.")
    for name in (field for field in config.__dataclass_fields__ if field.endswith("_dropout")):
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name} must be a probability in [0, 1), got {getattr(config, name)}.")
    if config.num_attention_heads % max(config.key_value_heads, 1) or config.key_value_heads < 1:
        raise ValueError(
            f"num_key_value_heads must divide num_attention_heads={config.num_attention_heads}, got "
            f"{config.num_key_value_heads}."
        )
    if config.prediction_head_size is not None and config.prediction_head != "mlp":
        raise ValueError(
            f"prediction_head_size={config.prediction_head_size} needs prediction_head='mlp', got "
            f"{config.prediction_head!r}."
        )
    size = config.output_embedding_size
    if size is not None and not (size >= 1 and config.prediction_head == "dense"):
        raise ValueError(
            "output_embedding_size must be at least 1 with prediction_head='dense', or None, got "
            f"{size} with {config.prediction_head!r}."
        )
    if outside := [token for token in config.unweighted_token_ids or [] if not 0 <= token < config.vocab_size]:
        raise ValueError(
            f"unweighted_token_ids must be from 0 to vocab_size - 1 = {config.vocab_size - 1}, got {outside[0]}."
        )
    if config.tie_word_embeddings and config.prediction_dim != config.embedding_dim:
        and_size = "" if size is None else f" and output_embedding_size={size}"
        raise ValueError(
            f"tie_word_embeddings=True needs prediction_head='dense' with embedding_size={config.embedding_size} and "
            f"hidden_size={config.hidden_size}, got prediction_head={config.prediction_head!r}{and_size}."
        )
    groups = config.num_hidden_groups
    if groups is not None and not 1 <= groups <= config.num_hidden_layers:
        raise ValueError(
            f"num_hidden_groups must be from 1 to num_hidden_layers={config.num_hidden_layers}, or None, got {groups}."
        )
    if config.first_attn_norm and not (config.norm_placement == "pre" and config.embedding_norm):
        raise ValueError(
            "first_attn_norm=True needs norm_placement='pre' and embedding_norm=True, got "
            f"{config.norm_placement!r} and {config.embedding_norm}. Other first layers have all norms of their "
            "placement."
        )
    if config.hidden_size % config.num_attention_heads:
        small = [n for n in range(1, math.isqrt(config.hidden_size) + 1) if config.hidden_size % n == 0]
        divisors = sorted({*small, *(config.hidden_size // n for n in small)})
        raise ValueError(
            f"hidden_size={config.hidden_size} is not divisible by num_attention_heads={config.num_attention_heads}; "
            f"the divisors are {divisors}."
        )


def check_position_fields(config: Any) -> None:
    """Check the fields that concern positions."""
    if config.position_embedding == "sinusoidal" and config.embedding_dim % 2:
        name = "hidden_size" if config.embedding_size is None else "embedding_size"
        raise ValueError(f"position_embedding='sinusoidal' needs an even {name}, got {config.embedding_dim}.")
    if config.position_offset and config.position_embedding != "learned":
        raise ValueError(
            f"position_offset={config.position_offset} needs position_embedding='learned', got "
            f"{config.position_embedding!r}; leave it out, or pass position_offset=0."
        )
    _check_position_bias(config)
    if config.position_embedding != "rotary":
        if config.rope_parameters is not None:
            raise ValueError(
                f"rope_parameters need position_embedding='rotary', got {config.position_embedding!r}; leave them "
                "out, or pass rope_parameters=None."
            )
        return
    if config.head_dim % 2:
        raise ValueError(
            "position_embedding='rotary' needs an even head size, got "
            f"hidden_size / num_attention_heads = {config.head_dim}."
        )
    check_rope_parameters(config.rope_parameters, config.layer_types or [])


def _check_position_bias(config: Any) -> None:
    buckets, distance = config.relative_attention_num_buckets, config.relative_attention_max_distance
    if buckets < 4 or buckets % 4:
        raise ValueError(f"relative_attention_num_buckets must be a multiple of 4, at least 4, got {buckets}.")
    if distance <= buckets // 4:
        raise ValueError(
            f"relative_attention_max_distance must be above a quarter of relative_attention_num_buckets={buckets}, "
            f"got {distance}."
        )
    if config.position_bias is not None and "sliding_attention" in (config.layer_types or []):
        raise ValueError(f"position_bias={config.position_bias!r} needs layers of 'full_attention' only.")
    _check_disentangled(config)
    _check_convolution(config)


def _check_disentangled(config: Any) -> None:
    """Check the fields of a `disentangled` position bias."""
    bias = config.position_bias
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


def _check_convolution(config: Any) -> None:
    """Check the fields of the convolution."""
    size = config.conv_kernel_size
    if size < 0 or (size and size % 2 == 0):
        raise ValueError(f"conv_kernel_size must be 0 or an odd number, got {size}.")
    if size and config.num_hidden_groups is not None:
        raise ValueError(f"conv_kernel_size={size} needs num_hidden_groups=None, got {config.num_hidden_groups}.")


def check_layer_types(config: Any) -> None:
    """Check that each layer has a type, and that windows have a size."""
    layer_types = config.layer_types or []
    if len(layer_types) != config.num_hidden_layers:
        raise ValueError(
            f"layer_types has {len(layer_types)} entries for num_hidden_layers={config.num_hidden_layers}; pass one "
            "entry per layer, or a shorter pattern that is repeated."
        )
    for index, (one, other) in enumerate(pairwise(config.layer_groups)):
        if one == other and layer_types[index] != layer_types[index + 1]:
            raise ValueError(
                f"layer_types has {layer_types[index]!r} for layer {index} and {layer_types[index + 1]!r} for layer "
                f"{index + 1}, which share their weights; pass one type for each of the {config.num_hidden_groups} "
                "groups of num_hidden_groups."
            )
    if "sliding_attention" in layer_types and config.sliding_window is None:
        raise ValueError("layer_types has 'sliding_attention' layers, which need sliding_window >= 1, got None.")
