"""Describes an encoder's architecture in words, for its model card."""

from __future__ import annotations

from collections import Counter
from typing import Any

from transformers import PreTrainedModel

from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ...configuration.configuration_task_adapter import TaskAdapterConfig

_NORMS = {"layer_norm": "layer norm", "rms_norm": "RMS norm"}
_PLACES = {"post": "after each residual addition", "pre": "before each branch, and after the last layer"}
_FEED_FORWARDS = {"mlp": "two linear layers with {act} between them", "glu": "gated by {act} (GLU)"}
_BIASES = {
    "bucketed": "a learned bias on the attention scores for each of {} ranges of distances",
    "alibi": "a penalty on the attention scores that grows with the distance (ALiBi)",
    "disentangled": "products of tokens with embeddings of their distance, added to the attention scores",
}
_POOLINGS = {"mean": "the mean of all tokens", "cls": "the first token"}


def describe_architecture(model: PreTrainedModel) -> list[tuple[str, str]]:
    """Return (part, description) rows: the axes of the configuration, the sizes and the labels."""
    config: Any = model.config
    rows = [("parameters", f"{model.num_parameters():,}, {str(model.dtype).removeprefix('torch.')}")]
    if (quantization := getattr(config, "quantization_config", None)) is not None:
        rows.append(("weights", _in_eight_bits(quantization)))
    if isinstance(config, TaskAdapterConfig):
        rows.append(("trained", f"a linear classifier with {config.num_labels} outputs; the encoder is frozen"))
        rows.append(("pooling", _POOLINGS[config.pooling]))
        rows.append(("encoder", type(getattr(model, "encoder", None)).__name__))
        config = config.encoder_config
    elif getattr(model.base_model, "pooler", None) is not None:
        rows.append(("pooling", _POOLINGS[config.pooling] + _pooler(config)))
    if isinstance(config, SequenceEncoderConfig):
        rows += _axes(config)
    if hasattr(model, "num_labels"):
        names = [str(label) for _, label in sorted((model.config.id2label or {}).items())]
        shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        rows.append(("labels", shown))
    return rows


def _in_eight_bits(quantization: Any) -> str:
    settings = quantization if isinstance(quantization, dict) else quantization.to_dict()
    words = f"eight bits in {len(settings.get('modules') or ())} layers"
    found = settings.get("found")
    return words if found is None else f"{words}; mean cosine to the outputs before: {found:.5f}"


def _axes(config: SequenceEncoderConfig) -> list[tuple[str, str]]:
    feed_forward = _FEED_FORWARDS[config.feed_forward].format(act=config.hidden_act)
    if config.mlp_down_bias is not None:
        biased = "the last layer only" if config.mlp_down_bias else "all but the last layer"
        feed_forward += f", with a bias in {biased}"
    return [
        (
            "layers",
            f"{_depth(config)}, with {config.hidden_size:,} channels and {_heads(config)}",
        ),
        ("attention", _attention(config)),
        ("positions", _positions(config)),
        ("norms", f"{_NORMS[config.norm]}, {_PLACES[config.norm_placement]}{_after_embeddings(config)}"),
        ("feed-forward", f"{feed_forward}, {config.intermediate_size:,} channels"),
        ("embeddings", _embeddings(config)),
    ]


def _heads(config: SequenceEncoderConfig) -> str:
    queries = f"{config.num_attention_heads} heads"
    if config.num_key_value_heads is None:
        return queries
    return f"{queries} that share {config.num_key_value_heads} heads of keys and values"


def _depth(config: SequenceEncoderConfig) -> str:
    if config.num_hidden_groups is None:
        return f"{config.num_hidden_layers}"
    groups = "" if config.num_hidden_groups == 1 else f" in {config.num_hidden_groups} groups"
    return f"{config.num_hidden_layers} that share their weights{groups}"


def _pooler(config: SequenceEncoderConfig) -> str:
    if config.pooler_act is None:
        return ""
    layer = f"a dense layer with {config.pooler_act}"
    return f", followed by {layer}" if config.pooler_placement == "after" else f" after {layer} for each token"


def _after_embeddings(config: SequenceEncoderConfig) -> str:
    return ", the first also after the normalised embeddings" if config.first_attn_norm else ""


def _attention(config: SequenceEncoderConfig) -> str:
    counts = Counter(config.layer_types)
    sliding = counts["sliding_attention"]
    if not sliding:
        return "global: each token attends to its whole text"
    window = f"local: each token attends to those at most {config.sliding_window} tokens away"
    return window if sliding == config.num_hidden_layers else f"{window} in {sliding} of the layers; global in the rest"


def _positions(config: SequenceEncoderConfig) -> str:
    parts = {"none": [], "rotary": [_rotary(config)]}.get(config.position_embedding, [config.position_embedding])
    if config.position_embedding == "learned":
        parts = [f"learned, for up to {config.max_position_embeddings:,} tokens"]
    if config.position_bias is not None:
        parts = [*parts, _BIASES[config.position_bias].format(config.relative_attention_num_buckets)]
    return "; ".join(parts) or "none"


def _rotary(config: SequenceEncoderConfig) -> str:
    bases = {parameters["rope_theta"] for parameters in (config.rope_parameters or {}).values()}
    return f"rotary, with base {' or '.join(f'{base:,.0f}' for base in sorted(bases))}"


def _embeddings(config: SequenceEncoderConfig) -> str:
    parts = [f"{config.vocab_size:,} tokens"]
    if config.embedding_size is not None:
        parts.append(f"{config.embedding_size:,} channels")
    if config.type_vocab_size:
        parts.append(f"{config.type_vocab_size} segment types")
    if config.output_embedding_size is not None:
        parts.append(f"predicted from {config.output_embedding_size:,} channels")
    if config.task_type_vocab_size:
        parts.append(f"{config.task_type_vocab_size} task types, of which task 0 is used")
    if config.scale_embeddings:
        parts.append("scaled by the square root of the hidden size")
    if config.embedding_norm:
        parts.append("normalised")
    if config.conv_kernel_size and config.num_hidden_layers:
        place = "beside" if config.norm_placement == "post" else "before"
        parts.append(f"with a convolution over {config.conv_kernel_size} tokens {place} the first layer")
    return ", ".join(parts)
