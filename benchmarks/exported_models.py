"""Compare the speed of embedding many texts with that of the same model in ONNX Runtime and OpenVINO.

Times include tokenisation, pooling and normalization. The exported models get texts sorted by length, each in its best
batch size. Models whose embeddings are not close to float32 (a cosine of at least 0.999 for every text) do not count.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from minilm import MINILM
from peers import interleaved, print_machine, print_table, short_texts
from transformers import AutoTokenizer, BertModel

from sequence_encoder import convert

TEXTS, MAX_LENGTH, CLOSE = 2048, 256, 0.999
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
Run = Callable[[dict[str, np.ndarray]], np.ndarray]


def encode(run: Run, tokenizer: object, texts: list[str], batch_size: int) -> np.ndarray:
    """Embed the texts, and return the vectors in the order of the texts."""
    encoded = tokenizer(texts, truncation=True, max_length=MAX_LENGTH, return_attention_mask=False)["input_ids"]
    order = sorted(range(len(texts)), key=lambda index: len(encoded[index]))
    vectors = np.empty((len(texts), 384), dtype=np.float32)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        ids = np.zeros((len(chosen), len(encoded[chosen[-1]])), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, index in enumerate(chosen):
            ids[row, : len(encoded[index])], mask[row, : len(encoded[index])] = encoded[index], 1
        hidden = run({"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        vectors[chosen] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    return vectors


def export(bert: BertModel, path: Path) -> None:
    """Export BERT to ONNX with dynamic batch size and length."""

    class Trunk(torch.nn.Module):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
            return bert(ids, mask, types).last_hidden_state

    ids, mask, types = torch.ones(3, 3, 11, dtype=torch.long).unbind()
    mask = mask.clone()
    mask[1, 5:] = 0
    sizes = {0: torch.export.Dim("batch", min=1, max=4096), 1: torch.export.Dim("length", min=2, max=512)}
    torch.onnx.export(
        Trunk().eval(), (ids.clone(), mask, 0 * types), path, dynamo=True, dynamic_shapes=(sizes, sizes, sizes),
        verbose=False, input_names=INPUTS, output_names=["last_hidden_state"],
    )  # fmt: skip


def onnx_runs(path: Path, threads: int) -> dict[str, Run]:
    """Load the model in ONNX Runtime: as exported, with its fusions for BERT, and also quantised to 8 bits."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer

    fused, quantised = path.with_suffix(".fused.onnx"), path.with_suffix(".int8.onnx")
    optimizer.optimize_model(str(path), "bert", num_heads=12, hidden_size=384).save_model_to_file(str(fused))
    quantize_dynamic(str(fused), str(quantised), weight_type=QuantType.QInt8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    runs = {}
    for name, file in (("", path), (", its fusions", fused), (", int8", quantised)):
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        taken = [argument.name for argument in session.get_inputs()]
        runs[f"ONNX Runtime{name}"] = lambda inputs, session=session, taken=taken: session.run(
            None, {name: inputs[name] for name in taken}
        )[0]
    return runs


def openvino_runs(path: Path, threads: int) -> dict[str, Run]:
    """Load the model in OpenVINO: with its default precision (bfloat16 if the CPU supports it), and in float32."""
    import openvino

    runs = {}
    for name, precision in (("", None), (", float32", "f32")):
        options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        if precision:
            options["INFERENCE_PRECISION_HINT"] = precision
        compiled = openvino.compile_model(path, "CPU", options)
        taken = [argument.any_name for argument in compiled.inputs]
        runs[f"OpenVINO{name}"] = lambda inputs, compiled=compiled, taken=taken: compiled(
            {name: inputs[name] for name in taken}
        )[0]
    return runs


def main() -> None:
    """Print the tables."""
    print_machine()
    texts, tokenizer = short_texts(TEXTS), AutoTokenizer.from_pretrained(MINILM)
    real = sum(len(ids) for ids in tokenizer(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"])
    peers: dict[str, Callable[[], np.ndarray]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        ours = convert(BertModel.from_pretrained(MINILM, dtype=dtype))
        options = {"normalize_embeddings": True, "max_length": MAX_LENGTH, "show_progress_bar": False}
        peers[f"SequenceEncoder.encode, {dtype}"] = partial(ours.encode, texts, tokenizer, **options)
    reference = next(iter(peers.values()))()
    with tempfile.TemporaryDirectory() as folder:
        path, threads = Path(folder) / "bert.onnx", torch.get_num_threads()
        export(BertModel.from_pretrained(MINILM).eval(), path)
        for name, run in {**onnx_runs(path, threads), **openvino_runs(path, threads)}.items():
            sizes = {size: partial(encode, run, tokenizer, texts, size) for size in (8, 16, 32, 64)}
            seconds = interleaved(sizes, rounds=1)
            best = min(seconds, key=seconds.__getitem__)
            peers[f"{name}, {best} texts"] = sizes[best]
        seconds = interleaved(peers)
        closeness = {name: float((peer() * reference).sum(1).min()) for name, peer in peers.items()}
    print_table(f"{TEXTS:,} texts, {real:,} tokens", seconds, real, next(iter(peers)))
    print("\nminimum cosine with float32")
    for name, cosine in closeness.items():
        print(f"  {name:<44} {cosine:.6f}{'' if cosine >= CLOSE else '  too far'}")
    fastest = min((name for name in peers if "Sequence" in name), key=seconds.__getitem__)
    for kind in ("ONNX", "OpenVINO"):
        close = [name for name in peers if kind in name and closeness[name] >= CLOSE]
        best = min(close, key=seconds.__getitem__)
        print(f"our best compared with {best}: {seconds[best] / seconds[fastest]:.2f} x")


if __name__ == "__main__":
    main()
