"""Impossible sizes and invalid labels and dtypes are rejected at once, in every constructor and loader."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from sequence_encoder import (
    SequenceEncoderConfig,
    SequenceEncoderForMaskedLM,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderModel,
    TaskAdapter,
)
from sequence_encoder.configuration import TaskAdapterConfig

Build = Callable[..., Any]

HUGE = 10**12
SHARED: list[tuple[dict[str, Any], list[str]]] = [
    ({"num_labels": 10**11}, ["num_labels", "100000000000", "10,000,000"]),
    ({"num_labels": -1}, ["num_labels", "-1", "from 0"]),
    ({"num_labels": 2.5}, ["num_labels", "2.5", "integer"]),
    ({"id2label": {"0": "a", str(HUGE): "b"}}, ["id2label", str(HUGE), "0 to 9,999,999"]),
    ({"id2label": {"0": "a", "-1": "b"}}, ["id2label", "'-1'", "integers"]),
    ({"id2label": {"0": "a", "second": "b"}}, ["id2label", "'second'", "integers"]),
    ({"id2label": ["a", "b"]}, ["id2label", "dict"]),
    ({"dtype": "nonsense"}, ["dtype", "'nonsense'", "float32"]),
    ({"dtype": "nn"}, ["dtype", "'nn'", "float32"]),
    ({"dtype": "int64"}, ["dtype", "'int64'", "floating"]),
    ({"torch_dtype": "nonsense"}, ["torch_dtype", "'nonsense'", "float32"]),
]
SIZES: list[tuple[dict[str, Any], list[str]]] = [
    ({"num_hidden_layers": 10**9}, ["num_hidden_layers", "at most 10,000", "1000000000"]),
    ({"num_hidden_layers": 2**70}, ["num_hidden_layers", "at most 10,000"]),
    ({"vocab_size": HUGE}, ["vocab_size=1000000000000", "weights", "89,406 GiB", "at most 1,000,000,000,000"]),
    ({"type_vocab_size": HUGE}, ["type_vocab_size=1000000000000", "GiB"]),
    ({"intermediate_size": HUGE}, ["intermediate_size=1000000000000", "GiB"]),
    ({"hidden_size": 10**300, "num_attention_heads": 7}, ["hidden_size=1000", "GiB"]),
    (
        {"position_embedding": "learned", "max_position_embeddings": HUGE},
        ["max_position_embeddings=1000000000000", "GiB"],
    ),
]


def assert_rejected(build: Callable[[], Any], expected: list[str]) -> None:
    """Check that the error has the expected parts, in any order."""
    pattern = "(?s)" + "".join(f"(?=.*{re.escape(part)})" for part in expected)
    # Older releases of huggingface_hub check some types themselves.
    with pytest.raises((ValueError, StrictDataclassError), match=pattern):
        build()


@pytest.mark.parametrize(("fields", "expected"), [*SHARED, *SIZES])
def test_impossible_values_are_rejected(
    tiny_config: Build, tmp_path: Path, fields: dict[str, Any], expected: list[str]
) -> None:
    assert_rejected(lambda: tiny_config(**fields), expected)
    SequenceEncoderModel(tiny_config()).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    if "torch_dtype" in fields:
        del stored["dtype"]
    (tmp_path / "config.json").write_text(json.dumps({**stored, **fields}))
    for load in (AutoConfig.from_pretrained, AutoModel.from_pretrained, SequenceEncoderModel.from_pretrained):
        assert_rejected(lambda load=load: load(tmp_path), expected)


@pytest.mark.parametrize(("fields", "expected"), SHARED)
def test_impossible_task_adapter_values_are_rejected(fields: dict[str, Any], expected: list[str]) -> None:
    assert_rejected(lambda: TaskAdapterConfig(**fields), expected)


def test_assigned_sizes_are_checked_by_the_model(tiny_config: Build) -> None:
    config = tiny_config()
    with pytest.raises(ValueError, match=r"num_labels must be .* 0 to 10,000,000, got 100000000000"):
        config.num_labels = 10**11
    with pytest.raises(ValueError, match=r"num_labels must be .* got 100000000000"):
        SequenceEncoderConfig.from_dict({}, num_labels=10**11)
    with pytest.raises(ValueError, match=r"num_labels must be .* got 100000000000"):
        TaskAdapter(SequenceEncoderModel(config), num_classes=10**11)
    config.vocab_size = HUGE
    with pytest.raises(ValueError, match="vocab_size=1000000000000"):
        SequenceEncoderModel(config)


@pytest.mark.parametrize("name", ["is_decoder", "add_cross_attention"])
def test_a_model_refuses_to_be_a_decoder(tiny_config: Build, tmp_path: Path, name: str) -> None:
    SequenceEncoderForMaskedLM(tiny_config()).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    # As `DenoisingAutoEncoderLoss` of sentence-transformers does.
    setattr(config, name, True)
    with pytest.raises(ValueError, match=f"{name}=True is not supported: .* choose a decoder of another family"):
        AutoModelForCausalLM.from_pretrained(tmp_path, config=config)
    setattr(config, name, False)
    assert isinstance(AutoModelForCausalLM.from_config(config), SequenceEncoderForMaskedLM)


def test_labels_with_a_gap_are_named_in_a_warning(tiny_config: Build, caplog: pytest.LogCaptureFixture) -> None:
    model = SequenceEncoderForSequenceClassification(tiny_config(id2label={1: "a", 2: "b"}))
    assert model.num_labels == 2
    assert "id2label has 2 labels, but none for the index 0" in caplog.text
