"""A configuration that is changed while loading or by assignment is as complete and valid as a new one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel
from transformers.configuration_utils import PreTrainedConfig

from sequence_encoder import PRESETS, SequenceEncoderConfig, SequenceEncoderModel

Build = Callable[..., SequenceEncoderConfig]

every_preset = pytest.mark.parametrize("preset", PRESETS)
ROTARY = {"position_embedding": "rotary"}
SLIDING = {"layer_types": ["sliding_attention"], "sliding_window": 2}


def assert_rejected(call: Callable[[], Any], expected: list[str]) -> None:
    with pytest.raises((StrictDataclassError, ValueError)) as error:
        call()
    assert [part for part in expected if part not in str(error.value)] == []


LOADERS: dict[str, Build] = {
    "SequenceEncoderConfig": SequenceEncoderConfig.from_pretrained,
    "AutoConfig": AutoConfig.from_pretrained,
    "SequenceEncoderModel": lambda *args, **given: SequenceEncoderModel.from_pretrained(*args, **given).config,
    "AutoModel": lambda *args, **given: AutoModel.from_pretrained(*args, **given).config,
}
every_loader = pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)


@pytest.fixture
def saved(tiny_config: Build, randomize: Callable[..., Any], tmp_path: Path) -> Path:
    randomize(SequenceEncoderModel(tiny_config())).save_pretrained(tmp_path)
    return tmp_path


def architecture(config: SequenceEncoderConfig) -> dict[str, Any]:
    stored = {"architectures", "auto_map", "dtype", "transformers_version", "_name_or_path"}
    return {name: value for name, value in config.to_dict().items() if name not in stored}


@every_loader
@pytest.mark.parametrize(
    "overrides",
    [
        ROTARY,
        {**ROTARY, "rope_parameters": {"rope_theta": 500.0}},
        SLIDING,
        {**ROTARY, **SLIDING},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": 2},
        {"num_hidden_layers": 5},
        {"num_hidden_layers": 4, "layer_types": ["full_attention", "sliding_attention"], "sliding_window": 3},
        {"problem_type": "regression", "num_labels": 1},
        {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}},
    ],
    ids=str,
)
def test_overrides_while_loading_behave_as_in_the_constructor(
    tiny_config: Build, saved: Path, load: Build, overrides: dict[str, Any], tmp_path: Path
) -> None:
    config = load(saved, **overrides)
    assert architecture(config) == architecture(tiny_config(**overrides))
    config.save_pretrained(tmp_path / "again")
    assert architecture(SequenceEncoderConfig.from_pretrained(tmp_path / "again")) == architecture(config)


@every_loader
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"layer_types": ["sliding_attention"] * 3}, ["sliding_attention", "sliding_window >= 1"]),
        ({"layer_types": ["full_attention"] * 4}, ["layer_types has 4", "num_hidden_layers=3"]),
        ({"num_attention_heads": 5}, ["hidden_size=24", "num_attention_heads=5"]),
        ({"num_hidden_layers": "2"}, ["num_hidden_layers", "int", "'2'"]),
        ({"rope_parameters": {"rope_theta": 500.0}}, ["rope_parameters", "rotary", "sinusoidal"]),
    ],
    ids=str,
)
def test_overrides_that_contradict_saved_fields_are_rejected(
    saved: Path, load: Build, overrides: dict[str, Any], expected: list[str]
) -> None:
    assert_rejected(lambda: load(saved, **overrides), expected)


@pytest.mark.parametrize("layers", range(9))
@pytest.mark.parametrize("saved_layers", [3, 4, 5])
def test_a_new_depth_repeats_the_saved_layer_pattern(
    tiny_config: Build, saved_layers: int, layers: int, tmp_path: Path
) -> None:
    tiny_config("modernbert", num_hidden_layers=saved_layers).save_pretrained(tmp_path)
    config = SequenceEncoderConfig.from_pretrained(tmp_path, num_hidden_layers=layers)
    assert config.layer_types == [f"{'sliding' if index % 3 else 'full'}_attention" for index in range(layers)]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"dtype": "bfloat16"},
        {"dtype": "auto"},
        {"torch_dtype": "bfloat16"},
        {"num_labels": 3},
        {"num_labels": 5},
        {"id2label": {0: "x", 1: "y"}, "label2id": {"x": 0, "y": 1}},
        {"id2label": {0: "x", 1: "y"}},
        {"attn_implementation": "eager", "output_attentions": True, "output_hidden_states": True},
        {"name_or_path": "somewhere", "_from_auto": True, "_commit_hash": None, "revision": "main"},
        {"unknown": 1, "norm_placment": "pre"},
    ],
    ids=str,
)
def test_other_loading_arguments_behave_as_in_transformers(tiny_config: Build, given: dict[str, Any]) -> None:
    saved = tiny_config("bert", num_labels=3, dtype="float32").to_dict()
    theirs = PreTrainedConfig.from_dict.__func__(SequenceEncoderConfig, dict(saved), **given, return_unused_kwargs=True)
    config, unused = SequenceEncoderConfig.from_dict(dict(saved), **given, return_unused_kwargs=True)
    assert config.to_dict() == theirs[0].to_dict()
    assert (config.dtype, config._attn_implementation) == (theirs[0].dtype, theirs[0]._attn_implementation)
    assert unused == theirs[1]
    assert SequenceEncoderConfig.from_dict(dict(saved), **given).to_dict() == config.to_dict()


def test_num_labels_and_problem_type_are_validated_together(
    tiny_config: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_config(num_labels=1, problem_type="regression").save_pretrained(tmp_path)
    config = SequenceEncoderConfig.from_pretrained(tmp_path, num_labels=3, problem_type="single_label_classification")
    assert config.id2label == {index: f"LABEL_{index}" for index in range(3)}
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"single_label_classification.*num_labels > 1"):
        SequenceEncoderConfig.from_pretrained(tmp_path, num_labels=1)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (ROTARY, ["rope_parameters=None", "full_attention"]),
        ({**ROTARY, "rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}}, ["full_attention", "500.0"]),
        (
            {**ROTARY, "rope_parameters": {"sliding_attention": {"rope_theta": 5.0, "rope_type": "default"}}},
            ["full_attention", "'sliding_attention'"],
        ),
        ({**ROTARY, "rope_parameters": {"full_attention": 5.0}}, ["rope_parameters['full_attention']", "dict", "5.0"]),
        (
            {**ROTARY, "rope_parameters": {"full_attention": {"rope_theta": 5.0}}},
            ["rope_parameters['full_attention']['rope_type']=None", "default, linear"],
        ),
        ({"num_hidden_layers": 2}, ["layer_types has 3", "num_hidden_layers=2"]),
        ({"layer_types": ["sliding_attention"] * 3}, ["sliding_window >= 1"]),
    ],
    ids=str,
)
def test_validate_rejects_assigned_contradictions(
    tiny_config: Build, changes: dict[str, Any], expected: list[str]
) -> None:
    config = tiny_config()
    for name, value in changes.items():
        setattr(config, name, value)
    assert_rejected(config.validate, expected)


@every_preset
def test_a_model_without_layers_returns_its_embeddings(
    tiny_config: Build, ragged: Build, preset: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = SequenceEncoderModel(tiny_config(preset, num_hidden_layers=0)).eval()
    assert model.config.layer_types == []
    ids, mask = ragged([5, 11, 8])
    padded = model(ids, mask, output_hidden_states=True).last_hidden_state
    torch.testing.assert_close(model(ids, mask).last_hidden_state, padded)
    places = (mask.cumsum(1) - 1) * mask
    embedded = model.norm(model.embeddings(model.embed_tokens(ids), None, places))
    torch.testing.assert_close(padded, embedded * mask[..., None])
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    torch.testing.assert_close(again(ids, mask).last_hidden_state, padded, rtol=0, atol=0)
    assert caplog.text == ""


def test_names_of_labels_alone_also_give_their_numbers(tiny_config: Build, tmp_path: Path) -> None:
    tiny_config().save_pretrained(tmp_path)
    config = SequenceEncoderConfig.from_pretrained(tmp_path, id2label={0: "bad", 1: "good"})
    assert config.label2id == {"bad": 0, "good": 1}
    config.save_pretrained(tmp_path)
    assert SequenceEncoderConfig.from_pretrained(tmp_path).label2id == {"bad": 0, "good": 1}
