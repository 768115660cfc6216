"""Folders that earlier versions saved load to the outputs of that time, with the package and with their own code.

`tests/hub/earlier_folders/save.py` saved them.
"""

from __future__ import annotations

import json
import runpy
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from safetensors.torch import load_file

from sequence_encoder import SequenceEncoderForQuestionAnswering, SequenceEncoderForSequenceClassification
from sequence_encoder.modeling.quantized.eight_bit_linear import multiplies_integers
from sequence_encoder.saving.auto_classes import auto_classes

Build = Callable[..., Any]
Outputs = dict[str, torch.Tensor]

ARCHIVES = Path(__file__).with_name("earlier_folders")
# Releases of transformers that a version did not support do not run its code.
VERSIONS_WITH_CODE = [
    pytest.param("first_code", marks=pytest.mark.since("transformers", "5.17", "runs the first code")),
    "merged_code",
    "code_for_a_model",
    pytest.param(
        "prefixed_code",
        marks=pytest.mark.skipif(
            Version("5.15") <= Version(transformers.__version__) < Version("5.21"),
            reason="transformers 5.15 to 5.20 assign an attribute that is read-only in this code",
        ),
    ),
]
VERSIONS = ["without_code", "first_code", "prefixed_code", "merged_code", "code_for_a_model"]
# Folders of other kinds than the models of the Auto classes.
KINDS_ARCHIVE = "code_for_a_model"
ANSWERS = ARCHIVES / "answers.py"
KINDS = runpy.run_path(str(ANSWERS))["KINDS"]
MODEL_KINDS = [kind for kind in KINDS if kind not in ("eight-bit-encoder", "search-index")]
needs_integers = pytest.mark.skipif(not multiplies_integers(), reason="torch has no products of integers here")
TEXTS = ["a bad cab", "dab"]
CURRENT_FILES = {
    *("config.json", "configuration_sequence_encoder.py", "model.safetensors", "modeling_sequence_encoder.py"),
    *("tokenizer.json", "tokenizer_config.json"),
}

PREDICT = """
import json, pathlib, transformers
from safetensors.torch import save_file
for folder in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = getattr(transformers, folder.name.partition("-")[0]).from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules.")
    batch = tokenizer(json.loads(sys.argv[3]), padding=True, return_tensors="pt")
    with torch.no_grad():
        save_file({"input_ids": batch["input_ids"], **model(**batch)}, f"{sys.argv[2]}/{folder.name}.safetensors")
print("null")
"""
ANSWER = """
import json, pathlib, runpy
kinds = runpy.run_path(sys.argv[1])["KINDS"]
folders = [folder for folder in pathlib.Path(sys.argv[2]).iterdir() if folder.name != "search-index"]
print(json.dumps({folder.name: kinds[folder.name](folder, trust_remote_code=True) for folder in folders}))
"""


@pytest.fixture
def earlier(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The folders of a version. The name of each begins with the Auto class of its model."""
    with tarfile.open(ARCHIVES / f"{request.param}.tar.xz") as packed:
        members = [member for member in packed if not member.name.startswith("kinds/")]
        packed.extractall(tmp_path / "earlier", members, filter="data")
    return tmp_path / "earlier"


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of `KINDS`."""
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(ARCHIVES / f"{KINDS_ARCHIVE}.tar.xz") as packed:
        members = [member for member in packed if member.name.startswith("kinds/")]
        packed.extractall(folder, members, filter="data")
    return folder / "kinds"


@pytest.fixture(scope="module")
def answers_without(kinds: Path, without_package: Build) -> dict[str, Any]:
    """The class and the answers of the model of each kind, loaded with the code in its folder."""
    return without_package(ANSWER, ANSWERS, kinds)


def answers_of_then(folder: Path) -> Any:
    """Return the answers that were saved. Numbers are equal to others that another CPU or kernel rounds differently."""

    def number(digits: str) -> Any:
        return pytest.approx(float(digits), rel=1e-6, abs=1e-6)

    return json.loads((folder / "expected.json").read_text(), parse_float=number)


@pytest.fixture
def predict_without(without_package: Build, tmp_path: Path) -> Callable[[Path], dict[str, Outputs]]:
    """`predict_without(folders)`: the outputs of the model in each folder, loaded with the code in it."""

    def predict(folders: Path) -> dict[str, Outputs]:
        results = tmp_path / f"outputs of {folders.name}"
        results.mkdir()
        without_package(PREDICT, folders, results, json.dumps(TEXTS))
        return {file.stem: load_file(file) for file in results.iterdir()}

    return predict


def load(folder: Path) -> tuple[Any, Any]:
    """Load the model and the tokenizer of a folder with the package."""
    auto_class = getattr(transformers, folder.name.partition("-")[0])
    model, report = auto_class.from_pretrained(folder, output_loading_info=True)
    assert {kind: list(names) for kind, names in report.items() if names} == {}
    assert type(model).__module__.startswith("sequence_encoder.")
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def outputs(model: Any, tokenizer: Any) -> Outputs:
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return {"input_ids": batch["input_ids"], **model(**batch)}


def assert_outputs_of_then(actual: dict[str, Outputs], earlier: Path) -> None:
    """Compare with the outputs that were saved. Another CPU, or a newer kernel, rounds the last bit differently."""
    expected = {folder.name: load_file(folder / "expected.safetensors") for folder in earlier.iterdir()}
    assert len(expected) >= 4
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


with_every_version = pytest.mark.parametrize("earlier", VERSIONS, indirect=True)


@with_every_version
def test_with_the_package_a_folder_has_the_outputs_of_then(earlier: Path) -> None:
    assert_outputs_of_then({folder.name: outputs(*load(folder)) for folder in earlier.iterdir()}, earlier)


@pytest.mark.parametrize("earlier", VERSIONS_WITH_CODE, indirect=True)
def test_without_the_package_a_folder_has_the_outputs_of_then(earlier: Path, predict_without: Build) -> None:
    assert_outputs_of_then(predict_without(earlier), earlier)


@with_every_version
def test_saved_again_a_folder_is_complete_and_has_the_same_outputs(
    earlier: Path, predict_without: Build, tmp_path: Path
) -> None:
    expected = {}
    for folder in earlier.iterdir():
        elsewhere, over = tmp_path / "elsewhere" / folder.name, tmp_path / "over" / folder.name
        shutil.copytree(folder, over)
        model, tokenizer = load(folder)
        expected[folder.name] = outputs(model, tokenizer)
        for again in (elsewhere, over):
            model.save_pretrained(again)
            tokenizer.save_pretrained(again)
            assert load_file(again / "model.safetensors").keys() <= model.state_dict().keys()
            config = json.loads((again / "config.json").read_text())
            assert config["auto_map"].keys() == auto_classes(config["model_type"]).keys()
            assert {name.partition(".")[0] for name in config["auto_map"].values()} == {"modeling_sequence_encoder"}
            implementations = [pipeline["impl"] for pipeline in config.get("custom_pipelines", {}).values()]
            assert {name.partition(".")[0] for name in implementations} <= {"modeling_sequence_encoder"}
            for name, tensor in outputs(*load(again)).items():
                assert torch.equal(tensor, expected[folder.name][name])
        written = {"generation_config.json", "custom_generate/generate.py"} if hasattr(model, "infill") else set()
        written |= CURRENT_FILES
        assert {str(path.relative_to(elsewhere)) for path in elsewhere.rglob("*") if path.is_file()} == written
        assert all((over / name).read_bytes() == (elsewhere / name).read_bytes() for name in written)
        assert not (over / "saving_sequence_encoder.py").exists()
    # The same files are in the folders elsewhere.
    actual = predict_without(tmp_path / "over")
    assert actual.keys() == expected.keys()
    for name, tensors in expected.items():
        assert actual[name].keys() == tensors.keys()
        assert [key for key, tensor in tensors.items() if not torch.equal(actual[name][key], tensor)] == [], name


@pytest.mark.parametrize("earlier", ["first_code"], indirect=True)
@pytest.mark.parametrize("loading", [transformers.AutoModelForQuestionAnswering, SequenceEncoderForQuestionAnswering])
def test_only_a_model_that_answers_reads_its_last_layer_from_a_classifier(
    earlier: Path, tiny_config: Build, tmp_path: Path, loading: Any
) -> None:
    _, report = loading.from_pretrained(earlier / "AutoModelForQuestionAnswering", output_loading_info=True)
    assert (set(report["missing_keys"]), set(report["unexpected_keys"])) == (set(), set())
    SequenceEncoderForSequenceClassification(tiny_config(num_labels=2)).save_pretrained(tmp_path / "other")
    _, report = loading.from_pretrained(tmp_path / "other", output_loading_info=True)
    assert set(report["missing_keys"]) == {"qa_outputs.weight", "qa_outputs.bias"}
    assert set(report["unexpected_keys"]) == {"classifier.weight", "classifier.bias"}


def test_the_archive_has_a_folder_of_each_kind(kinds: Path) -> None:
    assert {folder.name for folder in kinds.iterdir()} == KINDS.keys()


@pytest.mark.parametrize("kind", [*MODEL_KINDS, pytest.param("eight-bit-encoder", marks=needs_integers)])
def test_with_and_without_the_package_a_kind_gives_the_answers_of_then(
    kinds: Path, answers_without: dict[str, Any], kind: str
) -> None:
    source, answers = KINDS[kind](kinds / kind)
    assert source.startswith("sequence_encoder.")
    answers = json.loads(json.dumps(answers))
    assert answers == answers_of_then(kinds / kind)
    source, again = answers_without[kind]
    assert source.startswith("transformers_modules.")
    assert again == answers


@pytest.mark.since("pyarrow", "26", "writes null vectors")
def test_an_index_finds_the_hits_of_then(kinds: Path) -> None:
    pytest.importorskip("lancedb", reason="needs the extra search")
    _, hits = KINDS["search-index"](kinds / "search-index")
    assert hits == answers_of_then(kinds / "search-index")
