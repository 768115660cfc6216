"""What is particular to a family survives its conversion: poolers, groups, labels, and old names of fields."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from sequence_encoder import SequenceEncoderConfig, SequenceEncoderForMaskedLM, SequenceEncoderModel, convert
from sequence_encoder.tests.fixtures.other_families import SIZES, rewrite, tiny_model


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
    ours = convert(tiny_model("Albert", "ForPreTraining"))
    ours.config.num_labels = 5
    theirs = convert(ours, to="albert")
    assert theirs.config.num_labels == theirs.sop_classifier.classifier.out_features == 2


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


@pytest.mark.parametrize("to", ["bert", "electra", "distilbert"])
def test_question_answering_converts_back_with_two_labels(to: str) -> None:
    config = transformers.DistilBertConfig(vocab_size=97, dim=24, n_layers=1, n_heads=3, hidden_dim=40)
    distilbert = transformers.DistilBertForQuestionAnswering(config)
    ours = convert(distilbert if to == "distilbert" else tiny_model(to.title(), "ForQuestionAnswering"))
    ours.config.num_labels = 5
    assert convert(ours, to=to).config.num_labels == 2


@pytest.mark.parametrize("to", ["electra", "distilbert", "eurobert"])
def test_the_dense_layer_of_a_classifier_is_dropped_with_it(tmp_path: Path, to: str) -> None:
    config = transformers.DistilBertConfig(vocab_size=97, dim=24, n_layers=1, n_heads=3, hidden_dim=40)
    source = {
        "electra": lambda: tiny_model("Electra", "ForSequenceClassification"),
        "distilbert": lambda: transformers.DistilBertForSequenceClassification(config),
        "eurobert": lambda: tiny_model("EuroBert", "ForSequenceClassification"),
    }[to]()
    ours = convert(source)
    ours.save_pretrained(tmp_path)
    for model in (ours, tmp_path):
        assert type(convert(model, to=to, base_model=True)) is type(source.base_model)


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


def test_a_pooler_that_a_class_has_only_on_request_is_kept(tmp_path: Path, randomize: Callable[..., Any]) -> None:
    model = randomize(tiny_model("NomicBert", pooler=True))
    model.save_pretrained(tmp_path)
    ids = torch.randint(5, 97, (2, 9))
    for source in (model, tmp_path):
        ours = convert(source)
        torch.testing.assert_close(ours(ids).pooler_output, model(ids).pooler_output, rtol=1e-5, atol=1e-5)
        assert "pooler.dense.weight" in convert(ours, to="nomic_bert").state_dict()
    assert convert(tiny_model("NomicBert")).config.pooler_act is None


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


def test_a_scaling_that_no_text_is_long_enough_for_is_left_out(randomize: Callable[..., Any]) -> None:
    """nomic-embed-text-v1 scales the positions of longer texts than it reads."""
    rope = {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 2.0}
    limits = {"max_position_embeddings": 16, "n_positions": 16}
    model = randomize(tiny_model("NomicBert", rope_parameters=rope, rotary_scaling_factor=2, **limits))
    ids = torch.randint(5, 97, (2, 16))
    expected = model(ids).last_hidden_state
    ours = convert(model)
    torch.testing.assert_close(ours(ids).last_hidden_state, expected, rtol=1e-5, atol=1e-5)
    assert model.config.rope_parameters["rope_type"] == "dynamic"
    assert convert(ours, to="nomic_bert").config.rope_parameters["rope_type"] == "default"


def test_a_table_of_positions_may_be_missing_but_not_changed(tmp_path: Path) -> None:
    model = tiny_model("RoFormer", "ForMaskedLM").to(torch.bfloat16)
    assert type(convert(model)) is SequenceEncoderForMaskedLM
    model.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.__delitem__("roformer.encoder.embed_positions.weight"))
    ids = torch.randint(5, 97, (2, 9))
    assert torch.equal(convert(tmp_path)(ids).logits, convert(model)(ids).logits)
    with torch.no_grad():
        model.roformer.encoder.embed_positions.weight[3, 1] += 0.1
    with pytest.raises(ValueError, match=r"roformer\.encoder\.embed_positions\.weight has other values"):
        convert(model)


@pytest.mark.parametrize(
    "preset", ["bert", "roberta", "distilbert", "mpnet", "deberta-v3", "nomic", "eurobert", "modernbert"]
)
def test_a_preset_converts_to_its_family(tiny_config: Callable[..., SequenceEncoderConfig], preset: str) -> None:
    extra = {"pad_token_id": 1} if preset in ("roberta", "mpnet") else {}
    family = {"nomic": "nomic_bert", "deberta-v3": "deberta-v2"}.get(preset, preset)
    theirs = convert(SequenceEncoderForMaskedLM(tiny_config(preset, **extra)), to=family)
    assert theirs.config.model_type == family
