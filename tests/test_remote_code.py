"""Checkpoints whose code is on the Hub have the outputs that their papers define, and their code never runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoModel

from sequence_encoder import convert
from sequence_encoder.__main__ import main
from sequence_encoder.tests.hub_client import HubClient
from sequence_encoder.tests.hub_server import Hub
from sequence_encoder.tests.remote_code_models import MODELS, RemoteCodeModel, alibi_slopes, save

_VOCABULARY = {"cls.predictions.decoder.weight": (97, 24), "cls.predictions.decoder.bias": (97,)}
_BERT_HEAD = {
    "cls.predictions.transform.dense.weight": (24, 24),
    "cls.predictions.transform.dense.bias": (24,),
    "cls.predictions.transform.LayerNorm.weight": (24,),
    "cls.predictions.transform.LayerNorm.bias": (24,),
}
_CLASSIFIER = {"classifier.weight": (5, 24), "classifier.bias": (5,)}
_POOLER = {"pooler.dense.weight": (24, 24), "pooler.dense.bias": (24,)}
_LABELS = {"id2label": {str(label): f"name {label}" for label in range(5)}}
_NTK = {"rope_scaling": {"type": "ntk", "factor": 8.0}}


def variant(name: str, **fields: Any) -> RemoteCodeModel:
    """Return a family's model with other fields."""
    return replace(MODELS[name], fields={**MODELS[name].fields, **fields})


def encoder(name: str, **fields: Any) -> RemoteCodeModel:
    """Return a family's model without a head."""
    architecture = {"neobert": "NeoBERT", "jina_bert": "JinaBertModel", "new": "NewModel"}[name]
    return variant(name, architectures=[architecture], **fields)


def batch(side: str = "right") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return token ids, a mask and segments of texts of several lengths."""
    lengths = torch.tensor([11, 4, 7])[:, None]
    places = torch.arange(11)
    mask = (places < lengths if side == "right" else places >= 11 - lengths).long()
    return torch.randint(5, 97, (3, 11)) * mask, mask, torch.randint(0, 2, (3, 11)) * mask


VARIANTS = {
    "neobert": encoder("neobert"),
    "neobert-one-head": encoder("neobert", num_attention_heads=1, norm_eps=1e-2, intermediate_size=47),
    "jina_bert": encoder("jina_bert"),
    "jina_bert-8-heads-reglu": encoder("jina_bert", num_attention_heads=8, feed_forward_type="reglu"),
    "jina_bert-12-heads": encoder("jina_bert", num_attention_heads=12, layer_norm_eps=1e-2),
    "new": encoder("new"),
    "new-separate": encoder("new", pack_qkv=False, type_vocab_size=0),
    "new-ntk": encoder("new", **_NTK, type_vocab_size=1, layer_norm_eps=1e-2),
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_the_encoder_follows_the_formulas(tmp_path: Path, name: str, side: str) -> None:
    model = VARIANTS[name]
    weights = {key: tensor.requires_grad_() for key, tensor in model.weights().items()}
    converted = convert(save(tmp_path, model.fields, {key: tensor.detach() for key, tensor in weights.items()}))
    ids, mask, types = batch(side)
    real, types = mask.bool(), types if model.fields.get("type_vocab_size", 0) > 1 else None
    expected = model.states(weights, ids, mask, types)[real]
    vector = torch.randn_like(expected)
    (expected * vector).sum().backward()
    for path in ({}, {"output_hidden_states": True}):
        converted.zero_grad()
        found = converted(ids, attention_mask=mask, token_type_ids=types, **path).last_hidden_state[real]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        (found * vector).sum().backward()
        gradient = weights[
            "encoder.weight" if "encoder.weight" in weights else "embeddings.word_embeddings.weight"
        ].grad
        torch.testing.assert_close(converted.embed_tokens.weight.grad, gradient, rtol=1e-4, atol=1e-4)


def test_neobert_predicts_tokens_and_classifies(tmp_path: Path) -> None:
    model, (ids, mask, _) = MODELS["neobert"], batch()
    weights = model.weights({"decoder.weight": (97, 24), "decoder.bias": (97,)})
    converted = convert(save(tmp_path / "lm", model.fields, weights))
    assert type(converted).__name__ == "SequenceEncoderForMaskedLM"
    expected = F.linear(model.states(weights, ids, mask), weights["decoder.weight"], weights["decoder.bias"])
    found = converted(ids, attention_mask=mask).logits
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=1e-5, atol=1e-5)

    model = variant("neobert", architectures=["NeoBERTForSequenceClassification"], **_LABELS)
    weights = model.weights({"dense.weight": (24, 24), "dense.bias": (24,), **_CLASSIFIER})
    converted = convert(save(tmp_path / "classifier", model.fields, weights))
    pooled = F.linear(model.states(weights, ids, mask)[:, 0], weights["dense.weight"], weights["dense.bias"]).tanh()
    expected = F.linear(pooled, weights["classifier.weight"], weights["classifier.bias"])
    torch.testing.assert_close(converted(ids, attention_mask=mask).logits, expected, rtol=1e-5, atol=1e-5)
    assert converted.config.id2label[3] == "name 3"


def bert_logits(weights: dict[str, torch.Tensor], states: torch.Tensor, act: Any, norm: str) -> torch.Tensor:
    """Compute the logits of a prediction head like BERT's."""
    head = "cls.predictions.transform"
    states = act(F.linear(states, weights[f"{head}.dense.weight"], weights.get(f"{head}.dense.bias")))
    states = F.layer_norm(states, (24,), weights[f"{head}.{norm}.weight"], weights[f"{head}.{norm}.bias"], 1e-12)
    bias = weights.get("cls.predictions.decoder.bias")
    return F.linear(states, weights["bert.embeddings.word_embeddings.weight"], bias)


@pytest.mark.parametrize("stored", [(), ("weight",), ("weight", "bias")])
def test_jina_bert_predicts_tokens_with_tied_weights_stored_or_not(tmp_path: Path, stored: tuple[str, ...]) -> None:
    model, (ids, mask, types) = MODELS["jina_bert"], batch()
    weights = model.weights({**_BERT_HEAD, **_VOCABULARY})
    weights = {name: tensor for name, tensor in weights.items() if "pooler" not in name}
    weights["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"].clone()
    weights["cls.predictions.bias"] = weights["cls.predictions.decoder.bias"].clone()
    expected = bert_logits(weights, model.states(weights, ids, mask, types), F.gelu, "LayerNorm")
    left_out = {f"cls.predictions.decoder.{kind}" for kind in {"weight", "bias"} - set(stored)}
    folder = save(tmp_path, model.fields, {name: tensor for name, tensor in weights.items() if name not in left_out})
    found = convert(folder)(ids, attention_mask=mask, token_type_ids=types).logits
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=1e-5, atol=1e-5)


def test_weights_that_should_be_tied_but_differ_are_rejected(tmp_path: Path) -> None:
    model = MODELS["jina_bert"]
    folder = save(tmp_path, model.fields, model.weights({**_BERT_HEAD, **_VOCABULARY}))
    with pytest.raises(ValueError, match=r"decoder\.weight differs from bert\.embeddings\.word_embeddings"):
        convert(folder)
    save(tmp_path, {**model.fields, "tie_word_embeddings": False}, load_file(folder / "model.safetensors"))
    assert not convert(folder).config.tie_word_embeddings


@pytest.mark.parametrize(("name", "prefix"), [("jina_bert", "JinaBert"), ("new", "New")])
def test_classifiers_follow_the_formulas(tmp_path: Path, name: str, prefix: str) -> None:
    ids, mask, types = batch()
    head = {f"{MODELS[name].prefix}{key}": shape for key, shape in _POOLER.items()} | _CLASSIFIER
    model = variant(name, architectures=[f"{prefix}ForSequenceClassification"], **_LABELS)
    weights = model.weights(head)
    states = model.states(weights, ids, mask, types)
    pooler = f"{model.prefix}pooler.dense"
    pooled = F.linear(states[:, 0], weights[f"{pooler}.weight"], weights[f"{pooler}.bias"]).tanh()
    classifier = (weights["classifier.weight"], weights["classifier.bias"])
    converted = convert(save(tmp_path / "texts", model.fields, weights))
    found = converted(ids, attention_mask=mask, token_type_ids=types).logits
    torch.testing.assert_close(found, F.linear(pooled, *classifier), rtol=1e-5, atol=1e-5)

    fields = {**model.fields, "architectures": [f"{prefix}ForTokenClassification"]}
    weights = {key: tensor for key, tensor in weights.items() if "pooler" not in key}
    converted = convert(save(tmp_path / "tokens", fields, weights))
    found = converted(ids, attention_mask=mask, token_type_ids=types).logits[mask.bool()]
    torch.testing.assert_close(found, F.linear(states, *classifier)[mask.bool()], rtol=1e-5, atol=1e-5)


def test_new_models_predict_tokens_and_answers(tmp_path: Path) -> None:
    ids, mask, types = batch()
    model = variant("new", architectures=["NewForMaskedLM"])
    shapes = {"dense.weight": (24, 24), "dense.bias": (24,), "norm.weight": (24,), "norm.bias": (24,)}
    weights = model.weights({f"lm_head.{key}": shape for key, shape in {**shapes, "decoder.bias": (97,)}.items()})
    states = model.states(weights, ids, mask, types)
    hidden = F.gelu(F.linear(states, weights["lm_head.dense.weight"], weights["lm_head.dense.bias"]))
    hidden = F.layer_norm(hidden, (24,), weights["lm_head.norm.weight"], weights["lm_head.norm.bias"], 1e-12)
    expected = F.linear(hidden, weights["new.embeddings.word_embeddings.weight"], weights["lm_head.decoder.bias"])
    found = convert(save(tmp_path / "lm", model.fields, weights))(ids, attention_mask=mask, token_type_ids=types).logits
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=1e-5, atol=1e-5)

    model = variant("new", architectures=["NewForQuestionAnswering"])
    weights = model.weights({"qa_outputs.weight": (2, 24), "qa_outputs.bias": (2,)})
    answers = F.linear(
        model.states(weights, ids, mask, types), weights["qa_outputs.weight"], weights["qa_outputs.bias"]
    )
    found = convert(save(tmp_path / "qa", model.fields, weights))(ids, attention_mask=mask, token_type_ids=types)
    for one, other in zip((found.start_logits, found.end_logits), answers.unbind(-1), strict=True):
        torch.testing.assert_close(one[mask.bool()], other[mask.bool()], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stored", [True, False])
def test_nomic_bert_for_pretraining_predicts_tokens(tmp_path: Path, stored: bool) -> None:
    model, (ids, mask, types) = MODELS["nomic_bert"], batch()
    shapes = {key.replace("LayerNorm", "layer_norm"): shape for key, shape in _BERT_HEAD.items()}
    del shapes["cls.predictions.transform.dense.bias"]
    weights = model.weights(shapes)
    expected = bert_logits(weights, model.states(weights, ids, mask, types), F.silu, "layer_norm")
    tied = {"cls.predictions.decoder.weight": weights["bert.embeddings.word_embeddings.weight"].clone()}
    buffers = {"bert.encoder.layers.0.attn.rotary_emb.inv_freq": torch.ones(4)}
    folder = save(tmp_path, model.fields, {**weights, **(tied if stored else {}), **buffers})
    converted = convert(folder)
    found = converted(ids, attention_mask=mask, token_type_ids=types).logits
    assert found.shape[-1] == 104  # the vocabulary is rounded up to a multiple of 8
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=1e-5, atol=1e-5)
    # The class of transformers has another name for the trunk.
    classes = {"architectures": ["NomicBertForSequenceClassification"], **_LABELS}
    head = {f"bert.{key}": shape for key, shape in _POOLER.items()} | _CLASSIFIER
    weights = variant("nomic_bert", **classes).weights(head)
    found = convert(save(tmp_path / "classifier", {**model.fields, **classes}, weights))(
        ids, attention_mask=mask
    ).logits
    states = model.states(weights, ids, mask)[:, 0]
    pooled = F.linear(states, weights["bert.pooler.dense.weight"], weights["bert.pooler.dense.bias"]).tanh()
    expected = F.linear(pooled, weights["classifier.weight"], weights["classifier.bias"])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["new", "nomic_bert"])
def test_a_family_of_transformers_with_the_same_architecture_takes_the_model(tmp_path: Path, name: str) -> None:
    core = {"new": "gte", "nomic_bert": "nomic_bert"}[name]
    pytest.importorskip(f"transformers.models.{core}")
    ids, mask, types = batch()
    model = encoder("new", **_NTK) if name == "new" else MODELS[name]
    weights = model.weights()
    folder = save(tmp_path, model.fields, weights)
    theirs = convert(folder, to=core, base_model=True)
    assert type(theirs).__module__.startswith("transformers.")
    found = theirs(ids, attention_mask=mask, token_type_ids=types).last_hidden_state[mask.bool()]
    torch.testing.assert_close(found, model.states(weights, ids, mask, types)[mask.bool()], rtol=1e-5, atol=1e-5)


def test_an_embedding_model_that_names_a_head_without_weights_becomes_an_encoder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The published jina-embeddings-v2 name JinaBertForMaskedLM, and have the weights of JinaBertModel."""
    model = MODELS["jina_bert"]
    with caplog.at_level("WARNING", "sequence_encoder"):
        converted = convert(save(tmp_path, model.fields, model.weights()))
    assert type(converted).__name__ == "SequenceEncoderModel"
    assert "names JinaBertForMaskedLM, but has no head" in caplog.text
    ids, mask, _ = batch()
    assert converted(ids, attention_mask=mask).pooler_output.shape == (3, 24)


def test_a_pooler_is_kept_with_an_encoder_and_dropped_with_a_head(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = variant("jina_bert", architectures=["JinaBertForTokenClassification"], **_LABELS)
    folder = save(tmp_path, model.fields, model.weights(_CLASSIFIER))
    with caplog.at_level("WARNING", "sequence_encoder"):
        convert(folder)
    assert "has a pooler that JinaBertForTokenClassification does not use" in caplog.text
    assert convert(folder, base_model=True).pooler.dense.weight.shape == (24, 24)
    bare = encoder("new")
    assert convert(save(tmp_path / "bare", bare.fields, bare.weights())).config.pooler_act is None


def rejections() -> list[tuple[RemoteCodeModel, str]]:
    post_norm = {"AutoModel": "jinaai/jina-bert-v2-qk-post-norm--modeling_bert.JinaBertModel"}
    return [
        (encoder("neobert", rms_norm=False), "rms_norm=False is not supported"),
        (encoder("neobert", hidden_act="gelu"), "hidden_act='gelu' .*'swiglu'"),
        (encoder("neobert", tie_word_embeddings=True), "tie_word_embeddings=True is not supported"),
        (variant("neobert", architectures=["NeoBERTForTokenClassification"]), "NeoBERTForTokenClassification cannot"),
        (encoder("neobert", num_attention_heads=5), "hidden_size=24 is not divisible by num_attention_heads=5"),
        (encoder("neobert", num_attention_heads=0), "num_attention_heads must be at least 1"),
        (encoder("jina_bert", auto_map=post_norm), "auto_map=.*normalise queries and keys"),
        (encoder("jina_bert", feed_forward_type="original"), "feed_forward_type='original'.*geglu, reglu"),
        (encoder("jina_bert", position_embedding_type="absolute"), "position_embedding_type='absolute'"),
        (variant("jina_bert", feed_forward_type="reglu"), "feed_forward_type='reglu'.*'geglu'"),
        (variant("jina_bert", architectures=["JinaBertForNextSentencePrediction"]), "ForNextSentencePrediction cannot"),
        (encoder("jina_bert", is_decoder=True), "is_decoder=True"),
        (encoder("jina_bert", quantization_config={"bits": 8}), "quantization_config is not supported"),
        (encoder("new", rope_scaling={"type": "dynamic", "factor": 2.0}), "rope_scaling=.*dynamic.*'ntk'"),
        (encoder("new", rope_scaling={"type": "ntk", "factor": 2.0, "mixed_b": 0.6}), "rope_scaling=.*mixed_b"),
        (encoder("new", rope_scaling={"type": "ntk", "factor": 0.5}), "rope_scaling=.*at least 1"),
        (encoder("new", rope_scaling=3), "rope_scaling=3"),
        (encoder("new", layer_norm_type="rms_norm"), "layer_norm_type='rms_norm'"),
        (encoder("new", position_embedding_type="absolute"), "position_embedding_type='absolute'"),
        (encoder("new", logn_attention_scale=True), "logn_attention_scale=True"),
        (encoder("new", hidden_size="24"), "hidden_size must be a number, got '24'"),
        (encoder("new", pack_qkv="true"), "pack_qkv must be true or false, got 'true'"),
        (encoder("new", hidden_act=3), "hidden_act must be a string, got 3"),
        (encoder("new", torch_dtype="int8"), "dtype must be a floating dtype of torch.*'int8'"),
        (variant("new", architectures=["NewForRetroMAE"]), "NewForRetroMAE cannot.*NewForMaskedLM.*base_model=True"),
        (variant("nomic_bert", mlp_fc1_bias=True), "mlp_fc1_bias=True"),
        (variant("nomic_bert", num_experts=8), "num_experts=8"),
        (variant("nomic_bert", rotary_emb_fraction=0.5), "rotary_emb_fraction=0.5"),
    ]


@pytest.mark.parametrize(("model", "message"), rejections())
def test_what_has_no_equivalent_is_rejected_by_name(tmp_path: Path, model: RemoteCodeModel, message: str) -> None:
    folder = save(tmp_path / "model", model.fields, {"nothing": torch.ones(1)})
    with pytest.raises(ValueError, match=message):
        convert(folder)
    with pytest.raises(SystemExit, match=message):
        main(["convert", str(folder), str(tmp_path / "ours")])
    assert not (tmp_path / "ours").exists()


def test_nomic_bert_counts_missing_fields_as_its_code_does(tmp_path: Path) -> None:
    fields = {name: value for name, value in MODELS["nomic_bert"].fields.items() if name != "qkv_proj_bias"}
    with pytest.raises(ValueError, match="qkv_proj_bias=True is not supported"):
        convert(save(tmp_path, fields, {"nothing": torch.ones(1)}))


def test_weights_are_all_used_and_fit(tmp_path: Path) -> None:
    model = encoder("new")
    weights = model.weights()
    name, norm = "encoder.layer.2.attention.qkv_proj.weight", "encoder.layer.1.mlp_ln.bias"
    for changed, message in (
        ({key: tensor for key, tensor in weights.items() if key != norm}, f"has no {norm}"),
        ({**weights, "more.weight": torch.ones(3)}, "does not use: more.weight"),
        ({**weights, "encoder.layer.3.mlp_ln.bias": torch.ones(24)}, r"does not use: encoder\.layer\.3"),
        ({**weights, norm: torch.ones(23)}, r"(?s)do not fit .*layers\.1\.mlp_norm\.bias"),
        ({**weights, name: torch.ones(71, 24)}, "do not fit its configuration"),
        ({**weights, norm: torch.ones(24, dtype=torch.int32)}, f"{norm} has the dtype torch.int32"),
    ):
        with pytest.raises(ValueError, match=message):
            convert(save(tmp_path, model.fields, changed))
    weights["embeddings.position_ids"] = torch.arange(50)
    assert convert(save(tmp_path, model.fields, weights)).config.num_hidden_layers == 3
    code = variant("jina_bert", architectures=["JinaBertModel"])
    normed = {**code.weights(), "encoder.layer.0.attention.self.layer_norm_q.weight": torch.ones(24)}
    with pytest.raises(
        ValueError, match=r"encoder\.layer\.0\.attention\.self\.layer_norm_q\.weight .*normalise queries"
    ):
        convert(save(tmp_path, code.fields, normed))


def test_a_left_over_head_is_dropped_on_request(tmp_path: Path) -> None:
    """gte-multilingual-base names NewModel first, and has the classifier of another task."""
    model = encoder("new")
    weights = model.weights(_CLASSIFIER)
    folder = save(tmp_path, model.fields, weights)
    with pytest.raises(ValueError, match=r"does not use: classifier\.bias, classifier\.weight"):
        convert(folder)
    ids, mask, types = batch()
    found = convert(folder, base_model=True)(ids, attention_mask=mask, token_type_ids=types).last_hidden_state
    expected = model.states(weights, ids, mask, types)
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=1e-5, atol=1e-5)


def in_shards(folder: Path) -> dict[str, str]:
    """Split the weights of a folder into two files, and return the index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(sorted(weights))}
    for file in set(places.values()):
        save_file({name: tensor for name, tensor in weights.items() if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return places


def test_shards_are_read_and_checked(tmp_path: Path) -> None:
    model = encoder("jina_bert")
    folder = save(tmp_path / "model", model.fields, model.weights())
    expected = convert(folder).state_dict()
    places = in_shards(folder)
    found = convert(folder).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {**places, "a": "../secret.safetensors"}}))
    with pytest.raises(OSError, match=r"must name \.safetensors files in its own folder, got '\.\./secret"):
        convert(folder)
    index.write_text(json.dumps({"weight_map": {**places, "a": "model-00003.safetensors"}}))
    with pytest.raises(OSError, match=r"has no model-00003\.safetensors, which its index names"):
        convert(folder)


def test_pickled_damaged_and_linked_weights_are_rejected(tmp_path: Path) -> None:
    model = encoder("new")
    folder = save(tmp_path / "model", model.fields, model.weights())
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-9])
    with pytest.raises(ValueError, match=r"weights of .*model are damaged or incomplete"):
        convert(folder)
    file.rename(tmp_path / "secret.safetensors")
    file.symlink_to(tmp_path / "secret.safetensors")
    with pytest.raises(ValueError, match=r"links to .*secret\.safetensors, outside"):
        convert(folder)
    file.unlink()
    with pytest.raises(OSError, match=r"has no model\.safetensors"):
        convert(folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(OSError, match=r"pytorch_model\.bin is a pickled file"):
        convert(folder)


@pytest.mark.parametrize("stated", ["bfloat16", None])
def test_the_dtype_is_that_of_the_checkpoint(tmp_path: Path, stated: str | None) -> None:
    model = encoder("new", **({"torch_dtype": stated} if stated else {}))
    weights = {name: tensor.bfloat16() for name, tensor in model.weights().items()}
    converted = convert(save(tmp_path, model.fields, weights))
    assert converted.dtype == converted.config.dtype == torch.bfloat16


def test_unknown_fields_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = encoder("new", sandwich_norm=True, unpad_inputs="true", transformers_version="4.39.1", use_cache=False)
    with caplog.at_level("WARNING", "sequence_encoder"):
        convert(save(tmp_path, model.fields, model.weights()))
    assert "fields that the table of new does not contain: sandwich_norm. If" in caplog.text


def test_nothing_is_converted_back_to_them() -> None:
    with pytest.raises(ValueError, match=r"to='new' is not supported.*Pass to='gte'"):
        convert("somewhere", to="new")
    with pytest.raises(ValueError, match=r"to='neobert' is not supported, because the code of that family is only on"):
        convert("somewhere", to="neobert")


def test_other_code_on_the_hub_is_named_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # With a yes at the prompt of transformers, the code would run.
    monkeypatch.setattr("builtins.input", lambda *prompt: "y")
    auto_map = {"AutoConfig": "configuration.MyConfig", "AutoModel": "modeling.MyModel"}
    fields = {"model_type": "mine", "auto_map": auto_map, "architectures": ["MyModel"]}
    folder = save(tmp_path / "model", fields, {"weight": torch.ones(1)})
    with pytest.raises(ValueError, match="the model type 'mine', whose code is on the Hub"):
        convert(folder)


def test_the_command_says_that_outputs_are_not_compared(
    bert_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("builtins.input", lambda *prompt: "y")
    model = variant("jina_bert", vocab_size=1000)
    folder = save(bert_folder, model.fields, model.weights())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    auto_map = {"AutoTokenizer": [None, "modeling_bert.Tokenizer"]}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "auto_map": auto_map}))
    target = folder.parent / "ours"
    main(["convert", str(folder), str(target)])
    printed = capsys.readouterr().out
    assert "Converted JinaBertForMaskedLM to SequenceEncoderModel. Their outputs could not be compared" in printed
    assert (target / "1_Pooling" / "config.json").is_file()
    ids, mask, types = batch()
    found = AutoModel.from_pretrained(target)(ids, attention_mask=mask, token_type_ids=types).last_hidden_state
    expected = model.states(model.weights(), ids, mask, types)
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=1e-5, atol=1e-5)


def test_weights_that_give_nan_are_not_written(tmp_path: Path) -> None:
    model = encoder("new")
    weights = {**model.weights(), "encoder.layer.1.mlp_ln.bias": torch.full((24,), torch.nan)}
    folder = save(tmp_path / "model", model.fields, weights)
    with pytest.raises(SystemExit, match="outputs of the converted model are NaN or infinite; nothing was written"):
        main(["convert", str(folder), str(tmp_path / "ours")])
    assert not (tmp_path / "ours").exists()


def test_a_hub_id_is_read_without_its_code(hub: Hub, tmp_path: Path) -> None:
    user = HubClient(hub.url, tmp_path / "user", token="hf_of_the_user")
    reader = HubClient(hub.url, tmp_path / "reader")
    ids = torch.arange(1, 15).reshape(2, 7)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    try:
        for name, shards in (("whole", False), ("shards", True)):
            model = encoder("neobert")
            folder = save(tmp_path / name, model.fields, model.weights())
            if shards:
                in_shards(folder)
            user.call("upload", str(folder), f"user/remote-code-{name}")
            hub.requests.clear()
            found = torch.tensor(reader.call("convert_and_run", f"user/remote-code-{name}")[0])
            expected = model.states(model.weights(), ids, mask)
            torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=1e-5, atol=1e-5)
            assert not any(path.endswith(".py") for _, path in hub.requests)
    finally:
        user.close()
        reader.close()


def test_slopes_of_alibi() -> None:
    assert alibi_slopes(8) == [2**-i for i in range(1, 9)]
    assert alibi_slopes(12)[8:] == [2 ** -(i / 2) for i in (1, 3, 5, 7)]
