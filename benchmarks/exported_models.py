"""Compare the speed of embedding many texts with that of the same model in ONNX Runtime and OpenVINO.

Times include tokenisation, pooling and normalization. The exported models get texts sorted by length, each in its best
batch size. Models whose embeddings are not close to float32 (a cosine of at least 0.999 for every text) do not count.

    python benchmarks/exported_models.py [orders]

With `orders`, it compares the graphs that `sequence-encoder export` writes with those of transformers' BERT, in batches
of 32 texts that are sorted by length or come as they are.
"""

from __future__ import annotations

import sys
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
from sequence_encoder.export import export as export_ours

TEXTS, MAX_LENGTH, CLOSE = 2048, 256, 0.999
# The number of texts to embed in both orders.
SOME = 512
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
Run = Callable[[dict[str, np.ndarray]], np.ndarray]


def encode(
    run: Run, tokenizer: object, texts: list[str], batch_size: int, sort_by: Callable[[list[int]], int] = len
) -> np.ndarray:
    """Embed the texts, in batches of similar `sort_by(ids)`, and return the vectors in the order of the texts."""
    encoded = tokenizer(texts, truncation=True, max_length=MAX_LENGTH, return_attention_mask=False)["input_ids"]
    order = sorted(range(len(texts)), key=lambda index: sort_by(encoded[index]))
    vectors = np.empty((len(texts), 384), dtype=np.float32)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        ids = np.zeros((len(chosen), max(len(encoded[index]) for index in chosen)), dtype=np.int64)
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
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer

    fused, quantised = path.with_suffix(".fused.onnx"), path.with_suffix(".int8.onnx")
    optimizer.optimize_model(str(path), "bert", num_heads=12, hidden_size=384).save_model_to_file(str(fused))
    quantize_dynamic(str(fused), str(quantised), weight_type=QuantType.QInt8)
    files = {"": path, ", its fusions": fused, ", int8": quantised}
    return {f"ONNX Runtime{name}": onnx_run(file, threads) for name, file in files.items()}


def onnx_run(path: Path, threads: int) -> Run:
    """Load a model in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    taken = [argument.name for argument in session.get_inputs()]
    return lambda inputs: session.run(None, {name: inputs[name] for name in taken})[0]


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


def torch_run(dtype: torch.dtype) -> Run:
    """Load our model in torch."""
    model = convert(BertModel.from_pretrained(MINILM, dtype=dtype)).eval()

    @torch.inference_mode()
    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        batch = {name: torch.from_numpy(array) for name, array in inputs.items()}
        return model(**batch).last_hidden_state.float().numpy()

    return run


def compare_orders() -> None:
    """Print a table for texts sorted by length, and one for the order in which they come."""
    print_machine()
    texts, tokenizer = short_texts(SOME), AutoTokenizer.from_pretrained(MINILM)
    lengths = [len(ids) for ids in tokenizer(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"]]
    bert, threads = BertModel.from_pretrained(MINILM).eval(), torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path, onnx, openvino = Path(folder) / "bert.onnx", Path(folder) / "onnx", Path(folder) / "openvino"
        export(bert, path)
        export_ours(convert(bert), tokenizer, onnx)
        export_ours(convert(bert), tokenizer, openvino, "openvino")
        runs = {
            "ours in torch, float32": torch_run(torch.float32),
            "ours in torch, bfloat16": torch_run(torch.bfloat16),
            "BERT in ONNX Runtime": onnx_run(path, threads),
            "ours in ONNX Runtime": onnx_run(onnx / "model.onnx", threads),
            **{f"BERT in {name}": run for name, run in openvino_runs(path, threads).items()},
            **{f"ours in {name}": run for name, run in openvino_runs(openvino / "openvino_model.xml", threads).items()},
        }
        for title, sort_by in (("sorted by length", len), ("as they come", lambda ids: 0)):
            ordered = sorted(lengths) if sort_by is len else lengths
            padded = sum(32 * max(ordered[start : start + 32]) for start in range(0, len(texts), 32))
            peers = {name: partial(encode, run, tokenizer, texts, 32, sort_by) for name, run in runs.items()}
            title = f"{len(texts):,} texts {title}, {sum(lengths) / padded:.0%} real tokens"
            print_table(title, interleaved(peers), sum(lengths), "BERT in ONNX Runtime")
            reference = peers["ours in torch, float32"]()
            print({name: f"{float((peer() * reference).sum(1).min()):.6f}" for name, peer in peers.items()})


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
    compare_orders() if sys.argv[1:] == ["orders"] else main()
