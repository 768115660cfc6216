"""Conversion keeps what a checkpoint holds: heads, poolers, dtypes, settings, and the weights of the source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from sequence_encoder import SequenceEncoderConfig, SequenceEncoderForMaskedLM, SequenceEncoderModel, convert
from sequence_encoder.tests.fixtures.other_families import SIZES, rewrite, tiny_model


def without_pooler(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if name.startswith("pooler.")]:
        del tensors[name]


def test_fields_of_heads_that_a_model_lacks_do_not_prevent_conversion(
    tiny_config: Callable[..., SequenceEncoderConfig],
) -> None:
    config = tiny_config(
        "bert", pooling="mean", classifier_head="dense", initializer="xavier_uniform", sliding_window=4
    )
    assert convert(SequenceEncoderForMaskedLM(config), to="bert").config.model_type == "bert"


def test_a_model_without_a_pooler_stays_without_one(tmp_path: Path, randomize: Callable[..., Any]) -> None:
    model = randomize(tiny_model("Bert"))
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
        "pooler.dense.weight"
        not in convert(SequenceEncoderModel(convert(tiny_model("Bert")).config, False), "bert").state_dict()
    )


def expected_first(model: Any, ids: torch.Tensor) -> torch.Tensor:
    return model(ids).last_hidden_state[:, 0]


@pytest.mark.parametrize("family", ["Bert", "Albert"])
def test_a_masked_language_model_with_both_pretraining_heads_keeps_them(tmp_path: Path, family: str) -> None:
    tiny_model(family, "ForPreTraining").save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace(f"{family}ForPreTraining", f"{family}ForMaskedLM"))
    assert type(convert(tmp_path)).__name__ == "SequenceEncoderForPreTraining"


@pytest.mark.parametrize("family", ["Bert", "MPNet"])
def test_an_embedding_model_that_names_a_head_without_weights_is_an_encoder(
    tmp_path: Path, randomize: Callable[..., Any], caplog: pytest.LogCaptureFixture, family: str
) -> None:
    """So does all-mpnet-base-v2: its configuration is that of the model that it was trained from."""
    model = randomize(getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**SIZES)))
    model.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace(f"{family}Model", f"{family}ForMaskedLM"))
    ours = convert(tmp_path)
    assert f"names {family}ForMaskedLM but has no weights of its head" in caplog.text
    assert type(ours) is SequenceEncoderModel
    ids = torch.randint(5, 97, (2, 9))
    for found, expected in zip(ours(ids)[:2], model(ids)[:2], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_head_with_only_some_of_its_weights_is_refused(tmp_path: Path) -> None:
    tiny_model("Bert", "ForMaskedLM").save_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.__delitem__("cls.predictions.transform.dense.weight"))
    with pytest.raises(ValueError, match=r"it lacks: cls\.predictions\.transform\.dense\.weight"):
        convert(tmp_path)


def test_the_source_is_unchanged_and_shares_no_weights(randomize: Callable[..., Any]) -> None:
    model = randomize(tiny_model("Bert", "ForMaskedLM"))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    ours = convert(model)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_base_model_converts_the_encoder_without_an_unsupported_head(
    tmp_path: Path, randomize: Callable[..., Any]
) -> None:
    discriminator = randomize(tiny_model("Electra", "ForPreTraining", embedding_size=12))
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


def test_the_cross_encoder_settings_in_the_configuration_are_kept(tmp_path: Path) -> None:
    kept = {"activation_fn": "torch.nn.modules.linear.Identity", "version": "5.0"}
    model = tiny_model("Bert", "ForSequenceClassification", num_labels=1, sentence_transformers=kept)
    ours = convert(model)
    assert ours.config.sentence_transformers == kept
    ours.save_pretrained(tmp_path)
    assert SequenceEncoderConfig.from_pretrained(tmp_path).sentence_transformers == kept
    assert convert(tmp_path, to="bert").config.sentence_transformers == kept


def test_sharded_bfloat16_checkpoints_keep_their_dtype(tmp_path: Path, randomize: Callable[..., Any]) -> None:
    model = randomize(tiny_model("Bert", "ForMaskedLM")).to(torch.bfloat16)
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
    randomize(tiny_model("Bert", "ForMaskedLM")).save_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.update({"cls.predictions.decoder.weight": torch.randn(97, 24)}))
    theirs = transformers.BertForMaskedLM.from_pretrained(tmp_path)
    assert theirs.config.tie_word_embeddings
    ids = torch.randint(5, 97, (2, 9))
    ours = convert(tmp_path)
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(convert(ours, to="bert")(ids).logits, theirs(ids).logits, rtol=1e-5, atol=1e-5)


def test_a_pooler_that_the_head_does_not_use_is_dropped(tmp_path: Path, randomize: Callable[..., Any]) -> None:
    config = transformers.RobertaConfig(**SIZES)
    model = randomize(transformers.RobertaForMaskedLM(config))
    model.save_pretrained(tmp_path)
    pooler = {"roberta.pooler.dense.weight": torch.ones(24, 24), "roberta.pooler.dense.bias": torch.ones(24)}
    rewrite(tmp_path, lambda tensors: tensors.update(pooler))
    ids = torch.randint(5, 97, (2, 9))
    torch.testing.assert_close(convert(tmp_path)(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-5)
