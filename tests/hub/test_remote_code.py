"""Checkpoints whose code is on the Hub have the outputs that their papers define, and their code never runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from sequence_encoder import convert
from sequence_encoder.tests.fixtures.remote_code_models import MODELS, batch, encoder, save, variant

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


PUBLISHED = json.loads((Path(__file__).parents[1] / "fixtures" / "published_configurations.json").read_text())[
    "computed_by_formulas"
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_has_the_outputs_of_the_formulas(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    family, published = PUBLISHED[name].values()
    heads = published["num_attention_heads"]
    small = {"vocab_size": 97, "hidden_size": 4 * heads, "intermediate_size": 3 * heads + 2}
    model = replace(MODELS[family], fields={**published, **small})
    decoder = {"decoder.weight": (97, 4 * heads), "decoder.bias": (97,)} if family == "neobert" else {}
    weights = model.weights(decoder)
    with caplog.at_level("WARNING", "sequence_encoder"):
        converted = convert(save(tmp_path, model.fields, weights)).base_model
    assert "does not contain" not in caplog.text
    assert converted.config.num_hidden_layers == published["num_hidden_layers"]
    ids, mask, types = batch()
    types = types if "type_vocab_size" in published else None
    found = converted(ids, attention_mask=mask, token_type_ids=types).last_hidden_state[mask.bool()]
    torch.testing.assert_close(found, model.states(weights, ids, mask, types)[mask.bool()], rtol=1e-4, atol=1e-4)
