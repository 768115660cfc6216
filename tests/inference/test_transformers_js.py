"""Exports for transformers.js load there and, beside the weights, in Python, and compute the same numbers.

`make browser` runs more models and tasks, also in Chromium.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from sequence_encoder import (
    SequenceEncoderForMultipleChoice,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderModel,
    export,
)
from sequence_encoder.__main__ import main
from sequence_encoder.inference.runtimes import comparison, transformers_js
from sequence_encoder.modeling.text_encoding.embedding_recipe import EmbeddingRecipe, Normalize
from sequence_encoder.saving.model_files import model_files
from sequence_encoder.tests.fixtures.guides import FENCE, ROOT
from sequence_encoder.tests.fixtures.texts import TEXTS, tokenizer_of

pytestmark = [
    pytest.mark.since("transformers", "5.23", "runs exported models"),
    pytest.mark.since("torch", "2.11", "has what the exporters need"),
]
PAIRS = (["A question?", "Which one is it?"], ["A short text.", "Another one."])
PACKAGES = Path(os.environ.get("VIRTUAL_ENV", ROOT / ".venv"), "javascript", "node_modules")
# What WebGPU computes on the CPU, with copies before and after.
NOT_ON_WEBGPU = {"NonZero", "ScatterElements", "GatherElements", "GatherND", "CumSum"}
Build = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def _measure_briefly() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "_MEASURED", 0.0)
        yield


def build(tiny_config: Build, randomize: Build, model_class: Any, **fields: Any) -> Any:
    tokenizer = tokenizer_of()
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep", "mask")}
    config = tiny_config("bert", num_hidden_layers=1, vocab_size=len(tokenizer), **special, **fields)
    return randomize(model_class(config))


@pytest.fixture(scope="module")
def shared(tiny_config: Build, randomize: Build, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Save a calibrated classifier with a card, and add the files for transformers.js to its folder."""
    folder = tmp_path_factory.mktemp("shared") / "classifier"
    calibration = [{"scale": [0.5, 0.5, 0.5], "offset": [0.2, 0.0, -0.3]}]
    names = {"id2label": dict(enumerate("abc")), "label2id": {name: index for index, name in enumerate("abc")}}
    model = build(tiny_config, randomize, SequenceEncoderForSequenceClassification, **names)
    model.config.logit_calibration = calibration
    model.save_pretrained(folder)
    tokenizer_of().save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# Mine\n")
    main([*command(folder), "--dtypes", "fp32", "fp16"])
    return model, folder


def command(folder: Path) -> list[str]:
    return ["export", str(folder), "--output_dir", str(folder), "--format", "onnx", "--layout", "hub"]


def run_graph(file: Path, inputs: Any) -> dict[str, torch.Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(file.read_bytes())
    names = [each.name for each in session.get_outputs()]
    found = session.run(names, {each.name: inputs[each.name].numpy() for each in session.get_inputs()})
    return dict(zip(names, map(torch.from_numpy, found), strict=True))


def test_a_folder_with_graphs_beside_its_weights_still_loads_in_python(
    shared: tuple[Any, Path], without_package: Build
) -> None:
    model, folder = shared
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    inputs = AutoTokenizer.from_pretrained(folder)(*PAIRS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits
        assert type(loaded) is SequenceEncoderForSequenceClassification
        assert torch.equal(loaded(**inputs).logits, expected)
    code = (
        "from transformers import AutoModelForSequenceClassification as A; import json\n"
        "model = A.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "ids = torch.tensor([json.loads(sys.argv[2])])\n"
        "with torch.no_grad(): print(json.dumps([type(model).__name__, model(input_ids=ids).logits.tolist()]))"
    )
    ids = inputs["input_ids"][1:, :3]
    with torch.no_grad():
        known = model(input_ids=ids).logits
    name, found = without_package(code, folder, json.dumps(ids[0].tolist()))
    assert name == type(model).__name__
    torch.testing.assert_close(torch.tensor(found), known)


def test_transformers_js_finds_what_it_reads_beside_the_weights(shared: tuple[Any, Path]) -> None:
    model, folder = shared
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("bert", ["BertForSequenceClassification"])
    # Without q8, browsers would look for a file that is missing.
    assert config["transformers.js_config"] == {"dtype": "fp32"}
    assert config["id2label"] == {"0": "a", "1": "b", "2": "c"}
    assert AutoConfig.from_pretrained(folder).model_type == "sequence_encoder"
    assert {path.name for path in (folder / "onnx").iterdir()} == {"model.onnx", "model_fp16.onnx"}
    inputs = tokenizer_of()(*PAIRS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits
    # JavaScript gives no segments with this tokenizer.
    inputs.pop("token_type_ids")
    torch.testing.assert_close(run_graph(folder / "onnx" / "model.onnx", inputs)["logits"], expected)
    half = run_graph(folder / "onnx" / "model_fp16.onnx", inputs)["logits"]
    torch.testing.assert_close(half, expected, atol=1e-2, rtol=0)
    card = (folder / "README.md").read_text()
    assert 'pipeline("text-classification", "classifier")' in card
    assert "# Mine" in card


def test_eight_bits_alone_are_eight_bits(tiny_config: Build, randomize: Build, tmp_path: Path) -> None:
    import onnx

    model = build(tiny_config, randomize, SequenceEncoderModel)
    export(model, tokenizer_of(), tmp_path / "model", "transformers.js", dtypes=["q8"], texts=TEXTS)
    assert [path.name for path in (tmp_path / "model" / "onnx").iterdir()] == ["model_quantized.onnx"]
    graph = onnx.load(tmp_path / "model" / "onnx" / "model_quantized.onnx").graph
    assert "QuantizeLinear" in {node.op_type for node in graph.node}
    with pytest.raises(ValueError, match="texts are only for q8"):
        export(model, tokenizer_of(), tmp_path / "other", "transformers.js", dtypes=["fp32"], texts=TEXTS)


def test_graphs_are_only_replaced_on_request_and_go_with_the_model(
    shared: tuple[Any, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(shared[1], tmp_path / "copy"))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(SystemExit):
        main(command(folder))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert {"onnx/model.onnx", "onnx/model_fp16.onnx", "config.4.0.0.json"} <= model_files(folder)


@pytest.fixture(scope="module")
def for_webgpu(tiny_config: Build, randomize: Build, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Export an encoder for WebGPU."""
    folder = tmp_path_factory.mktemp("webgpu") / "encoder"
    model = build(tiny_config, randomize, SequenceEncoderModel)
    model.embedding_recipe = EmbeddingRecipe(after=(Normalize(),), max_length=9)
    export(model, tokenizer_of(), folder, "transformers.js", layout="webgpu", dtypes=["fp32", "q4"])
    return model, folder


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_graph_for_webgpu_computes_vectors_with_operations_that_webgpu_has(
    for_webgpu: tuple[Any, Path], side: str
) -> None:
    import onnx

    model, folder = for_webgpu
    graph = onnx.load(folder / "onnx" / "model.onnx").graph
    assert not NOT_ON_WEBGPU & {node.op_type for node in graph.node}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # It truncates as `encode` does.
    assert tokenizer.model_max_length == 9
    inputs = tokenizer_of()(
        TEXTS[:4], truncation=True, max_length=9, padding=True, padding_side=side, return_tensors="pt"
    )
    outputs = run_graph(folder / "onnx" / "model.onnx", inputs)
    expected = model.encode(TEXTS[:4], tokenizer_of(), convert_to_tensor=True)
    torch.testing.assert_close(outputs["sentence_embedding"], expected)
    assert outputs["last_hidden_state"].shape == (*inputs["input_ids"].shape, 24)


def test_a_large_graph_has_its_weights_beside_it(
    for_webgpu: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    model, folder = for_webgpu
    monkeypatch.setattr(transformers_js, "_LARGEST_WEIGHTS", 0)
    assert transformers_js.write_graph(folder / "onnx" / "model.onnx", tmp_path, "fp32")
    # The names that transformers.js looks for.
    assert {path.name for path in (tmp_path / "onnx").iterdir()} == {"model.onnx", "model.onnx_data"}
    onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    options = transformers_js.config_fields({}, model, ["fp32", "q8"], ["fp32"])["transformers.js_config"]
    assert options == {"use_external_data_format": {"model.onnx": True}}


def test_a_file_whose_outputs_are_not_those_of_the_model_is_refused(for_webgpu: tuple[Any, Path]) -> None:
    _, folder = for_webgpu
    inputs = tokenizer_of()(TEXTS[:2], truncation=True, max_length=9, padding=True, return_tensors="pt")
    found = run_graph(folder / "onnx" / "model.onnx", inputs)
    assert transformers_js.cosine_to(found, folder, "q4", inputs) > 0.95
    with pytest.raises(ValueError, match="cosine"):
        transformers_js.cosine_to({name: tensor.flip(-1) for name, tensor in found.items()}, folder, "q4", inputs)


def test_a_folder_for_javascript_has_no_python(for_webgpu: tuple[Any, Path]) -> None:
    _, folder = for_webgpu
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    graphs = {"onnx/model.onnx", "onnx/model_q4.onnx"}
    assert names == {"config.json", "tokenizer.json", "tokenizer_config.json", "README.md", *graphs}
    # This class returns segments there.
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "BertTokenizer"


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
@pytest.mark.skipif(not PACKAGES.is_dir(), reason="needs the packages that `make browser` installs")
def test_the_examples_of_cards_run_in_node(
    shared: tuple[Any, Path], for_webgpu: tuple[Any, Path], tmp_path: Path
) -> None:
    expected = {"encoder.mjs": for_webgpu[0].encode(["A short text.", "Another one."], tokenizer_of()).tolist()}
    with torch.no_grad():
        inputs = tokenizer_of()(["A short text.", "Another one."], padding=True, return_tensors="pt")
        expected["classifier.mjs"] = shared[0](**inputs).logits.softmax(-1).amax(1).tolist()
    shows = {"encoder": "vectors.tolist()", "classifier": "labels.map(({ score }) => score)"}
    for folder in (shared[1], for_webgpu[1]):
        shutil.copytree(folder, tmp_path / "models" / folder.name)
        (code,) = (found["code"] for found in FENCE.finditer((folder / "README.md").read_text()))
        (tmp_path / f"{folder.name}.mjs").write_text(f"{code}\nconsole.log({shows[folder.name]});\n")
    arguments = [str(PACKAGES.resolve()), "@huggingface/transformers", "node", str(tmp_path / "models"), str(tmp_path)]
    runner = str(ROOT / "tests" / "javascript" / "run.mjs")
    output = subprocess.run(["node", runner, *arguments], check=True, capture_output=True, text=True).stdout
    for name, result in json.loads(output).items():
        torch.testing.assert_close(torch.tensor(result["logged"][0]), torch.tensor(expected[name]), atol=1e-4, rtol=0)


def test_models_that_transformers_js_cannot_run_are_refused_before_any_work(
    tiny_config: Build, randomize: Build, tmp_path: Path
) -> None:
    model = build(tiny_config, randomize, SequenceEncoderForMultipleChoice)
    with pytest.raises(ValueError, match="cannot run a SequenceEncoderForMultipleChoice"):
        export(model, tokenizer_of(), tmp_path / "out", "transformers.js")
    assert list(tmp_path.iterdir()) == []
