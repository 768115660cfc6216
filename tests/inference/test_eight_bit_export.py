"""Exported models in eight bits compute what the model computes, and runtimes multiply their integers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sequence_encoder import ExportedEncoder, SequenceEncoderModel, export, quantize
from sequence_encoder.__main__ import main
from sequence_encoder.inference.runtimes import comparison, traced_graph
from sequence_encoder.modeling.quantized.eight_bit_linear import EightBitLinear, multiplies_integers
from sequence_encoder.tests.fixtures.texts import TEXTS, tokenizer_of

pytestmark = [
    pytest.mark.since("transformers", "5.23", "runs exported models"),
    pytest.mark.since("torch", "2.11", "has what the exporters need"),
]
FORMATS = ["onnx", "openvino"]


@pytest.fixture(scope="module")
def exported(
    tiny_config: Callable[..., Any], randomize: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[SequenceEncoderModel, dict[str, Path]]:
    """Quantize a model in bfloat16 and save it, and export it to graphs on the command line."""
    folder = tmp_path_factory.mktemp("eight_bits")
    tokenizer = tokenizer_of()
    config = tiny_config("bert", num_hidden_layers=1, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    model = randomize(SequenceEncoderModel(config)).bfloat16()
    quantize(model, tokenizer, TEXTS, target=0.9)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "_MEASURED", 0.0)
        for to in FORMATS:
            main(["export", str(folder / "model"), "--output_dir", str(folder / to), "--format", to])
    model = SequenceEncoderModel.from_pretrained(folder / "model", dtype=torch.float32)
    return model, {to: folder / to for to in FORMATS}


@pytest.mark.parametrize("to", FORMATS)
def test_vectors_are_those_of_the_model(exported: tuple[SequenceEncoderModel, dict[str, Path]], to: str) -> None:
    model, folders = exported
    assert sum(isinstance(layer, EightBitLinear) for layer in model.modules()) == 4
    expected = model.encode(TEXTS, tokenizer_of(), convert_to_tensor=True)
    found = ExportedEncoder.from_pretrained(folders[to]).encode(TEXTS, convert_to_tensor=True)
    assert torch.cosine_similarity(found, expected).min() > 0.9999
    card = " ".join((folders[to] / "README.md").read_text().split())
    assert "quantized to eight bits" in card
    assert "with cosines of at least" in card


def test_a_server_embeds_in_eight_bits(exported: tuple[SequenceEncoderModel, dict[str, Path]]) -> None:
    pytest.importorskip("fastapi", reason="needs the extra serve")
    from sequence_encoder import load_served_model

    model, folders = exported
    expected = model.encode(TEXTS, tokenizer_of(), convert_to_tensor=True)
    for folder in (folders["onnx"].parent / "model", folders["onnx"]):
        served = load_served_model(str(folder), "float32")
        rows = served.tokenize(TEXTS, truncate=True)
        vectors = served.compute(served.embedding_group("", None), rows)
        found = torch.stack(list(map(torch.from_numpy, vectors)))
        assert torch.cosine_similarity(found, expected).min() > 0.9999


def test_onnx_runtime_and_openvino_multiply_integers(
    exported: tuple[SequenceEncoderModel, dict[str, Path]], tmp_path: Path
) -> None:
    import onnx
    import onnxruntime
    import openvino

    folders = exported[1]
    session = onnxruntime.SessionOptions()
    session.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session.log_severity_level = 3
    onnxruntime.InferenceSession(folders["onnx"] / "model.onnx", session, providers=["CPUExecutionProvider"])
    optimized = onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph
    assert [node.op_type for node in optimized.node].count("MatMulIntegerToFloat") == 4

    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.compile_model(folders["openvino"] / "openvino_model.xml", "CPU", options)
    found = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    kinds = [(info["layerType"].astype(str), info["runtimePrecision"].astype(str)) for info in found]
    # OpenVINO chooses by the instructions of the CPU, as torch does.
    assert kinds.count(("FullyConnected", "i8")) == 4 or not multiplies_integers()


def test_weights_and_embeddings_take_a_byte_each_in_the_file(
    exported: tuple[SequenceEncoderModel, dict[str, Path]],
) -> None:
    import onnx
    import openvino

    model, folders = exported
    sizes = sorted(each.numel() for each in model.parameters() if each.dtype == torch.int8)
    assert len(sizes) == 5
    graph = onnx.load(folders["onnx"] / "model.onnx", load_external_data=False).graph
    kept = [tensor.dims for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    network = openvino.Core().read_model(folders["openvino"] / "openvino_model.xml")
    constants = [each for each in network.get_ordered_ops() if each.get_type_name() == "Constant"]
    shapes = [each.get_output_shape(0) for each in constants if each.get_element_type() == openvino.Type.i8]
    for found in (kept, shapes):
        assert sorted(torch.Size(shape).numel() for shape in found if len(shape) == 2) == sizes
    largest = [each.get_output_shape(0) for each in constants if each.get_element_type() == openvino.Type.f32]
    assert max(torch.Size(shape).numel() for shape in largest) < max(sizes)


def test_a_model_with_other_outputs_leaves_no_folder(
    exported: tuple[SequenceEncoderModel, dict[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.exporters import ExportedModel

    model, folders = exported
    other = copy.deepcopy(model)
    layer = next(each for each in other.modules() if isinstance(each, EightBitLinear))
    layer.weight_scale *= 1.5
    monkeypatch.setattr(traced_graph, "trace", lambda *arguments: ExportedModel.from_pretrained(folders["onnx"]))
    with pytest.raises(ValueError, match=r"last_hidden_state has a cosine of 0\.\d+ to .* less than 0\.99"):
        export(other, tokenizer_of(), tmp_path / "exported")
    assert list(tmp_path.iterdir()) == []
