"""Checkpoints whose code is on the Hub are read only from safe files, and rejected by name without an equivalent."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from sequence_encoder import convert
from sequence_encoder.__main__ import main
from sequence_encoder.command_line import UsageError
from sequence_encoder.conversion.formats.remote_code_checkpoints import REMOTE_CODE_FAMILIES
from sequence_encoder.tests.fixtures.remote_code_models import MODELS, RemoteCodeModel, batch, encoder, save, variant
from sequence_encoder.training.adaptation.encoder import encoder_of


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
        (variant("nomic_bert", n_inner="x"), "n_inner must be a number, got 'x'"),
        (variant("nomic_bert", num_experts=8), "num_experts=8"),
        (variant("nomic_bert", rotary_emb_fraction=0.5), "rotary_emb_fraction=0.5"),
    ]


@pytest.mark.parametrize(("model", "message"), rejections())
def test_what_has_no_equivalent_is_rejected_by_name(tmp_path: Path, model: RemoteCodeModel, message: str) -> None:
    folder = save(tmp_path / "model", model.fields, {"nothing": torch.ones(1)})
    with pytest.raises(ValueError, match=message):
        convert(folder)
    with pytest.raises(SystemExit, match=message):
        main(["convert", str(folder), "--output_dir", str(tmp_path / "ours")])
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


def test_a_size_in_the_configuration_allocates_nothing(tmp_path: Path) -> None:
    """A billion rows of 24 channels are 96 GB."""
    model = encoder("new")
    fields = {**model.fields, "vocab_size": 10**9}
    with pytest.raises(ValueError, match=r"embed_tokens\.weight .* shape \(97, 24\), and needs \(1000000000, 24\)"):
        convert(save(tmp_path, fields, model.weights()))
    with pytest.raises(ValueError, match=r"num_labels must be an integer from 0 to 10,000,000, got 1000000000000"):
        convert(save(tmp_path, {**model.fields, "num_labels": 10**12}, model.weights()))


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
    weights = {name: tensor if stated else tensor.bfloat16() for name, tensor in model.weights().items()}
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
    main(["convert", str(folder), "--output_dir", str(target)])
    printed = capsys.readouterr().out
    assert "Converted JinaBertForMaskedLM to SequenceEncoderModel. Their outputs could not be compared" in printed
    assert (target / "1_Pooling" / "config.json").is_file()
    assert "modeling_bert" not in (target / "tokenizer_config.json").read_text()
    ids, mask, types = batch()
    found = AutoModel.from_pretrained(target)(ids, attention_mask=mask, token_type_ids=types).last_hidden_state
    expected = model.states(model.weights(), ids, mask, types)
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=1e-5, atol=1e-5)


def test_weights_that_give_nan_are_not_written(tmp_path: Path) -> None:
    model = encoder("new")
    weights = {**model.weights(), "encoder.layer.1.mlp_ln.bias": torch.full((24,), torch.nan)}
    folder = save(tmp_path / "model", model.fields, weights)
    with pytest.raises(SystemExit, match="outputs of the converted model are NaN or infinite; nothing was written"):
        main(["convert", str(folder), "--output_dir", str(tmp_path / "ours")])
    assert not (tmp_path / "ours").exists()


def test_the_guide_lists_every_family() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "convert.md").read_text()
    table = guide.partition("| Family | Classes |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(REMOTE_CODE_FAMILIES)
    named = set(re.findall(r"`(\w+)`", table)) - set(REMOTE_CODE_FAMILIES)
    assert named <= {name for family in REMOTE_CODE_FAMILIES.values() for name in family.classes}


def test_training_starts_from_such_a_checkpoint(bert_folder: Path, tmp_path: Path) -> None:
    model = variant("jina_bert", vocab_size=1000)
    folder = save(bert_folder, model.fields, model.weights())
    place, tokenizer = encoder_of(str(folder), tmp_path / "encoder", any_family=False, may_write=True)
    ids, mask, types = batch()
    found = AutoModel.from_pretrained(place)(ids, attention_mask=mask, token_type_ids=types).last_hidden_state
    expected = model.states(model.weights(), ids, mask, types)
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=1e-5, atol=1e-5)
    assert tokenizer.pad_token == "[PAD]"
    save(folder, {**model.fields, "feed_forward_type": "original"}, {"nothing": torch.ones(1)})
    with pytest.raises(UsageError, match="feed_forward_type='original'"):
        encoder_of(str(folder), tmp_path / "other", any_family=True, may_write=True)
