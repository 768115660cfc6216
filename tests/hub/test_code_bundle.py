"""A saved folder loads the same model without this package, with `trust_remote_code=True`."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import sequence_encoder
from sequence_encoder import PRESETS, SequenceEncoderConfig, SequenceEncoderTokenizer
from sequence_encoder.saving.auto_classes import auto_classes, of_type
from sequence_encoder.saving.code_bundle import BUNDLE_FILES
from sequence_encoder.saving.saved_code import saved_code

Build = Callable[..., Any]

CLASSES = of_type("sequence_encoder")
HEADS = dict(sorted((each.auto_classes[0], name) for name, each in CLASSES.items() if not each.by_architecture))
# Every head and every preset: one preset for each head, and the rest with a masked language modelling head.
SAVED = {auto: (auto, preset) for auto, preset in zip(HEADS, cycle(PRESETS), strict=False)}
SAVED |= {preset: ("AutoModelForMaskedLM", preset) for preset in list(PRESETS)[len(HEADS) :]}
TEXTS = ["the quick brown fox jumps over the lazy dog", "packing leaves the padding out"]

PREDICT = """
import json, pathlib, transformers
saved, results, options, names = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), *map(json.loads, sys.argv[3:])
texts = ["the quick brown fox jumps over the lazy dog", "packing leaves the padding out"]
results.mkdir()
found = {}
for name, auto in names.items():
    tokenizer = transformers.AutoTokenizer.from_pretrained(saved / name, **options)
    config = transformers.AutoConfig.from_pretrained(saved / name, **options)
    model = getattr(transformers, auto).from_pretrained(saved / name, **options)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    if auto == "AutoModelForMultipleChoice":
        batch = {key: value[None] for key, value in batch.items()}
    with torch.no_grad():
        outputs = [tensor for tensor in model(**batch).to_tuple() if tensor is not None]
    torch.save(outputs, results / f"{name}.pt")
    model.save_pretrained(results / name)
    tokenizer.save_pretrained(results / name)
    found[name] = [type(config).__module__, type(model).__module__, type(model).__name__, model.training]
    assert type(config) is type(model.config)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def saved(tiny_config: Build, randomize: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model and its tokenizer for each entry of `SAVED`, as `saved / name`."""
    folder = tmp_path_factory.mktemp("saved")
    tokenizer = SequenceEncoderTokenizer.train_from_iterator(TEXTS * 2, vocab_size=97, show_progress=False)
    for name, (auto, preset) in SAVED.items():
        randomize(getattr(sequence_encoder, HEADS[auto])(tiny_config(preset, num_labels=3))).save_pretrained(
            folder / name
        )
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def outputs(saved: Path, without_package: Build, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Return `outputs(kind, name)`: predictions "with" the package, "without" it, or saved "again" without it.

    Only the first is loaded from what was saved without the package.
    """
    folder = tmp_path_factory.mktemp("outputs")
    autos = {name: auto for name, (auto, _) in SAVED.items()}
    names, first = json.dumps(autos), json.dumps(dict([*autos.items()][:1]))
    trusting = json.dumps({"trust_remote_code": True})
    found = {
        "without": without_package(PREDICT, saved, folder / "without", trusting, names, fresh=True),
        "again": without_package(PREDICT, folder / "without", folder / "again", trusting, first),
    }
    program = "sys.modules.pop('sequence_encoder'); import sequence_encoder\n"
    found["with"] = without_package(program + PREDICT, saved, folder / "with", "{}", names)

    def read(kind: str, name: str) -> tuple[list[torch.Tensor], Any]:
        return torch.load(folder / kind / f"{name}.pt"), found[kind][name]

    return read


@pytest.mark.parametrize("name", SAVED)
def test_outputs_are_bitwise_equal_without_the_package(outputs: Build, name: str) -> None:
    expected, (_, module, model, _) = outputs("with", name)
    assert module.startswith("sequence_encoder.")
    for kind in ("without", "again") if name == next(iter(SAVED)) else ("without",):
        actual, (config_module, model_module, model_name, training) = outputs(kind, name)
        assert config_module.startswith("transformers_modules.")
        assert model_module.startswith("transformers_modules.")
        assert (model_name, training) == (model, False)
        assert len(actual) == len(expected) > 0
        for one, other in zip(actual, expected, strict=True):
            assert torch.equal(one, other)


LOAD_ALL = """
import json, transformers
found = {}
for auto in json.loads(sys.argv[2]):
    auto_class = getattr(transformers, auto)
    try:
        model = auto_class.from_pretrained(
            sys.argv[1], trust_remote_code=True, num_labels=3, ignore_mismatched_sizes=True
        )
        found[auto] = type(model).__name__
    except ImportError as error:
        found[auto] = str(error)
config = transformers.AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)
try:
    transformers.AutoModelForTokenClassification.from_config(config, trust_remote_code=True)
    found["from_config"] = None
except ImportError as error:
    found["from_config"] = str(error)
print(json.dumps(found))
"""
TASK_HEADS = {
    *("AutoModelForSequenceClassification", "AutoModelForTokenClassification"),
    *("AutoModelForQuestionAnswering", "AutoModelForMultipleChoice"),
}
OFFERED = {
    "AutoModel": {"AutoModel", *TASK_HEADS},
    "AutoModelForMaskedLM": {"AutoModel", "AutoModelForMaskedLM", *TASK_HEADS},
    "AutoModelForPreTraining": set(HEADS) - {"AutoModelForTextEncoding"},
    "AutoModelForMultipleChoice": {"AutoModel", "AutoModelForMultipleChoice"},
}


@pytest.mark.parametrize("source", OFFERED)
def test_a_folder_loads_with_its_heads_and_says_how_to_load_others(
    saved: Path, without_package: Build, source: str
) -> None:
    found = without_package(LOAD_ALL, saved / source, json.dumps(list(HEADS)))
    offered = {auto: name for auto, name in HEADS.items() if auto in OFFERED[source]}
    assert {auto: name for auto, name in found.items() if auto in offered} == offered
    others = {message for auto, message in found.items() if auto not in offered and message is not None}
    assert len(others) == 1
    assert all("Install sequence-encoder and import sequence_encoder" in message for message in others)
    assert (found["from_config"] is None) == ("AutoModelForTokenClassification" in offered)


def test_another_architecture_than_the_saved_one_is_refused(saved: Path, without_package: Build) -> None:
    code = """
import json, transformers
found = []
for other in ({"norm": "rms_norm"}, {"norm_placement": "pre"}, {"layer_types": ["sliding_attention"]}):
    try:
        transformers.AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True, **other)
    except ValueError as error:
        found.append(str(error))
print(json.dumps(found))
"""
    norm, placement, layers = without_package(code, saved / "AutoModel")
    assert "only computes models with norm='layer_norm', got 'rms_norm'" in norm
    assert "only computes models with norm_placement='post', got 'pre'" in placement
    assert "only computes models without sliding_attention in layer_types" in layers
    assert "install sequence-encoder" in norm


def test_saving_without_the_package_writes_the_same_files(outputs: Build, saved: Path) -> None:
    outputs("without", "AutoModel")
    for name in SAVED:
        first, again = (
            {**code_of(folder), **{file: (folder / file).read_bytes() for file in ("config.json", "model.safetensors")}}
            for folder in (saved / name, next(saved.parent.glob("outputs*")) / "without" / name)
        )
        assert again == first


def test_a_configuration_is_saved_with_the_code_of_all_heads(
    tiny_config: Build, without_package: Build, tmp_path: Path
) -> None:
    tiny_config("bert", num_labels=3).save_pretrained(tmp_path)
    code = """
import json, transformers
config = transformers.AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)
autos = json.loads(sys.argv[2])
models = {auto: getattr(transformers, auto).from_config(config, trust_remote_code=True) for auto in autos}
print(json.dumps({auto: type(model).__name__ for auto, model in models.items()}))
"""
    assert without_package(code, tmp_path, json.dumps(list(HEADS))) == HEADS


def code_of(folder: Path) -> dict[str, str]:
    files = {path.name: path.read_text() for path in folder.glob("*.py")}
    assert files
    # Names without the package's name could collide with files of the user.
    assert all("sequence_encoder" in name for name in files)
    return files


def test_saved_code_imports_only_torch_transformers_and_their_dependencies(saved: Path) -> None:
    imported = set()
    for text in [text for name in SAVED for text in code_of(saved / name).values()]:
        # What is imported in a `try` block is optional, as transformers also sees it.
        blocks = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Try)]
        optional = {inner for block in blocks for inner in ast.walk(block)}
        optional_lines = {node.lineno for node in optional if isinstance(node, ast.Import | ast.ImportFrom)}
        for node in ast.walk(ast.parse(text)):
            if getattr(node, "lineno", None) in optional_lines:
                continue
            if isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1
                assert node.level == 0 or "." not in (node.module or ".")
                imported |= {(node.module or "").partition(".")[0]} if node.level == 0 else set()
    required = importlib.metadata.requires("transformers") or []
    names = {re.split(r"[^\w-]", line)[0].replace("-", "_") for line in required if "extra ==" not in line}
    others = imported - set(sys.stdlib_module_names) - {"torch", "transformers"}
    assert others <= names
    assert others <= {"huggingface_hub", "numpy", "safetensors", "tokenizers"}


def test_the_configuration_maps_every_auto_class_to_a_class_in_the_folder(saved: Path) -> None:
    for name in SAVED:
        folder = saved / name
        named = json.loads((folder / "config.json").read_text())["auto_map"]
        assert named.keys() == auto_classes("sequence_encoder").keys()
        tree = ast.parse((folder / "modeling_sequence_encoder.py").read_text())
        defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef)} | {"SequenceEncoderConfig"}
        assert {path.removeprefix("modeling_sequence_encoder.") for path in named.values()} <= defined


def test_the_code_in_a_folder_does_not_run_if_the_package_is_installed(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved / "AutoModel", tmp_path / "copy")
    for path in (tmp_path / "copy").glob("*.py"):
        path.write_text("raise RuntimeError('this was run')")
    for options in ({}, {"trust_remote_code": True}):
        model = transformers.AutoModel.from_pretrained(tmp_path / "copy", **options)
        assert type(model) is sequence_encoder.SequenceEncoderModel


def test_the_code_in_a_folder_does_not_run_without_trust(saved: Path, without_package: Build) -> None:
    code = """
import json, transformers
try:
    transformers.AutoModel.from_pretrained(sys.argv[1])
except ValueError as error:
    loaded = [name for name in sys.modules if name.startswith("transformers_modules.")]
    print()  # transformers prints a question first
    print(json.dumps([str(error), loaded]))
"""
    message, loaded = without_package(code, saved / "AutoModel")
    assert "trust_remote_code=True" in message
    assert loaded == []


EXTENSION = """
from sequence_encoder import SequenceEncoderConfig, SequenceEncoderModel


class MineConfig(SequenceEncoderConfig):
    model_type = "mine"


class MineModel(SequenceEncoderModel):
    config_class = MineConfig
"""


def test_a_user_class_is_saved_with_its_own_code(
    tiny_config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_of_a_user.py").write_text(EXTENSION)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("mine_of_a_user")
    module.MineConfig.register_for_auto_class()
    module.MineModel.register_for_auto_class("AutoModel")
    fields = {name: value for name, value in tiny_config().to_diff_dict().items() if name != "model_type"}
    module.MineModel(module.MineConfig(**fields)).save_pretrained(tmp_path / "saved")
    named = json.loads((tmp_path / "saved" / "config.json").read_text())["auto_map"]
    assert (named["AutoConfig"], named["AutoModel"]) == ("mine_of_a_user.MineConfig", "mine_of_a_user.MineModel")
    model = transformers.AutoModel.from_pretrained(tmp_path / "saved", trust_remote_code=True)
    assert type(model).__name__ == "MineModel"


def test_a_user_model_with_our_configuration_keeps_its_auto_map_entry(
    tiny_config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "head_of_a_user.py").write_text(
        "from sequence_encoder import SequenceEncoderForTokenClassification\n"
        "class Mine(SequenceEncoderForTokenClassification): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    mine = importlib.import_module("head_of_a_user").Mine
    mine.register_for_auto_class("AutoModelForTokenClassification")
    mine(tiny_config("bert")).save_pretrained(tmp_path / "saved")
    named = json.loads((tmp_path / "saved" / "config.json").read_text())["auto_map"]
    assert named["AutoModelForTokenClassification"] == "head_of_a_user.Mine"
    assert named["AutoModel"] == "modeling_sequence_encoder.SequenceEncoderModel"
    assert (tmp_path / "saved" / "head_of_a_user.py").is_file()


def test_a_saved_folder_has_only_the_expected_files(saved: Path) -> None:
    assert sorted(path.name for path in (saved / "AutoModel").iterdir()) == [
        *("config.json", "configuration_sequence_encoder.py", "model.safetensors", "modeling_sequence_encoder.py"),
        *("tokenizer.json", "tokenizer_config.json"),
    ]


def test_saved_code_passes_ruff(saved: Path) -> None:
    settings = Path(__file__).parents[2] / "pyproject.toml"
    files = [saved / name / file for name in SAVED for file in BUNDLE_FILES]
    for command in (["check"], ["format", "--check"]):
        checked = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", "--config", settings, *files],
            capture_output=True,
            text=True,
            check=False,
        )
        assert checked.returncode == 0, checked.stdout


def test_saved_code_has_each_definition_of_the_package_once(saved: Path) -> None:
    for folder in SAVED:
        defined: dict[str, list[str]] = {}
        for name, text in code_of(saved / folder).items():
            for node in ast.parse(text).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    defined.setdefault(node.name, []).append(name)
        assert {name: files for name, files in defined.items() if len(files) > 1} == {}


MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


def code_for(name: str, folder: Path, preset: str = "bert", **fields: Any) -> str:
    config = SequenceEncoderConfig.from_preset(preset, **MINILM, architectures=[name], **fields)
    return "".join(saved_code(folder, config).values())


@pytest.mark.parametrize(
    ("name", "lines", "kilobytes"),
    [
        ("SequenceEncoderForSequenceClassification", 3200, 155),
        ("SequenceEncoderForTokenClassification", 3200, 155),
        ("SequenceEncoderForQuestionAnswering", 3500, 170),
        ("SequenceEncoderModel", 4350, 205),
        ("SequenceEncoderForMaskedLM", 6200, 295),
    ],
)
def test_the_code_in_a_folder_can_be_read(name: str, lines: int, kilobytes: int, tmp_path: Path) -> None:
    code = code_for(name, tmp_path)
    assert code.count("\n") <= lines
    assert len(code.encode()) <= 1000 * kilobytes
    # What only other models compute with.
    assert not re.search(r"class \w*(EightBit|Disentangled|Retrieval|Calibration|Band|Rotary|GatedMLP)", code)
    assert ("class MaskedGenerationMixin" in code) == (name == "SequenceEncoderForMaskedLM")


def test_models_that_compute_more_have_the_code_for_it(tmp_path: Path) -> None:
    classifier = "SequenceEncoderForSequenceClassification"
    assert "class DisentangledBias" in code_for(classifier, tmp_path, "deberta-v3")
    assert re.search("class Band:.*class GatedMLP", code_for(classifier, tmp_path, "modernbert"), re.DOTALL)
    eight_bits = {"quantization_config": {"quant_method": "sequence_encoder_8bit"}}
    assert "class EightBitLinear" in code_for(classifier, tmp_path, **eight_bits)
    assert "def encode(" not in code_for("SequenceEncoderForMaskedLM", tmp_path)
    for file in ("modules.json", "calibration.json"):
        (tmp_path / file).touch()
    assert "def encode(" in code_for("SequenceEncoderForMaskedLM", tmp_path)
    assert "class Calibration:" in code_for(classifier, tmp_path)
    assert "def encode(" not in code_for(classifier, tmp_path)
