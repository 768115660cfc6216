"""The guide "Add a head" works: its module and its line, in a copy of the package, are all that a head needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sequence_encoder.tests.fixtures.guides import blocks_of
from sequence_encoder.tests.fixtures.package_copies import ROOT, save_package_copy

WITH_THE_HEAD = """
import json
del sys.modules["sequence_encoder"]
sys.path.insert(0, sys.argv[1])
import sequence_encoder
from transformers import AutoModelForNextSentencePrediction
from sequence_encoder.conversion.inspection import inspect
from sequence_encoder import model_card
from sequence_encoder.inference.uses import use_of

assert "SequenceEncoderForNextSentencePrediction" in dir(sequence_encoder)
torch.manual_seed(0)
sizes = {"vocab_size": 97, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
config = sequence_encoder.SequenceEncoderConfig.from_preset("bert", **sizes, intermediate_size=40)
model = AutoModelForNextSentencePrediction.from_config(config)
assert type(model) is sequence_encoder.SequenceEncoderForNextSentencePrediction
ids, labels = torch.arange(5, 19).view(2, 7), torch.tensor([0, 1])
model(input_ids=ids, labels=labels).loss.backward()
assert all(parameter.grad is not None for parameter in model.parameters())
try:
    model(input_ids=ids, labels=labels + 1)
except ValueError as error:
    assert "labels must be from 0 to 1 (follows, does not follow)" in str(error), error
model.save_pretrained(sys.argv[2])
sequence_encoder.SequenceEncoderModel(config).save_pretrained(sys.argv[3])
found = inspect(sys.argv[2])
assert (found.parameters, found.obstacle) == (model.num_parameters(), None), found
assert found.code.startswith("as version"), found.code
card = model_card(model, "user/name")
assert card.data.pipeline_tag == "text-classification"
assert 'AutoModelForNextSentencePrediction.from_pretrained("user/name"' in card.text
assert "with AutoModelForNextSentencePrediction." in use_of(model)
print(json.dumps(model.eval()(input_ids=ids).logits.tolist()))
"""

WITHOUT_THE_PACKAGE = """
import json
from transformers import AutoModelForNextSentencePrediction
models = [AutoModelForNextSentencePrediction.from_pretrained(each, trust_remote_code=True) for each in sys.argv[1:]]
print(json.dumps([model(input_ids=torch.arange(5, 19).view(2, 7)).logits.tolist() for model in models]))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Save a copy of the package with the head of the guide."""
    module, line = (block.code for block in blocks_of(ROOT / "docs" / "add-a-head.md"))
    names = (ROOT / "modeling" / "__init__.py").read_text(encoding="utf-8")
    names = names.replace("from .heads.", f"{line}from .heads.", 1)
    return save_package_copy(
        tmp_path / "packages", {"modeling/heads/next_sentence.py": module, "modeling/__init__.py": names}
    )


def test_the_head_of_the_guide_is_trained_saved_and_described(
    package: Path, tmp_path: Path, without_package: Callable[..., Any]
) -> None:
    logits = without_package(WITH_THE_HEAD, package, tmp_path / "head", tmp_path / "encoder")
    again, new = without_package(WITHOUT_THE_PACKAGE, tmp_path / "head", tmp_path / "encoder")
    assert again == logits
    assert new != logits
    code = (tmp_path / "head" / "modeling_sequence_encoder.py").read_text(encoding="utf-8")
    assert "class SequenceEncoderForNextSentencePrediction(TaskModel):" in code
    assert "_hub_task" not in code
