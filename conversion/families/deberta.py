"""DeBERTa v2 (He et al., 2021) and v3 (He et al., 2023), including mDeBERTa."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from transformers import PreTrainedConfig

from ...configuration.presets import PRESETS
from ..family import Family, Head
from ..key_mapping import CONVOLUTION, SEPARATE_QKV, Rule, module
from .bert import ANSWERS, CLASSIFIER, FIELDS, LAYER, NO_POOLER, PREDICTIONS, TRUNK

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_FIELDS = {name: theirs for name, theirs in FIELDS.items() if name != "classifier_dropout"} | {
    "pooler_dropout": "pooler_dropout"
}
_READ = (
    "position_embedding",
    "position_bias",
    "pos_att_type",
    "share_att_key",
    "position_buckets",
    "norm_rel_ebd",
    "tie_word_embeddings",
    "pooler_act",
)
_POOLED = Head([*module("model.pooler.dense", "pooler.dense"), *CLASSIFIER], fields={"pooler_act": "pooler_hidden_act"})
_ATTENTION = "encoder.layer.{}.attention.self"


def _size(value: int | None) -> int | None:
    """Return a size, for which -1 is their default, as ours, for which it is None."""
    return value if value is not None and value > 0 else None


def _read(config: PreTrainedConfig) -> dict[str, Any]:
    heads, width = config.num_attention_heads, config.hidden_size
    head_size = getattr(config, "attention_head_size", width // heads)
    if head_size * heads != width:
        raise ValueError(
            f"attention_head_size={head_size} is not supported: it must be hidden_size / num_attention_heads = "
            f"{width / heads:g}."
        )
    dropout = getattr(config, "cls_dropout", None)
    fields = {
        "position_embedding": "learned" if config.position_biased_input else "none",
        "classifier_dropout": config.hidden_dropout_prob if dropout is None else dropout,
        "embedding_size": getattr(config, "embedding_size", None),
        "conv_kernel_size": getattr(config, "conv_kernel_size", 0),
        "conv_act": getattr(config, "conv_act", "tanh"),
        **({} if config.legacy else {"legacy": False}),
    }
    types = list(config.pos_att_type or [])
    norm = "layer_norm" if "layer_norm" in _norms(config) else "none"
    if not config.relative_attention:
        # Here they would change the scale of the scores, or be weights that nothing uses.
        for name, unused in (("pos_att_type", types), ("norm_rel_ebd", norm if norm != "none" else None)):
            if unused:
                raise ValueError(f"{name}={unused!r} is not supported with relative_attention=False.")
        return {**fields, "position_bias": None}
    if not types or set(types) - {"c2p", "p2c"}:
        raise ValueError(
            f"pos_att_type={types!r} is not supported: with relative_attention=True, a SequenceEncoder needs 'c2p', "
            "'p2c' or both."
        )
    return {
        **fields,
        "position_bias": "disentangled",
        "pos_att_type": types,
        "share_att_key": getattr(config, "share_att_key", False),
        "position_buckets": _size(getattr(config, "position_buckets", None)),
        "max_relative_positions": _size(config.max_relative_positions),
        "norm_rel_ebd": norm,
    }


def _norms(config: PreTrainedConfig) -> list[str]:
    return [name.strip() for name in getattr(config, "norm_rel_ebd", "none").lower().split("|")]


def _write(config: PreTrainedConfig) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "position_biased_input": config.position_embedding == "learned",
        "relative_attention": config.position_bias == "disentangled",
        "cls_dropout": config.classifier_dropout,
        "legacy": getattr(config, "legacy", True),
    }
    if config.embedding_size is not None:
        fields["embedding_size"] = config.embedding_size
    if config.conv_kernel_size:
        fields |= {"conv_kernel_size": config.conv_kernel_size, "conv_act": config.conv_act}
    if config.position_bias == "disentangled":
        fields |= {
            "pos_att_type": list(config.pos_att_type),
            "share_att_key": config.share_att_key,
            "position_buckets": config.position_buckets or -1,
            "max_relative_positions": config.max_relative_positions or -1,
            "norm_rel_ebd": config.norm_rel_ebd,
        }
    return fields


# With legacy=False, the vocabulary projection of this head has no weights but the token embeddings.
_TIED = Head(
    [
        *module("head.dense", "lm_predictions.lm_head.dense"),
        *module("head.norm", "lm_predictions.lm_head.LayerNorm"),
        Rule("decoder.weight", ("deberta.embeddings.word_embeddings.weight",)),
        Rule("decoder.bias", ("lm_predictions.lm_head.bias",)),
    ],
    {**NO_POOLER, "tie_word_embeddings": True, "embedding_size": None},
)


def _variant(head: str, config: PreTrainedConfig) -> Head | None:
    return _TIED if head == "ForMaskedLM" and not getattr(config, "legacy", True) else None


def _constants(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the embeddings under the name to which transformers before 5.20 also ties them with legacy=False."""
    name = "lm_predictions.lm_head.weight"
    return {name: cast(Any, model.get_input_embeddings()).weight.detach()} if name in model.state_dict() else {}


DEBERTA_V2 = Family(
    name="deberta-v2",
    model_prefixes=("DebertaV2",),
    fields=_FIELDS,
    settings={
        name: value
        for name, value in PRESETS["deberta-v3"].items()
        if name not in (*_FIELDS, *_READ) and not name.endswith("_token_id")
    },
    required={"conv_groups": 1},
    trunk=[
        *TRUNK,
        Rule("embeddings.projection.weight", ("embeddings.embed_proj.weight",)),
        Rule("position_bias.table.weight", ("encoder.rel_embeddings.weight",)),
        *module("position_bias.norm", "encoder.LayerNorm"),
        Rule("layers.0.convolution.dense.weight", ("encoder.conv.conv.weight",), CONVOLUTION),
        Rule("layers.0.convolution.dense.bias", ("encoder.conv.conv.bias",)),
        *module("layers.0.convolution.norm", "encoder.conv.LayerNorm"),
    ],
    layer=[
        *(rule for rule in LAYER if ".qkv_proj" not in rule.ours),
        *module(
            "layers.{}.self_attn.qkv_proj",
            *(f"{_ATTENTION}.{part}_proj" for part in ("query", "key", "value")),
            layout=SEPARATE_QKV,
        ),
        *module("layers.{}.self_attn.distances.key_proj", f"{_ATTENTION}.pos_key_proj"),
        *module("layers.{}.self_attn.distances.query_proj", f"{_ATTENTION}.pos_query_proj"),
    ],
    heads={
        "Model": Head(settings=NO_POOLER),
        "ForMaskedLM": Head(PREDICTIONS, NO_POOLER),
        "ForSequenceClassification": _POOLED,
        "ForMultipleChoice": _POOLED,
        "ForTokenClassification": Head(CLASSIFIER, NO_POOLER),
        "ForQuestionAnswering": Head(ANSWERS, NO_POOLER),
    },
    read=_read,
    write=_write,
    types_optional=True,
    variant=_variant,
    constants=_constants,
    # The published checkpoints store the head of legacy=False, which is newer than they are.
    unstated={"legacy": False},
)
