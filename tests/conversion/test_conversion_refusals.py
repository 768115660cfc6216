"""What `convert` cannot convert, it rejects with an error that names the cause."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sequence_encoder import (
    SequenceEncoderConfig,
    SequenceEncoderForMaskedLM,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderModel,
    convert,
)
from sequence_encoder.conversion import family as family_module
from sequence_encoder.tests.fixtures.other_families import rewrite, tiny_model

_GTE = pytest.mark.since("transformers", "5.18", "has GTE")


_DYNAMIC = {"rope_type": "dynamic", "rope_theta": 9.0, "factor": 2.0}
_YARN = {"rope_type": "yarn", "rope_theta": 9.0, "factor": 2.0, "original_max_position_embeddings": 8}
UNSUPPORTED: list[tuple[str, dict[str, Any], str]] = [
    ("Bert Model", {"is_decoder": True}, "is_decoder=True"),
    ("Bert Model", {"is_decoder": True, "add_cross_attention": True}, "is_decoder=True|add_cross_attention=True"),
    ("Bert Model", {"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
    ("Bert Model", {"hidden_act": "mish"}, "hidden_act.*mish"),
    ("Bert ForNextSentencePrediction", {}, "BertForNextSentencePrediction.*BertForPreTraining"),
    ("Electra ForPreTraining", {}, "ElectraForPreTraining.*ElectraForMaskedLM.*--base_model"),
    ("Electra ForMaskedLM", {"hidden_act": "relu"}, "hidden_act='relu'.*'gelu'"),
    ("Electra ForMultipleChoice", {"summary_activation": "relu"}, "summary_activation='relu'.*activation='gelu'"),
    ("Albert Model", {"inner_group_num": 2}, "inner_group_num=2.*inner_group_num=1"),
    ("Albert Model", {"embedding_size": 24}, "embedding_size=24 is not supported.*hidden_size"),
    ("Albert Model", {"num_hidden_groups": 3}, "num_hidden_groups must be from 1 to num_hidden_layers=2, .*got 3"),
    ("Albert Model", {"num_hidden_groups": 0}, "num_hidden_groups must be from 1 .*got 0"),
    ("Albert Model", {"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
    ("Albert ForPreTraining", {"num_labels": 5}, "num_labels=5.*num_labels=2"),
    ("NomicBert Model", {"num_experts": 8}, "num_experts=8 .*num_experts=0"),
    ("NomicBert Model", {"prenorm": True}, "prenorm=True"),
    ("NomicBert Model", {"head_dim": 10}, "head_dim=10 .*hidden_size / num_attention_heads = 24 / 3"),
    ("NomicBert Model", {"rope_parameters": _DYNAMIC}, "rope_type.*'dynamic' is not supported"),
    ("NomicBert Model", {"rope_parameters": _DYNAMIC, "n_positions": 9000}, "rope_type.*'dynamic' is not supported"),
    ("NomicBert Model", {"rope_parameters": _DYNAMIC, "rotary_scaling_factor": 3}, "rotary_scaling_factor=3 is not"),
    ("NomicBert Model", {"rotary_scaling_factor": 2}, "rotary_scaling_factor=2 is not supported"),
    ("Gte Model", {"logn_attention_scale": True}, "logn_attention_scale=True"),
    ("Gte ForMaskedLM", {"hidden_act": "silu"}, "hidden_act='silu'.*ForMaskedLM of gte needs 'gelu'"),
    ("EuroBert Model", {"head_dim": 8}, "head_dim=8 .*hidden_size / num_attention_heads = 24 / 6"),
    ("EuroBert Model", {"classifier_pooling": "max"}, "classifier_pooling='max' .*'bos', 'mean', 'late'"),
    ("EuroBert Model", {"hidden_act": "mish"}, "hidden_act.*mish"),
    ("EuroBert Model", {"num_key_value_heads": 4}, "num_key_value_heads must divide num_attention_heads=6, got 4"),
    ("EuroBert Model", {"rope_parameters": _DYNAMIC}, "rope_type'.='dynamic' is not supported"),
    (
        "EuroBert Model",
        {"rope_parameters": {**_YARN, "truncate": False}},
        r"rope_parameters\['truncate'\]=False is not",
    ),
    ("RoFormer Model", {"rotary_value": True}, "rotary_value=True"),
    ("RoFormer ForMultipleChoice", {}, "RoFormerForMultipleChoice cannot be converted"),
    ("RoFormer ForSequenceClassification", {"hidden_act": "relu"}, "hidden_act='relu'.*roformer needs 'gelu'"),
    ("RemBert Model", {"input_embedding_size": 24}, "input_embedding_size=24 is not supported: it must differ from"),
    (
        "Esm Model",
        {"pad_token_id": 1, "mask_token_id": 4},
        "EsmModel cannot be converted: .*The supported families are",
    ),
    ("DebertaV2 Model", {"pos_att_type": "p2p|c2p"}, r"pos_att_type=\['p2p', 'c2p'\] is not supported"),
    ("DebertaV2 Model", {"pos_att_type": []}, r"pos_att_type=\[\] is not supported"),
    ("DebertaV2 Model", {"relative_attention": False}, "pos_att_type=.*relative_attention=False"),
    (
        "DebertaV2 Model",
        {"relative_attention": False, "pos_att_type": None, "norm_rel_ebd": "layer_norm"},
        "norm_rel_ebd='layer_norm'.*relative_attention=False",
    ),
    ("DebertaV2 Model", {"conv_kernel_size": 3, "conv_groups": 2}, "conv_groups=2.*conv_groups=1"),
    ("DebertaV2 Model", {"conv_kernel_size": 4}, "conv_kernel_size must be 0 or an odd number, got 4"),
    ("DebertaV2 Model", {"attention_head_size": 7}, "attention_head_size=7 is not supported.*= 8"),
    ("DebertaV2 ForMaskedLM", {"legacy": False, "embedding_size": 12}, "embedding_size=12.*needs None"),
    ("DebertaV2 ForSequenceClassification", {"pooler_hidden_act": "silu"}, "pooler_act.*silu"),
    ("ModernBert ForSequenceClassification", {"classifier_activation": "relu"}, "='relu'.*hidden_activation='gelu'"),
    ("GPT2 Model", {"n_embd": 24, "n_layer": 1, "n_head": 3, "n_positions": 8}, "GPT2Model.*bert, roberta"),
    ("BertGeneration Encoder", {}, r"BertGenerationEncoder cannot be converted\. The supported families"),
]


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [pytest.param(*row, marks=[_GTE] if row[0].startswith("Gte") else []) for row in UNSUPPORTED],
)
def test_an_unsupported_source_is_rejected_by_name(model: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        convert(tiny_model(*model.split(), **options))


@pytest.mark.parametrize(
    ("preset", "overrides", "to", "message"),
    [
        ("vanilla", {"type_vocab_size": 2}, "bert", "'sinusoidal' is not supported: bert has 'learned'"),
        ("bert", {"norm_placement": "pre"}, "bert", "norm_placement='pre'.*'post'"),
        ("bert", {"scale_embeddings": True}, "bert", "scale_embeddings=True.*False"),
        ("roberta", {"feed_forward": "glu", "pad_token_id": 1}, "roberta", "feed_forward='glu'"),
        ("bert", {"norm": "rms_norm"}, "bert", "norm='rms_norm'"),
        ("bert", {"embedding_size": 12}, "bert", "embedding_size=12.*bert has None"),
        ("bert", {"num_hidden_groups": 1}, "bert", "num_hidden_groups=1.*bert has None"),
        ("bert", {"embedding_size": 12, "norm": "rms_norm"}, "albert", "norm='rms_norm'"),
        ("bert", {}, "albert", "embedding_size=24 is not supported"),
        ("bert", {"layer_types": ["sliding_attention"], "sliding_window": 4}, "bert", "layer_types"),
        ("bert", {"mlp_dropout": 0.1}, "bert", "mlp_dropout=0.1"),
        ("bert", {"embedding_dropout": 0.3}, "bert", "embedding_dropout=0.3"),
        ("bert", {"type_vocab_size": 0}, "bert", "type_vocab_size=0"),
        ("bert", {}, "distilbert", "type_vocab_size=2.*distilbert has 0"),
        ("deberta-v3", {"feed_forward": "glu"}, "deberta-v2", "feed_forward='glu'"),
        ("mpnet", {}, "deberta-v2", "position_bias='bucketed'.*deberta-v2 has None"),
        ("bert", {}, "roberta", "position_offset=0.*roberta has 1"),
        ("bert", {"pooling": "mean"}, "bert", "pooling='mean'.*'cls'; train the head with --pooling cls"),
        ("modernbert", {"type_vocab_size": 2}, "modernbert", "type_vocab_size=2"),
        ("modernbert", {"embedding_norm": False}, "modernbert", "embedding_norm=False"),
        ("roberta", {}, "bert", "position_offset=2.*bert has 0"),
        ("bert", {"norm": "rms_norm", "mlp_dropout": 0.1}, "bert", "norm='rms_norm'.*; mlp_dropout=0.1"),
        ("nomic", {"attention_bias": True}, "nomic_bert", "attention_bias=True.*nomic_bert has False"),
        ("nomic", {"layer_types": ["sliding_attention"], "sliding_window": 4}, "nomic_bert", "layer_types="),
        pytest.param("nomic", {"attention_bias": True}, "gte", "mlp_down_bias=None.*gte has True", marks=_GTE),
        (
            "bert",
            {"norm_placement": "pre", "first_attn_norm": True},
            "megatron_bert",
            "embedding_norm=True.*megatron_bert has False",
        ),
        (
            "roberta",
            {"norm_placement": "pre", "pad_token_id": 1},
            "roberta_prelayernorm",
            "first_attn_norm=False.*True",
        ),
        ("bert", {"embedding_size": 12}, "rembert", "tie_word_embeddings=True.*rembert has False"),
        ("bert", {"task_type_vocab_size": 3}, "bert", "task_type_vocab_size=3.*bert has 0"),
        ("nomic", {"mlp_down_bias": True}, "nomic_bert", "mlp_down_bias=True.*nomic_bert has None"),
        ("bert", {}, "nomic_bert", "position_embedding='learned'.*nomic_bert has 'rotary'"),
        ("bert", {"num_key_value_heads": 1}, "bert", "num_key_value_heads=1.*bert has None"),
        ("bert", {"pooler_placement": "before"}, "bert", "pooler_placement='before'.*bert has 'after'"),
        ("eurobert", {"norm": "layer_norm"}, "eurobert", "norm='layer_norm'.*'rms_norm'"),
        ("eurobert", {"layer_types": ["sliding_attention"], "sliding_window": 3}, "eurobert", "layer_types"),
        ("eurobert", {}, "eurobert", "pooler_act='gelu' is not supported"),
    ],
)
def test_converting_back_names_the_unsupported_field(
    tiny_config: Callable[..., SequenceEncoderConfig], preset: str, overrides: dict[str, Any], to: str, message: str
) -> None:
    dropout = {"hidden_dropout": 0.1, "embedding_dropout": 0.1}
    config = tiny_config(preset, **{**(dropout if preset != "modernbert" else {}), **overrides})
    with pytest.raises(ValueError, match=message):
        convert(SequenceEncoderModel(config), to=to)


def test_converting_a_vocabulary_head_back_names_the_unsupported_field(
    tiny_config: Callable[..., SequenceEncoderConfig],
) -> None:
    for overrides, to, message in (
        ({"decoder_bias": True}, "eurobert", "decoder_bias=True is not supported: eurobert has False"),
        ({"mlp_bias": True}, "eurobert", "decoder_bias=False is not supported: eurobert has True"),
        ({"prediction_head": "dense"}, "eurobert", "prediction_head='dense'.*'linear'"),
        ({"head_act": "relu", "prediction_head": "mlp"}, "eurobert", "prediction_head='mlp'.*; head_act='relu'"),
        ({"decoder_bias": False}, "bert", "decoder_bias=False is not supported: bert has True"),
        (
            {"prediction_head": "mlp", "prediction_head_size": 5},
            "bert",
            "prediction_head='mlp'.*prediction_head_size=5",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            convert(SequenceEncoderForMaskedLM(tiny_config(to, **overrides)), to=to)


def test_the_error_of_a_head_that_no_family_has_names_the_option_that_drops_it(
    tiny_config: Callable[..., SequenceEncoderConfig],
) -> None:
    model = SequenceEncoderForSequenceClassification(tiny_config("bert", pooling="mean", pooler_act=None))
    with pytest.raises(ValueError, match=r"pooling='mean' .*--base_model converts its encoder alone\.$"):
        convert(model, to="bert")
    assert type(convert(model, to="bert", base_model=True)).__name__ == "BertModel"


def test_the_error_names_the_families_that_are_possible() -> None:
    ours = convert(tiny_model("Bert"))
    with pytest.raises(ValueError, match=r"to distilbert: .*type_vocab_size=2.* can be converted to bert or ernie\."):
        convert(ours, to="distilbert")


def test_wrong_arguments_name_the_families(tiny_config: Callable[..., SequenceEncoderConfig]) -> None:
    with pytest.raises(ValueError, match="got 'gpt2'"):
        convert(SequenceEncoderModel(tiny_config()), to="gpt2")
    with pytest.raises(ValueError, match=r"SequenceEncoderModel is already a SequenceEncoder.*bert"):
        convert(SequenceEncoderModel(tiny_config()))
    with pytest.raises(ValueError, match="BertModel"):
        convert(tiny_model("Bert"), to="bert")
    with pytest.raises(ValueError, match=r"source must be a folder.*NoneType"):
        convert(None)


def test_a_family_that_the_installed_release_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = convert(tiny_model("NomicBert"))
    monkeypatch.setattr(family_module, "transformers", types.SimpleNamespace(__version__="5.7.0"))
    with pytest.raises(ValueError, match=r"to nomic_bert: transformers 5\.7\.0 has no NomicBertConfig; install"):
        convert(ours, to="nomic_bert")


def test_missing_unexpected_and_misshapen_weights_are_errors(tmp_path: Path) -> None:
    tiny_model("Bert", "ForSequenceClassification").save_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.update({"adapter.weight": torch.ones(3)}))
    with pytest.raises(ValueError, match=r"does not use .*: adapter\.weight"):
        convert(tmp_path)
    tiny_model("Bert", "ForSequenceClassification").save_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.__delitem__("classifier.bias"))
    with pytest.raises(ValueError, match=r"lacks: classifier\.bias"):
        convert(tmp_path)
    tiny_model("Bert", "ForSequenceClassification").save_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.update({"classifier.bias": torch.ones(7)}))
    with pytest.raises(ValueError, match=r"other shapes.*classifier\.bias"):
        convert(tmp_path)


def test_an_unknown_module_is_an_error() -> None:
    model = tiny_model("Bert", "ForSequenceClassification")
    model.adapter = torch.nn.Linear(3, 2)
    with pytest.raises(ValueError, match=r"our model does not use: adapter\.bias, adapter\.weight"):
        convert(model)


def test_weights_on_the_meta_device_are_rejected() -> None:
    with torch.device("meta"):
        model = tiny_model("Bert")
    with pytest.raises(ValueError, match="BertModel are on the meta device"):
        convert(model)


def test_weights_that_do_not_fit_the_configuration_are_rejected() -> None:
    model = tiny_model("Bert", "ForSequenceClassification")
    model.classifier = torch.nn.Linear(24, 7)
    with pytest.raises(ValueError, match=r"(?s)do not fit the configuration.*classifier\.weight"):
        convert(model)


def test_a_configuration_with_a_wrong_type_is_rejected(tmp_path: Path) -> None:
    tiny_model("Bert").save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"hidden_act": "gelu"', '"hidden_act": null'))
    with pytest.raises(ValueError, match=r"(?s)configuration of .* is not valid.*hidden_act"):
        convert(tmp_path)
