"""The configuration rejects unknown and contradictory values, names the allowed ones, and survives saving."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from huggingface_hub.errors import StrictDataclassError

from sequence_encoder import SequenceEncoderConfig, SequenceEncoderTokenizer
from sequence_encoder.configuration import PRESETS

Build = Callable[..., SequenceEncoderConfig]

every_preset = pytest.mark.parametrize("preset", PRESETS)
ROTARY = {"position_embedding": "rotary"}
LLAMA3 = {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def choices() -> dict[str, tuple[str, ...]]:
    """Return the fields that take one of several names, and the names."""
    found = {}
    for field in SequenceEncoderConfig.__dataclass_fields__.values():
        for part in (field.type, *get_args(field.type)):
            part = get_args(part)[0] if get_origin(part) is list else part
            if all(isinstance(name, str) for name in get_args(part)) and get_args(part):
                found[field.name] = get_args(part)
    return found


def assert_rejected(call: Callable[[], Any], expected: list[str]) -> None:
    with pytest.raises((StrictDataclassError, ValueError)) as error:
        call()
    assert [part for part in expected if part not in str(error.value)] == []


AXES = {
    "position_embedding",
    "norm_placement",
    "norm",
    "feed_forward",
    "hidden_act",
    "layer_types",
    "pooling",
    "pooler_act",
    "prediction_head",
    "classifier_head",
    "initializer",
}
CHOICES = sorted([*AXES, "problem_type"])


@pytest.mark.parametrize("field", CHOICES)
def test_an_unknown_choice_is_rejected_with_the_allowed_ones(tiny_config: Build, field: str) -> None:
    wrong = ["nonsense"] if field == "layer_types" else "nonsense"
    with pytest.raises(StrictDataclassError) as error:
        tiny_config(**{field: wrong})
    for expected in (field, "nonsense", *choices()[field]):
        assert expected in str(error.value)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"vocab_size": 0}, ["vocab_size", "at least 1", "0"]),
        ({"hidden_size": -24}, ["hidden_size", "at least 1", "-24"]),
        ({"num_attention_heads": 0}, ["num_attention_heads", "at least 1", "0"]),
        ({"intermediate_size": 0}, ["intermediate_size", "at least 1", "0"]),
        ({"max_position_embeddings": 0}, ["max_position_embeddings", "at least 1", "0"]),
        ({"num_hidden_layers": -1, "layer_types": []}, ["num_hidden_layers", "-1"]),
        ({"type_vocab_size": -2}, ["type_vocab_size", "at least 0", "-2"]),
        ({"hidden_dropout": 1.0}, ["hidden_dropout", "[0, 1)", "1.0"]),
        ({"classifier_dropout": -0.5}, ["classifier_dropout", "[0, 1)", "-0.5"]),
        ({"num_attention_heads": 5}, ["hidden_size=24", "num_attention_heads=5", "1, 2, 3, 4, 6, 8, 12, 24"]),
        ({"hidden_size": 21}, ["sinusoidal", "even", "hidden_size", "21"]),
        ({**ROTARY, "hidden_size": 27}, ["rotary", "even", "hidden_size", "9"]),
        ({"rope_parameters": {"rope_theta": 1e4}}, ["rope_parameters", "rotary", "sinusoidal"]),
        (
            {**ROTARY, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
            ["rope_type", "dynamic", "default, linear, llama3, yarn"],
        ),
        ({**ROTARY, "rope_parameters": {"partial_rotary_factor": 0.5}}, ["rope_parameters", "partial_rotary_factor"]),
        (
            {**ROTARY, "rope_parameters": {"chunked_attention": {"rope_theta": 1e4}}},
            ["rope_parameters", "chunked_attention", "full_attention", "sliding_attention"],
        ),
        *(
            ({**ROTARY, "rope_parameters": parameters}, ["rope_parameters['full_attention']", *expected])
            for parameters, expected in (
                ({"rope_theta": "10000"}, ["rope_theta", "positive number", "'10000'"]),
                ({"rope_theta": -1.0}, ["rope_theta", "positive number", "-1.0"]),
                ({"rope_theta": None}, ["rope_theta", "positive number", "None"]),
                ({"full_attention": {"rope_theta": 0}}, ["rope_theta", "positive number", "0"]),
                ({"full_attention": None}, ["dict", "None"]),
                ({"rope_type": "linear"}, ["factor", "missing", "linear"]),
                ({"rope_type": "yarn"}, ["factor", "missing", "yarn"]),
                ({"rope_type": "llama3", "factor": 2.0}, ["low_freq_factor", "missing", "llama3"]),
                ({"rope_type": "linear", "factor": "2"}, ["factor", "positive number", "'2'"]),
                ({"rope_type": "linear", "factor": 0}, ["factor", "positive number", "0"]),
                ({"rope_type": "linear", "factor": True}, ["factor", "positive number", "True"]),
                ({"rope_type": "yarn", "factor": float("inf")}, ["factor", "positive number", "inf"]),
                ({"rope_type": "yarn", "factor": 2.0, "beta_fast": "32"}, ["beta_fast", "positive number", "'32'"]),
                ({**LLAMA3, "original_max_position_embeddings": "8"}, ["original_max_position_embeddings", "'8'"]),
            )
        ),
        ({"task_type_vocab_size": -1}, ["task_type_vocab_size", "at least 0", "-1"]),
        ({"first_attn_norm": True}, ["first_attn_norm", "norm_placement='pre'", "embedding_norm=True", "'post'"]),
        ({"first_attn_norm": True, "norm_placement": "pre"}, ["first_attn_norm", "embedding_norm=True", "False"]),
        ({"output_embedding_size": 8}, ["output_embedding_size", "prediction_head='dense'", "8", "'linear'"]),
        ({"output_embedding_size": 0, "prediction_head": "dense"}, ["output_embedding_size", "at least 1", "0"]),
        (
            {"output_embedding_size": 8, "prediction_head": "dense", "tie_word_embeddings": True},
            ["tie_word_embeddings=True", "output_embedding_size=8"],
        ),
        ({"norm_eps": 0.0}, ["norm_eps", "positive", "0.0"]),
        ({"norm_eps": float("nan")}, ["norm_eps", "positive", "nan"]),
        ({"initializer_range": -0.02}, ["initializer_range", "positive", "-0.02"]),
        ({"layer_types": ["full_attention"] * 4}, ["layer_types", "4", "num_hidden_layers=3", "shorter pattern"]),
        ({"layer_types": []}, ["layer_types", "0", "num_hidden_layers=3", "shorter pattern"]),
        ({"layer_types": ["full_attention"], "num_hidden_layers": 0}, ["layer_types", "1", "num_hidden_layers=0"]),
        ({"sliding_window": 0}, ["sliding_window", "at least 1", "0"]),
        ({"layer_types": ["sliding_attention"]}, ["sliding_attention", "sliding_window", ">= 1", "None"]),
        ({"layer_types": ["sliding_attention"], "sliding_window": -1}, ["sliding_window", "at least 1", "-1"]),
    ],
    ids=str,
)
def test_invalid_and_contradictory_fields_are_named_with_their_values(
    tiny_config: Build, fields: dict[str, Any], expected: list[str]
) -> None:
    assert_rejected(lambda: tiny_config(**fields), expected)


@pytest.mark.parametrize(
    ("field", "value"), [("hidden_size", "24"), ("norm_bias", "yes"), ("norm_eps", None), ("layer_types", "full")]
)
def test_a_value_of_the_wrong_type_is_rejected_by_name(tiny_config: Build, field: str, value: Any) -> None:
    with pytest.raises(StrictDataclassError, match=field):
        tiny_config(**{field: value})


def test_a_misspelt_field_warns_and_suggests_the_right_one(
    tiny_config: Build, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_config(norm_placment="pre")
    assert "`norm_placment` is not a field" in caplog.text
    assert "Did you mean `norm_placement`?" in caplog.text


@pytest.mark.parametrize(
    ("name", "meant"), [("is_decoder", None), ("rope_theta", "rope_parameters"), ("rope_scaling", "rope_parameters")]
)
def test_a_transformers_field_warns_and_suggests_ours_if_there_is_one(
    tiny_config: Build, name: str, meant: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(**ROTARY, **{name: {"factor": 2.0}})
    assert f"`{name}` is not a field of SequenceEncoderConfig and does not affect" in caplog.text
    assert caplog.text.count("Did you mean") == (meant is not None)
    assert meant is None or f"Did you mean `{meant}`?" in caplog.text
    assert config.rope_parameters == tiny_config(**ROTARY).rope_parameters
    loaded = SequenceEncoderConfig.from_dict(tiny_config(**ROTARY).to_dict(), **{name: {"factor": 2.0}})
    assert loaded.rope_parameters == config.rope_parameters


@every_preset
def test_a_preset_survives_saving_and_loading(preset: str, tmp_path: Path) -> None:
    config = SequenceEncoderConfig.from_preset(preset)
    config.save_pretrained(tmp_path)
    assert SequenceEncoderConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    assert SequenceEncoderConfig(**config.to_diff_dict()).to_dict() == config.to_dict()


@every_preset
def test_a_preset_sets_its_fields_and_overrides_win(preset: str) -> None:
    config = SequenceEncoderConfig.from_preset(preset, num_hidden_layers=5)
    assert config.num_hidden_layers == len(config.layer_types or []) == 5
    for name, value in PRESETS[preset].items():
        if name not in ("num_hidden_layers", "layer_types", "rope_parameters"):
            assert getattr(config, name) == value, name


def test_a_down_bias_equal_to_the_other_biases_becomes_none() -> None:
    assert SequenceEncoderConfig(mlp_down_bias=True).mlp_down_bias is None
    config = SequenceEncoderConfig(mlp_bias=False, mlp_down_bias=True)
    assert config.has_down_bias
    assert SequenceEncoderConfig.from_dict(config.to_dict()).has_down_bias
    assert not SequenceEncoderConfig(mlp_bias=False).has_down_bias


def test_an_unknown_preset_is_rejected_with_the_list_of_presets() -> None:
    with pytest.raises(ValueError, match=r"'gpt2'.*" + ", ".join(PRESETS)):
        SequenceEncoderConfig.from_preset("gpt2")


def test_the_default_is_the_vanilla_encoder() -> None:
    config = SequenceEncoderConfig()
    assert config.to_dict() == SequenceEncoderConfig.from_preset("vanilla").to_dict()
    expected = {
        "position_embedding": "sinusoidal",
        "norm_placement": "post",
        "norm": "layer_norm",
        "feed_forward": "mlp",
        "hidden_act": "relu",
        "scale_embeddings": True,
        "embedding_norm": False,
        "type_vocab_size": 0,
        "prediction_head": "linear",
        "tie_word_embeddings": False,
        "initializer": "xavier_uniform",
        "layer_types": ["full_attention"] * config.num_hidden_layers,
    }
    assert {name: getattr(config, name) for name in expected} == expected


def test_from_preset_rejects_a_depth_of_the_wrong_type() -> None:
    with pytest.raises(StrictDataclassError, match=r"num_hidden_layers.*expected int, got str"):
        SequenceEncoderConfig.from_preset("modernbert", num_hidden_layers="4")


@pytest.mark.parametrize("layers", [1, 2, 3, 7])
def test_a_pattern_of_layer_types_is_repeated_to_the_depth(tiny_config: Build, layers: int) -> None:
    pattern = ["full_attention", "sliding_attention", "sliding_attention"][:layers]
    given = list(pattern)
    config = tiny_config(layer_types=given, sliding_window=3, num_hidden_layers=layers)
    assert config.layer_types == [pattern[index % len(pattern)] for index in range(layers)]
    assert given == pattern


@pytest.mark.parametrize(
    "layer_types", [["full_attention"], ["sliding_attention"], ["full_attention", "sliding_attention"]]
)
@pytest.mark.parametrize(
    "rope_parameters",
    [
        {"rope_theta": 500.0},
        {"rope_theta": 500.0, "rope_type": "default"},
        {name: {"rope_theta": 500.0} for name in ("full_attention", "sliding_attention")},
        # Values at the top level apply to the layer types that do not override them.
        {"rope_theta": 500.0, "sliding_attention": {"rope_type": "default"}},
        {"rope_theta": 7.0, **{name: {"rope_theta": 500.0} for name in ("full_attention", "sliding_attention")}},
    ],
    ids=str,
)
def test_rope_parameters_of_any_form_are_nested_by_layer_type(
    tiny_config: Build, layer_types: list[str], rope_parameters: dict[str, Any], tmp_path: Path
) -> None:
    config = tiny_config(**ROTARY, layer_types=layer_types, sliding_window=3, rope_parameters=rope_parameters)
    expected = {name: {"rope_theta": 500.0, "rope_type": "default"} for name in layer_types}
    assert config.rope_parameters == expected
    config.save_pretrained(tmp_path)
    assert SequenceEncoderConfig.from_pretrained(tmp_path).rope_parameters == expected


@every_preset
def test_a_tokenizer_sets_the_vocabulary_and_special_tokens_of_a_preset(preset: str) -> None:
    tokenizer = SequenceEncoderTokenizer.train_from_iterator(["a b"], vocab_size=20, show_progress=False)
    config = SequenceEncoderConfig.from_preset(preset, tokenizer=tokenizer, num_hidden_layers=2)
    assert config.vocab_size == len(tokenizer)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id")}
    assert {name: getattr(config, name) for name in ids} == ids
    # RoBERTa's preset has these, but the tokenizer does not.
    assert config.bos_token_id is config.eos_token_id is None
    assert SequenceEncoderConfig.from_preset(preset, tokenizer=tokenizer, vocab_size=64).vocab_size == 64
