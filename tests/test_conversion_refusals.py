"""Conversion names what it cannot convert, and loses nothing."""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from sequence_encoder import SequenceEncoderConfig, SequenceEncoderForMaskedLM, SequenceEncoderModel, convert
from sequence_encoder.conversion import family as family_module

SIZES = {
    "vocab_size": 97,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 50,
}


_GTE = pytest.mark.since("transformers", "5.18", "has GTE")


def bert(model: str = "BertModel", **options: Any) -> Any:
    return getattr(transformers, model)(transformers.BertConfig(**{**SIZES, **options}))


def electra(model: str = "ElectraModel", **options: Any) -> Any:
    return getattr(transformers, model)(transformers.ElectraConfig(**{**SIZES, "embedding_size": 24, **options}))


def albert(model: str = "AlbertModel", **options: Any) -> Any:
    return getattr(transformers, model)(transformers.AlbertConfig(**{**SIZES, "embedding_size": 12, **options}))


def nomic(model: str = "NomicBertModel", pooler: bool = False, **options: Any) -> Any:
    config = transformers.NomicBertConfig(**{**SIZES, **options})
    return getattr(transformers, model)(config, **({"add_pooling_layer": True} if pooler else {}))


def deberta(model: str = "DebertaV2Model", **options: Any) -> Any:
    relative = {"relative_attention": True, "pos_att_type": "c2p|p2c", "position_buckets": 8}
    return getattr(transformers, model)(transformers.DebertaV2Config(**{**SIZES, **relative, **options}))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nomic(num_experts=8), "num_experts=8 .*num_experts=0"),
        (lambda: nomic(prenorm=True), "prenorm=True"),
        (lambda: nomic(head_dim=10), "head_dim=10 .*hidden_size / num_attention_heads = 24 / 3"),
        (
            lambda: nomic(rope_parameters={"rope_type": "dynamic", "rope_theta": 9.0, "factor": 2.0}),
            "rope_type.*'dynamic' is not supported",
        ),
        pytest.param(
            lambda: transformers.GteModel(transformers.GteConfig(**SIZES, logn_attention_scale=True)),
            "logn_attention_scale=True",
            marks=_GTE,
        ),
        pytest.param(
            lambda: transformers.GteForMaskedLM(transformers.GteConfig(**SIZES, hidden_act="silu")),
            "hidden_act='silu'.*ForMaskedLM of gte needs 'gelu'",
            marks=_GTE,
        ),
        (lambda: bert(is_decoder=True), "is_decoder=True"),
        (lambda: bert(is_decoder=True, add_cross_attention=True), "is_decoder=True|add_cross_attention=True"),
        (lambda: bert(position_embedding_type="relative_key"), "position_embedding_type='relative_key'"),
        (lambda: bert(hidden_act="mish"), "hidden_act.*mish"),
        (lambda: bert("BertForNextSentencePrediction"), "BertForNextSentencePrediction.*BertForPreTraining"),
        (lambda: electra("ElectraForPreTraining"), "ElectraForPreTraining.*ElectraForMaskedLM.*--base-model"),
        (lambda: electra("ElectraForMaskedLM", hidden_act="relu"), "hidden_act='relu'.*'gelu'"),
        (
            lambda: electra("ElectraForMultipleChoice", summary_activation="relu"),
            "summary_activation='relu'.*summary_activation='gelu'",
        ),
        (lambda: albert(inner_group_num=2), "inner_group_num=2.*inner_group_num=1"),
        (lambda: albert(embedding_size=24), "embedding_size=24 is not supported.*hidden_size"),
        (lambda: albert(num_hidden_groups=3), "num_hidden_groups must be from 1 to num_hidden_layers=2, .*got 3"),
        (lambda: albert(num_hidden_groups=0), "num_hidden_groups must be from 1 .*got 0"),
        (lambda: albert(position_embedding_type="relative_key"), "position_embedding_type='relative_key'"),
        (lambda: albert("AlbertForPreTraining", num_labels=5), "num_labels=5.*num_labels=2"),
        (lambda: deberta(pos_att_type="p2p|c2p"), r"pos_att_type=\['p2p', 'c2p'\] is not supported"),
        (lambda: deberta(pos_att_type=[]), r"pos_att_type=\[\] is not supported"),
        (lambda: deberta(relative_attention=False), "pos_att_type=.*relative_attention=False"),
        (
            lambda: deberta(relative_attention=False, pos_att_type=None, norm_rel_ebd="layer_norm"),
            "norm_rel_ebd='layer_norm'.*relative_attention=False",
        ),
        (lambda: deberta(conv_kernel_size=3, conv_groups=2), "conv_groups=2.*conv_groups=1"),
        (lambda: deberta(conv_kernel_size=4), "conv_kernel_size must be 0 or an odd number, got 4"),
        (lambda: deberta(attention_head_size=7), "attention_head_size=7 is not supported.*= 8"),
        (lambda: deberta("DebertaV2ForMaskedLM", legacy=False, embedding_size=12), "embedding_size=12.*needs None"),
        (
            lambda: deberta("DebertaV2ForSequenceClassification", pooler_hidden_act="silu"),
            "pooler_act.*silu",
        ),
        (
            lambda: transformers.ModernBertForSequenceClassification(
                transformers.ModernBertConfig(**SIZES, pad_token_id=0, classifier_activation="relu")
            ),
            "classifier_activation='relu'.*hidden_activation='gelu'",
        ),
        (
            lambda: transformers.GPT2Model(
                transformers.GPT2Config(vocab_size=97, n_embd=24, n_layer=1, n_head=3, n_positions=8)
            ),
            "GPT2Model.*bert, roberta",
        ),
    ],
)
def test_an_unsupported_source_is_rejected_by_name(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        convert(make())


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
        ("bert", {"pooling": "mean"}, "bert", "pooling='mean'.*'cls'"),
        ("modernbert", {"type_vocab_size": 2}, "modernbert", "type_vocab_size=2"),
        ("modernbert", {"embedding_norm": False}, "modernbert", "embedding_norm=False"),
        ("roberta", {}, "bert", "position_offset=2.*bert has 0"),
        ("bert", {"norm": "rms_norm", "mlp_dropout": 0.1}, "bert", "norm='rms_norm'.*; mlp_dropout=0.1"),
        ("nomic", {"attention_bias": True}, "nomic_bert", "attention_bias=True.*nomic_bert has False"),
        ("nomic", {"layer_types": ["sliding_attention"], "sliding_window": 4}, "nomic_bert", "layer_types="),
        pytest.param("nomic", {"attention_bias": True}, "gte", "mlp_down_bias=None.*gte has True", marks=_GTE),
        ("bert", {"task_type_vocab_size": 3}, "bert", "task_type_vocab_size=3.*bert has 0"),
        ("nomic", {"mlp_down_bias": True}, "nomic_bert", "mlp_down_bias=True.*nomic_bert has None"),
        ("bert", {}, "nomic_bert", "position_embedding='learned'.*nomic_bert has 'rotary'"),
    ],
)
def test_converting_back_names_the_unsupported_field(
    tiny_config: Callable[..., SequenceEncoderConfig], preset: str, overrides: dict[str, Any], to: str, message: str
) -> None:
    dropout = {"hidden_dropout": 0.1, "embedding_dropout": 0.1}
    config = tiny_config(preset, **{**(dropout if preset != "modernbert" else {}), **overrides})
    with pytest.raises(ValueError, match=message):
        convert(SequenceEncoderModel(config), to=to)


def test_the_error_names_the_families_that_are_possible() -> None:
    ours = convert(bert())
    with pytest.raises(ValueError, match=r"to distilbert: .*type_vocab_size=2.* can be converted to bert or ernie\."):
        convert(ours, to="distilbert")


@pytest.mark.parametrize("preset", ["bert", "roberta", "distilbert", "nomic", "modernbert"])
def test_a_preset_converts_to_its_family(tiny_config: Callable[..., SequenceEncoderConfig], preset: str) -> None:
    extra = {"pad_token_id": 1} if preset == "roberta" else {}
    family = {"nomic": "nomic_bert"}.get(preset, preset)
    theirs = convert(SequenceEncoderForMaskedLM(tiny_config(preset, **extra)), to=family)
    assert theirs.config.model_type == family


def test_fields_of_heads_that_a_model_lacks_do_not_prevent_conversion(
    tiny_config: Callable[..., SequenceEncoderConfig],
) -> None:
    config = tiny_config(
        "bert", pooling="mean", classifier_head="dense", initializer="xavier_uniform", sliding_window=4
    )
    assert convert(SequenceEncoderForMaskedLM(config), to="bert").config.model_type == "bert"


def test_wrong_arguments_name_the_families(tiny_config: Callable[..., SequenceEncoderConfig]) -> None:
    with pytest.raises(ValueError, match="got 'gpt2'"):
        convert(SequenceEncoderModel(tiny_config()), to="gpt2")
    with pytest.raises(ValueError, match=r"SequenceEncoderModel is already a SequenceEncoder.*bert"):
        convert(SequenceEncoderModel(tiny_config()))
    with pytest.raises(ValueError, match="BertModel"):
        convert(bert(), to="bert")
    with pytest.raises(ValueError, match=r"source must be a folder.*NoneType"):
        convert(None)


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def test_missing_unexpected_and_misshapen_weights_are_errors(tmp_path: Path) -> None:
    bert("BertForSequenceClassification").save_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.update({"adapter.weight": torch.ones(3)}))
    with pytest.raises(ValueError, match=r"does not use .*: adapter\.weight"):
        convert(tmp_path)
    bert("BertForSequenceClassification").save_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.__delitem__("classifier.bias"))
    with pytest.raises(ValueError, match=r"lacks: classifier\.bias"):
        convert(tmp_path)
    bert("BertForSequenceClassification").save_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.update({"classifier.bias": torch.ones(7)}))
    with pytest.raises(ValueError, match=r"other shapes.*classifier\.bias"):
        convert(tmp_path)


def without_pooler(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if name.startswith("pooler.")]:
        del tensors[name]


def test_a_model_without_a_pooler_stays_without_one(tmp_path: Path, randomize: Callable[..., Any]) -> None:
    model = randomize(bert())
    model.save_pretrained(tmp_path)
    rewrite(tmp_path, without_pooler)
    ours = convert(tmp_path)
    ids = torch.randint(5, 97, (2, 9))
    expected = model(ids).last_hidden_state
    torch.testing.assert_close(ours(ids).last_hidden_state, expected, rtol=1e-5, atol=1e-5)
    ours.save_pretrained(tmp_path / "ours")
    reloaded = SequenceEncoderModel.from_pretrained(tmp_path / "ours")
    assert torch.equal(reloaded(ids).pooler_output, expected_first(reloaded, ids))
    assert "pooler.dense.weight" not in convert(ours, to="bert").state_dict()
    assert (
        "pooler.dense.weight" not in convert(SequenceEncoderModel(convert(bert()).config, False), "bert").state_dict()
    )


def test_a_pooler_that_a_class_has_only_on_request_is_kept(tmp_path: Path, randomize: Callable[..., Any]) -> None:
    model = randomize(nomic(pooler=True))
    model.save_pretrained(tmp_path)
    ids = torch.randint(5, 97, (2, 9))
    for source in (model, tmp_path):
        ours = convert(source)
        torch.testing.assert_close(ours(ids).pooler_output, model(ids).pooler_output, rtol=1e-5, atol=1e-5)
        assert "pooler.dense.weight" in convert(ours, to="nomic_bert").state_dict()
    assert convert(nomic()).config.pooler_act is None


def test_fields_with_old_names_are_read(tmp_path: Path, randomize: Callable[..., Any]) -> None:
    values = {
        "hidden_size": ("n_embd", 24),
        "num_hidden_layers": ("n_layer", 2),
        "num_attention_heads": ("n_head", 6),
        "intermediate_size": ("n_inner", 40),
        "max_position_embeddings": ("n_positions", 50),
        "rope_theta": ("rotary_emb_base", 77),
        "layer_norm_eps": ("layer_norm_epsilon", 1e-3),
        "hidden_dropout_prob": ("resid_pdrop", 0.3),
        "attention_probs_dropout_prob": ("attn_pdrop", 0.2),
    }
    config = transformers.NomicBertConfig(vocab_size=97, **{new: value for new, (_, value) in values.items()})
    model = randomize(transformers.NomicBertForMaskedLM(config))
    model.save_pretrained(tmp_path)
    given = {"model_type": "nomic_bert", "architectures": ["NomicBertForMaskedLM"], "vocab_size": 97}
    old = dict(values.values())
    ids = torch.randint(5, 97, (2, 9))
    # New names are read first, and checkpoints may have both.
    for fields in (old, {**old, "n_positions": 8192, "max_position_embeddings": 50}):
        (tmp_path / "config.json").write_text(json.dumps({**given, **fields}))
        ours = convert(tmp_path)
        torch.testing.assert_close(ours(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-5)
        assert (ours.config.hidden_dropout, ours.config.attention_dropout) == (0.3, 0.2)
        assert ours.config.max_position_embeddings == 50


def test_a_family_that_the_installed_release_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = convert(nomic())
    monkeypatch.setattr(family_module, "transformers", types.SimpleNamespace(__version__="5.7.0"))
    with pytest.raises(ValueError, match=r"to nomic_bert: transformers 5\.7\.0 has no NomicBertConfig; install"):
        convert(ours, to="nomic_bert")


def test_a_lora_is_rejected_until_it_is_merged(randomize: Callable[..., Any]) -> None:
    config = transformers.JinaEmbeddingsV3Config(**SIZES)
    base = randomize(transformers.JinaEmbeddingsV3Model(config))
    lora = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj", "fc1"], init_lora_weights=False)
    adapted = peft.get_peft_model(base, lora).eval()
    ids = torch.randint(5, 97, (2, 9))
    expected = adapted(ids).last_hidden_state
    with pytest.raises(ValueError, match=r"source must be a folder.*PeftModel, its merge_and_unload\(\)"):
        convert(adapted)
    with pytest.raises(ValueError, match=r"JinaEmbeddingsV3Model has peft adapters.*merge_and_unload\(\)"):
        convert(base)
    found = convert(adapted.merge_and_unload())(ids).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def expected_first(model: Any, ids: torch.Tensor) -> torch.Tensor:
    return model(ids).last_hidden_state[:, 0]


@pytest.mark.parametrize("family", ["Bert", "Albert"])
def test_a_masked_language_model_with_both_pretraining_heads_keeps_them(tmp_path: Path, family: str) -> None:
    model = {"Bert": bert, "Albert": albert}[family](f"{family}ForPreTraining")
    model.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace(f"{family}ForPreTraining", f"{family}ForMaskedLM"))
    assert type(convert(tmp_path)).__name__ == "SequenceEncoderForPreTraining"


def test_the_source_is_unchanged_and_shares_no_weights(randomize: Callable[..., Any]) -> None:
    model = randomize(bert("BertForMaskedLM"))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    ours = convert(model)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_base_model_converts_the_encoder_without_an_unsupported_head(
    tmp_path: Path, randomize: Callable[..., Any]
) -> None:
    discriminator = randomize(electra("ElectraForPreTraining", embedding_size=12))
    discriminator.save_pretrained(tmp_path)
    ids = torch.randint(5, 97, (2, 9))
    expected = discriminator.base_model(ids).last_hidden_state
    for source in (discriminator, tmp_path):
        ours = convert(source, base_model=True)
        assert type(ours) is SequenceEncoderModel
        torch.testing.assert_close(ours(ids).last_hidden_state, expected, rtol=1e-5, atol=1e-5)
    for name in ("electra.adapter.weight", "encoder.layer.7.adapter.weight"):
        rewrite(tmp_path, lambda tensors, name=name: tensors.update({name: torch.ones(3)}))
        with pytest.raises(ValueError, match=name):
            convert(tmp_path, base_model=True)
        rewrite(tmp_path, lambda tensors, name=name: tensors.__delitem__(name))


def test_base_model_converts_back_without_the_head(tmp_path: Path, randomize: Callable[..., Any]) -> None:
    ours = convert(randomize(bert("BertForPreTraining")))
    ours.save_pretrained(tmp_path)
    ids = torch.randint(5, 97, (2, 9))
    for source in (ours, tmp_path):
        theirs = convert(source, to="bert", base_model=True)
        assert type(theirs) is transformers.BertModel
        expected = ours.base_model(ids).pooler_output
        torch.testing.assert_close(theirs(ids).pooler_output, expected, rtol=1e-5, atol=1e-5)


def test_the_cross_encoder_settings_in_the_configuration_are_kept(tmp_path: Path) -> None:
    kept = {"activation_fn": "torch.nn.modules.linear.Identity", "version": "5.0"}
    model = bert("BertForSequenceClassification", num_labels=1, sentence_transformers=kept)
    ours = convert(model)
    assert ours.config.sentence_transformers == kept
    ours.save_pretrained(tmp_path)
    assert SequenceEncoderConfig.from_pretrained(tmp_path).sentence_transformers == kept
    assert convert(tmp_path, to="bert").config.sentence_transformers == kept


def test_each_head_keeps_its_dropout() -> None:
    config = transformers.DistilBertConfig(
        dim=24, n_layers=1, n_heads=3, hidden_dim=40, dropout=0.11, qa_dropout=0.22, seq_classif_dropout=0.33
    )
    for head, expected in (
        ("TokenClassification", 0.11),
        ("QuestionAnswering", 0.22),
        ("SequenceClassification", 0.33),
    ):
        ours = convert(getattr(transformers, f"DistilBertFor{head}")(config))
        assert ours.config.classifier_dropout == expected
        assert convert(convert(ours, to="distilbert")).config.classifier_dropout == expected


def test_sharded_bfloat16_checkpoints_keep_their_dtype(tmp_path: Path, randomize: Callable[..., Any]) -> None:
    model = randomize(bert("BertForMaskedLM")).to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ours = convert(tmp_path)
    assert ours.dtype == torch.bfloat16
    back = convert(ours, to="bert")
    assert back.dtype == torch.bfloat16
    assert all(torch.equal(tensor, back.state_dict()[key]) for key, tensor in model.state_dict().items())


def test_different_vocabulary_matrices_stay_untied_in_a_tied_configuration(
    tmp_path: Path, randomize: Callable[..., Any]
) -> None:
    randomize(bert("BertForMaskedLM")).save_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.update({"cls.predictions.decoder.weight": torch.randn(97, 24)}))
    theirs = transformers.BertForMaskedLM.from_pretrained(tmp_path)
    assert theirs.config.tie_word_embeddings
    ids = torch.randint(5, 97, (2, 9))
    ours = convert(tmp_path)
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(convert(ours, to="bert")(ids).logits, theirs(ids).logits, rtol=1e-5, atol=1e-5)


def test_different_vocabulary_matrices_convert_back_untied(
    tiny_config: Callable[..., SequenceEncoderConfig],
) -> None:
    ours = SequenceEncoderForMaskedLM(tiny_config("bert", tie_word_embeddings=True)).eval()
    ours.decoder.weight = torch.nn.Parameter(torch.randn(97, 24))
    ids = torch.randint(5, 97, (2, 9))
    torch.testing.assert_close(convert(ours, to="bert")(ids).logits, ours(ids).logits, rtol=1e-5, atol=1e-5)


def test_an_unknown_module_is_an_error() -> None:
    model = bert("BertForSequenceClassification")
    model.adapter = torch.nn.Linear(3, 2)
    with pytest.raises(ValueError, match=r"our model does not use: adapter\.bias, adapter\.weight"):
        convert(model)


def test_classifier_dropout_defaults_to_the_dropout_of_the_layers() -> None:
    for given, expected in ((None, 0.2), (0.3, 0.3)):
        model = bert("BertForSequenceClassification", hidden_dropout_prob=0.2, classifier_dropout=given)
        assert convert(model).config.classifier_dropout == expected


def test_a_trained_untied_model_converts(randomize: Callable[..., Any]) -> None:
    model = randomize(bert("BertForMaskedLM", tie_word_embeddings=False))
    predictions = model.cls.predictions
    assert not torch.equal(predictions.bias, predictions.decoder.bias)  # The model uses only the second one.
    ids = torch.randint(5, 97, (2, 9))
    torch.testing.assert_close(convert(model)(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-5)


def test_a_pooler_that_the_head_does_not_use_is_dropped(tmp_path: Path, randomize: Callable[..., Any]) -> None:
    config = transformers.RobertaConfig(**SIZES)
    model = randomize(transformers.RobertaForMaskedLM(config))
    model.save_pretrained(tmp_path)
    pooler = {"roberta.pooler.dense.weight": torch.ones(24, 24), "roberta.pooler.dense.bias": torch.ones(24)}
    rewrite(tmp_path, lambda tensors: tensors.update(pooler))
    ids = torch.randint(5, 97, (2, 9))
    torch.testing.assert_close(convert(tmp_path)(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-5)


def test_a_checkpoint_without_architectures_keeps_its_heads(tmp_path: Path) -> None:
    bert("BertForPreTraining").save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("architectures", "_architectures"))
    assert type(convert(tmp_path)).__name__ == "SequenceEncoderForPreTraining"


def test_special_tokens_do_not_prevent_conversion(tiny_config: Callable[..., SequenceEncoderConfig]) -> None:
    for preset in ("bert", "modernbert"):
        config = tiny_config(preset, cls_token_id=2, sep_token_id=3, mask_token_id=4)
        assert convert(SequenceEncoderForMaskedLM(config), to=preset).config.model_type == preset


def test_converting_back_shares_no_weights(randomize: Callable[..., Any]) -> None:
    for heads in (1, 3):
        ours = convert(randomize(bert("BertForMaskedLM", num_attention_heads=heads)))
        before = {key: tensor.clone() for key, tensor in ours.state_dict().items()}
        with torch.no_grad():
            for parameter in convert(ours, to="bert").parameters():
                parameter.zero_()
        assert all(torch.equal(tensor, before[key]) for key, tensor in ours.state_dict().items())


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_an_encoder_without_shared_layers_has_as_many_groups_as_layers(
    tiny_config: Callable[..., SequenceEncoderConfig], layers: int
) -> None:
    config = tiny_config("bert", embedding_size=12, num_hidden_layers=layers)
    ours = SequenceEncoderModel(config).eval()
    theirs = convert(ours, to="albert")
    assert theirs.config.num_hidden_groups == layers
    ids = torch.randint(5, 97, (2, 9))
    torch.testing.assert_close(theirs(ids).pooler_output, ours(ids).pooler_output, rtol=1e-5, atol=1e-5)
    assert convert(theirs).config.num_hidden_groups is None


def test_the_order_of_sentences_has_two_outputs_however_many_labels_there_are() -> None:
    ours = convert(albert("AlbertForPreTraining"))
    ours.config.num_labels = 5
    theirs = convert(ours, to="albert")
    assert theirs.config.num_labels == theirs.sop_classifier.classifier.out_features == 2


@pytest.mark.parametrize("to", ["bert", "electra", "distilbert"])
def test_question_answering_converts_back_with_two_labels(to: str) -> None:
    families = {"bert": bert, "electra": electra}
    config = transformers.DistilBertConfig(vocab_size=97, dim=24, n_layers=1, n_heads=3, hidden_dim=40)
    source = (
        families[to](f"{to.title()}ForQuestionAnswering")
        if to in families
        else (transformers.DistilBertForQuestionAnswering(config))
    )
    ours = convert(source)
    ours.config.num_labels = 5
    assert convert(ours, to=to).config.num_labels == 2


@pytest.mark.since("transformers", "5.17", "takes layers of one type in ModernBERT")
def test_a_window_that_no_layer_uses_does_not_prevent_conversion() -> None:
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    modern = transformers.ModernBertConfig(
        **SIZES, **special, hidden_activation="silu", decoder_bias=False, layer_types=["full_attention"] * 2,
        local_attention=-1,
    )  # fmt: skip
    assert convert(transformers.ModernBertModel(modern)).config.hidden_act == "silu"


def test_unused_fields_do_not_prevent_conversion(
    tiny_config: Callable[..., SequenceEncoderConfig],
) -> None:
    assert type(convert(electra(summary_activation="relu"))) is SequenceEncoderModel
    for to in ("bert", "distilbert"):
        preset = tiny_config(to, pooling="mean", head_bias=False, hidden_dropout=0.1, embedding_dropout=0.1)
        assert convert(SequenceEncoderModel(preset, add_pooling_layer=False), to=to).config.model_type == to
        preset.pooler_act = None
        assert convert(SequenceEncoderModel(preset), to=to).config.model_type == to


@pytest.mark.parametrize("to", ["electra", "distilbert"])
def test_the_dense_layer_of_a_classifier_is_dropped_with_it(tmp_path: Path, to: str) -> None:
    config = transformers.DistilBertConfig(vocab_size=97, dim=24, n_layers=1, n_heads=3, hidden_dim=40)
    source = (
        electra("ElectraForSequenceClassification")
        if to == "electra"
        else transformers.DistilBertForSequenceClassification(config)
    )
    ours = convert(source)
    ours.save_pretrained(tmp_path)
    for model in (ours, tmp_path):
        assert type(convert(model, to=to, base_model=True)) is type(source.base_model)


def test_a_family_with_a_similar_name_is_rejected() -> None:
    config = transformers.RobertaPreLayerNormConfig(**SIZES)
    with pytest.raises(ValueError, match=r"RobertaPreLayerNormModel cannot be converted\. The supported families"):
        convert(transformers.RobertaPreLayerNormModel(config))


def test_weights_on_the_meta_device_are_rejected() -> None:
    with torch.device("meta"):
        model = bert()
    with pytest.raises(ValueError, match="BertModel are on the meta device"):
        convert(model)


def test_weights_that_do_not_fit_the_configuration_are_rejected() -> None:
    model = bert("BertForSequenceClassification")
    model.classifier = torch.nn.Linear(24, 7)
    with pytest.raises(ValueError, match=r"(?s)do not fit the configuration.*classifier\.weight"):
        convert(model)


def test_a_configuration_with_a_wrong_type_is_rejected(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"hidden_act": "gelu"', '"hidden_act": null'))
    with pytest.raises(ValueError, match=r"(?s)configuration of .* is not valid.*hidden_act"):
        convert(tmp_path)
