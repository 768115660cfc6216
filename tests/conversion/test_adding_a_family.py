"""The guide "Add a family" works: a toy family, described as in the guide, is converted there and back."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification, BertModel

from sequence_encoder import convert
from sequence_encoder.conversion import source_models

GUIDE = Path(__file__).parents[2] / "docs" / "add-a-family.md"


class ToyConfig(BertConfig):
    model_type = "toy"
    attribute_map = {"width": "hidden_size", "depth": "num_hidden_layers"}  # noqa: RUF012


class ToyModel(BertModel):
    config_class = ToyConfig


class ToyForSequenceClassification(BertForSequenceClassification):
    config_class = ToyConfig


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the family of the guide, whose classes seem to be in transformers."""
    code = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)[0]
    module = types.ModuleType("sequence_encoder.conversion.families.toy")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, str(GUIDE), "exec"), vars(module))
    monkeypatch.setitem(source_models.FAMILIES, "toy", module.TOY)
    for each in (ToyConfig, ToyModel, ToyForSequenceClassification):
        monkeypatch.setattr(transformers, each.__name__, each, raising=False)


def test_the_family_of_the_guide_is_converted_there_and_back(toy: None, randomize: Callable[..., Any]) -> None:
    sizes = {"vocab_size": 97, "width": 24, "depth": 2, "num_attention_heads": 3, "intermediate_size": 40}
    original = randomize(ToyForSequenceClassification(ToyConfig(**sizes, max_position_embeddings=32, num_labels=5)))
    inputs = {"input_ids": torch.randint(5, 97, (2, 11)), "attention_mask": torch.ones(2, 11, dtype=torch.long)}
    expected = original.eval()(**inputs).logits
    converted = convert(original)
    assert type(converted).__name__ == "SequenceEncoderForSequenceClassification"
    torch.testing.assert_close(converted(**inputs).logits, expected, atol=1e-5, rtol=1e-4)
    back = convert(converted, to="toy")
    assert type(back) is ToyForSequenceClassification
    assert (back.config.width, back.config.depth) == (24, 2)
    for name, tensor in original.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    with pytest.raises(ValueError, match="ToyForMaskedLM cannot be converted"):
        source_models.find_family("ToyForMaskedLM")
