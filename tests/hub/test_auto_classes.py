"""After `import sequence_encoder`, the Auto classes and the pipelines of transformers know the package's models."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import sequence_encoder
from sequence_encoder import SequenceEncoderTokenizer

Build = Callable[..., Any]

AUTO_CLASSES = {
    "AutoModel": "SequenceEncoderModel",
    "AutoModelForPreTraining": "SequenceEncoderForPreTraining",
    "AutoModelForMaskedLM": "SequenceEncoderForMaskedLM",
    "AutoModelForSequenceClassification": "SequenceEncoderForSequenceClassification",
    "AutoModelForTokenClassification": "SequenceEncoderForTokenClassification",
    "AutoModelForQuestionAnswering": "SequenceEncoderForQuestionAnswering",
    "AutoModelForMultipleChoice": "SequenceEncoderForMultipleChoice",
    "AutoModelForTextEncoding": "SequenceEncoderForRetrieval",
}
HEADS = list(AUTO_CLASSES.values())[1:]
SENTENCES = ["the quick brown fox jumps over the lazy dog", "packing leaves the padding out"] * 2


@pytest.fixture(scope="module")
def tokenizer() -> SequenceEncoderTokenizer:
    return SequenceEncoderTokenizer.train_from_iterator(SENTENCES, vocab_size=97, show_progress=False)


@pytest.fixture(scope="module")
def saved(tiny_config: Build, randomize: Build, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model of each class and the tokenizer in a folder that is named after the class."""
    folder = tmp_path_factory.mktemp("saved")
    for name in AUTO_CLASSES.values():
        model = randomize(getattr(sequence_encoder, name)(tiny_config("bert", num_labels=3)))
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


FRESH = """
import json, sys
from pathlib import Path
import transformers.modeling_utils, transformers.models.auto.modeling_auto  # and what these import
before = set(sys.modules)
import sequence_encoder
heavy = {"accelerate", "datasets", "sklearn", "matplotlib", "peft", "tensorflow", "pandas", "scipy.stats"}
heavy = sorted(heavy & set(sys.modules) - before)
import transformers
saved, auto_classes = Path(sys.argv[1]), json.loads(sys.argv[2])
full_name = lambda thing: f"{type(thing).__module__}.{type(thing).__qualname__}"
first = saved / "SequenceEncoderModel"
config = transformers.AutoConfig.from_pretrained(first)
print(json.dumps({
    "heavy": heavy,
    "config": [full_name(config), full_name(transformers.AutoConfig.for_model("sequence_encoder"))],
    "tokenizer": full_name(transformers.AutoTokenizer.from_pretrained(first)),
    "from_config": {auto: full_name(getattr(transformers, auto).from_config(config)) for auto in auto_classes},
    "from_pretrained": {
        auto: full_name(getattr(transformers, auto).from_pretrained(saved / name))
        for auto, name in auto_classes.items()
    },
}))
"""


@pytest.fixture(scope="module")
def fresh_process(saved: Path) -> dict[str, Any]:
    """Return what a process that imports only the package finds."""
    result = subprocess.run(
        [sys.executable, "-c", FRESH, str(saved), json.dumps(AUTO_CLASSES)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def full_name(name: str) -> str:
    thing = getattr(sequence_encoder, name)
    return f"{thing.__module__}.{thing.__qualname__}"


def test_importing_the_package_imports_no_heavy_library(fresh_process: dict[str, Any]) -> None:
    assert fresh_process["heavy"] == []


@pytest.mark.parametrize("auto_class", AUTO_CLASSES)
@pytest.mark.parametrize("method", ["from_config", "from_pretrained"])
def test_every_auto_class_returns_the_model_of_its_task(
    fresh_process: dict[str, Any], method: str, auto_class: str
) -> None:
    assert fresh_process[method][auto_class] == full_name(AUTO_CLASSES[auto_class])


@pytest.mark.parametrize("source", ["SequenceEncoderModel", "SequenceEncoderForPreTraining"])
@pytest.mark.parametrize("target", HEADS)
def test_switching_heads_reinitializes_only_head_weights(saved: Path, source: str, target: str) -> None:
    # All heads call it `classifier`, but with different numbers of classes.
    options = {"num_labels": 3, "output_loading_info": True, "ignore_mismatched_sizes": True}
    model, report = getattr(sequence_encoder, target).from_pretrained(saved / source, **options)
    assert {key for key, *_ in report["mismatched_keys"]} <= {"classifier.weight", "classifier.bias"}
    trunk = [key for key in report["missing_keys"] if key.startswith(("model.", "layers."))]
    trunk = [key for key in trunk if not key.startswith("model.pooler.")]
    assert trunk == []
    given = getattr(sequence_encoder, source).from_pretrained(saved / source)
    weights = given.base_model.state_dict()
    # The encoder is a part of most heads, and the base class of the one for retrieval.
    encoder = {name: weight for name, weight in model.base_model.state_dict().items() if "_linear." not in name}
    shared = {name: weight for name, weight in encoder.items() if name in weights}
    assert len(shared) >= len(encoder) - 2
    torch.testing.assert_close(shared, {name: weights[name] for name in shared}, rtol=0, atol=0)


@pytest.mark.parametrize("source", HEADS)
def test_a_checkpoint_of_a_head_loads_into_the_trunk(saved: Path, source: str) -> None:
    model, report = transformers.AutoModel.from_pretrained(saved / source, output_loading_info=True)
    assert [key for key in report["missing_keys"] if not key.startswith("pooler.")] == []
    given = getattr(sequence_encoder, source).from_pretrained(saved / source)
    torch.testing.assert_close(model.embed_tokens.weight, given.base_model.embed_tokens.weight, rtol=0, atol=0)
