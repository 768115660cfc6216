"""Counts the parameters of a model from its configuration alone, so that nothing needs torch or builds the model."""

# The configuration imports this module, so that it cannot be imported here.
from typing import Any

from ..saving.auto_classes import model_classes
from .span_extraction_field import span_extraction_fields
from .zero_shot_classification_field import zero_shot_classification_fields


def count_parameters(config: Any, name: str) -> int:
    """Return the number of parameters of a model.

    Args:
        config: The configuration.
        name: The name of its class.
    """
    kind = model_classes()[name]
    size, total = config.hidden_size, encoder_parameters(config)
    if kind.pools and config.pooler_act is not None:
        total += _linear(size, size)
    if "VocabularyModel" in kind.bases:
        total += _dense_head(config, config.prediction_head, config.prediction_dim)
        total += _linear(config.prediction_dim, config.vocab_size, config.decoder_bias)
        total -= config.prediction_dim * config.vocab_size if config.tie_word_embeddings else 0
    if "TaskModel" in kind.bases:
        total += _dense_head(config, config.classifier_head, size)
    if kind.name == "SequenceEncoderForZeroShotClassification":
        total += _zero_shot_classification_head(size, zero_shot_classification_fields(config))
    if "ExtractionMixin" in kind.bases:
        head = span_extraction_fields(config)
        inner = head.hidden_size or size
        total += _span_extraction_head(size, head)
        if head.label_encoder is not None:
            labels = type(config)(**head.label_encoder)
            total += encoder_parameters(labels)
            total += 0 if labels.hidden_size == inner else _linear(labels.hidden_size, inner)
    outputs = (getattr(config, each) if isinstance(each, str) else each for each in kind.outputs)
    return total + sum(_linear(size, each) for each in outputs)


def encoder_parameters(config: Any) -> int:
    """Return the number of parameters of the encoder without its pooler.

    The fields need not have been checked: invalid ones give a meaningless number, but no error.
    """
    size, width = config.hidden_size, config.embedding_dim
    rows = config.vocab_size + config.type_vocab_size + config.task_type_vocab_size
    if config.position_embedding == "learned":
        rows += config.position_offset + config.max_position_embeddings
    projects_first = config.embedding_projection == "before_norm"
    total = rows * width
    if config.embedding_norm:
        total += _norm(config, size if projects_first else width)
    if width != size:
        total += _linear(width, size, bias=not projects_first)
    if config.position_bias == "bucketed":
        total += config.relative_attention_num_buckets * config.num_attention_heads
    if config.position_bias == "disentangled":
        total += config.relative_rows * size + (_norm(config, size) if config.norm_rel_ebd == "layer_norm" else 0)
    # There can be more groups than layers, which `check_architecture` rejects.
    total += min(config.num_distinct_layers, config.num_hidden_layers) * _layer_parameters(config)
    if config.conv_kernel_size and config.num_hidden_layers:
        total += _linear(config.conv_kernel_size * size, size)
        total += _norm(config, size) if config.norm_placement == "post" else 0
    if config.norm_placement == "pre":
        total += _norm(config, size)
    if config.num_distinct_layers and config.omits_first_attn_norm:
        total -= _norm(config, size)
    return total


def _layer_parameters(config: Any) -> int:
    size, inner = config.hidden_size, config.intermediate_size
    # Each head of keys and values has as many channels as a head of queries.
    grouped = min(max(config.key_value_heads, 0), config.num_attention_heads)
    channels = size + 2 * grouped * size // max(config.num_attention_heads, 1)
    total = _linear(size, channels, config.attention_bias) + _linear(size, size, config.attention_bias)
    if config.position_bias == "disentangled" and not config.share_att_key:
        total += (config.score_terms - 1) * _linear(size, size)
    up = {"mlp": 1, "glu": 2}[config.feed_forward] * inner
    total += _linear(size, up, config.mlp_bias) + _linear(inner, size, config.has_down_bias)
    return total + 2 * _norm(config, size)


def _dense_head(config: Any, kind: str, outputs: int) -> int:
    size, bias = config.hidden_size, config.head_bias
    if kind == "linear":
        return 0
    if kind == "dense":
        return _linear(size, outputs, bias) + _norm(config, outputs)
    inner = config.prediction_head_size or size
    return _linear(size, inner, bias) + _linear(inner, outputs, bias)


def _zero_shot_classification_head(size: int, head: Any) -> int:
    """Return the number of parameters of the head of `SequenceEncoderForZeroShotClassification`."""
    total = 2 * (_linear(size, head.hidden_size) + _linear(head.hidden_size, size)) + head.normalize
    if head.scorer == "weighted_dot":
        total += 2 * _linear(size, 2 * size) + _linear(3 * size, 4 * size) + _linear(4 * size, 1)
    if head.scorer == "mlp":
        total += _linear(2 * size, 256) + _linear(256, 128) + _linear(128, 1)
    return total


def _span_extraction_head(size: int, head: Any) -> int:
    """Return the number of parameters of the head of `SequenceEncoderForSpanExtraction`."""
    inner = head.hidden_size
    total = 0 if size == inner else _linear(size, inner)
    # Each direction has half of the channels, four gates, and two biases.
    total += head.num_recurrent_layers * 2 * 4 * (inner // 2) * (inner + inner // 2 + 2)
    if head.scoring == "tokens":
        return total + 2 * _linear(inner, 2 * inner) + _linear(3 * inner, 4 * inner) + _linear(4 * inner, 3)
    projections = 3 * (_linear(inner, 4 * inner) + _linear(4 * inner, inner))
    return total + projections + _linear(2 * inner, 4 * inner) + _linear(4 * inner, inner)


def _linear(inputs: int, outputs: int, bias: bool = True) -> int:
    return (inputs + bias) * outputs


def _norm(config: Any, size: int) -> int:
    return size * (2 if config.norm == "layer_norm" and config.norm_bias else 1)
