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
from safetensors.torch import load_file
from transformers import PreTrainedModel, pipeline

import sequence_encoder
from sequence_encoder import SequenceEncoderConfig, SequenceEncoderTokenizer

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


def load(saved: Path, auto_class: str, **options: Any) -> Any:
    return getattr(transformers, auto_class).from_pretrained(saved / AUTO_CLASSES[auto_class], **options)


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


def test_configuration_and_tokenizer_are_found_by_their_auto_classes(fresh_process: dict[str, Any]) -> None:
    assert fresh_process["config"] == [full_name("SequenceEncoderConfig")] * 2
    assert fresh_process["tokenizer"] == full_name("SequenceEncoderTokenizer")


@pytest.mark.parametrize("auto_class", AUTO_CLASSES)
@pytest.mark.parametrize("method", ["from_config", "from_pretrained"])
def test_every_auto_class_returns_the_model_of_its_task(
    fresh_process: dict[str, Any], method: str, auto_class: str
) -> None:
    assert fresh_process[method][auto_class] == full_name(AUTO_CLASSES[auto_class])


def test_every_public_model_has_an_auto_class() -> None:
    public = {name: getattr(sequence_encoder, name) for name in sequence_encoder.__all__}
    models = {name for name, kind in public.items() if isinstance(kind, type) and issubclass(kind, PreTrainedModel)}
    assert models == {*AUTO_CLASSES.values(), "SequenceEncoderPreTrainedModel", "TaskAdapter"}
    assert SequenceEncoderConfig.model_type == "sequence_encoder"


@pytest.mark.parametrize("auto_class", AUTO_CLASSES)
def test_a_saved_folder_loads_the_same_weights_with_no_missing_keys(saved: Path, auto_class: str) -> None:
    model, report = load(saved, auto_class, output_loading_info=True)
    assert {kind: list(keys) for kind, keys in report.items() if keys} == {}
    assert model.config.architectures == [AUTO_CLASSES[auto_class]]
    weights = load_file(saved / AUTO_CLASSES[auto_class] / "model.safetensors")
    tied = {"decoder.weight"} if model.config.tie_word_embeddings else set()
    assert set(model.state_dict()) - tied == set(weights)
    torch.testing.assert_close({name: model.state_dict()[name] for name in weights}, weights, rtol=0, atol=0)


@pytest.mark.parametrize("source", AUTO_CLASSES.values())
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


def test_fill_mask_returns_tokens_for_the_mask(saved: Path) -> None:
    fill = pipeline("fill-mask", model=str(saved / "SequenceEncoderForMaskedLM"))
    results = fill("the quick [MASK] fox", top_k=4)
    # The model has more tokens than the tokenizer, and random weights may prefer those.
    assert [result["token_str"] for result in results] == [fill.tokenizer.decode([x["token"]]) for x in results]
    assert all(0 < result["score"] <= 1 for result in results)
    logits = fill.model(**fill.tokenizer("the quick [MASK] fox", return_tensors="pt")).logits[0, 3]
    assert [result["token"] for result in results] == logits.topk(4).indices.tolist()


def test_text_classification_does_not_depend_on_the_batch_size(saved: Path) -> None:
    classify = pipeline("text-classification", model=str(saved / "SequenceEncoderForSequenceClassification"))
    single, batched = (classify(SENTENCES[:2], batch_size=size, top_k=None) for size in (1, 2))
    for one, other in zip(single, batched, strict=True):
        assert {row["label"] for row in one} == {"LABEL_0", "LABEL_1", "LABEL_2"}
        assert {row["label"]: row["score"] for row in one} == pytest.approx(
            {row["label"]: row["score"] for row in other}, abs=1e-5
        )


def test_token_classification_labels_words_at_their_offsets(saved: Path) -> None:
    tag = pipeline("token-classification", model=str(saved / "SequenceEncoderForTokenClassification"), ignore_labels=[])
    text = SENTENCES[0]
    entities = tag(text)
    assert "".join(text[entity["start"] : entity["end"]] for entity in entities) == text.replace(" ", "")
    assert {entity["entity"] for entity in entities} <= {"LABEL_0", "LABEL_1", "LABEL_2"}


def test_feature_extraction_returns_a_vector_for_every_token(saved: Path, tokenizer: Any) -> None:
    extract = pipeline("feature-extraction", model=str(saved / "SequenceEncoderModel"))
    vectors = torch.tensor(extract(SENTENCES[0]))
    with torch.no_grad():
        expected = extract.model(**tokenizer(SENTENCES[0], return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(vectors, expected)
