"""Compare the speed of embedding many texts with that of the same model in ONNX Runtime and OpenVINO.

Times include tokenisation, pooling and normalization. The exported models get texts sorted by length, each in its best
batch size. Models whose embeddings are not close to float32 (a cosine of at least 0.999 for every text) do not count.

    python benchmarks/exported_models.py [orders | eight_bits]

With `orders`, it compares the graphs that `sequence-encoder export` writes with those of transformers' BERT, in batches
of 32 texts that are sorted by length or come as they are. With `eight_bits`, it does so for models in eight bits, also
by NNCF and in CTranslate2 if they are installed. All are calibrated on the same texts, which are not those to embed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from eight_bit_peers import ctranslate2_runs, is_installed, quantize_with_nncf
from minilm import MINILM
from peers import interleaved, print_machine, print_table, short_texts
from transformers import AutoTokenizer, BertModel, PreTrainedTokenizerBase

from sequence_encoder import ExportedEncoder, SequenceEncoderModel, convert, quantize
from sequence_encoder import export as export_ours

TEXTS, MAX_LENGTH, CLOSE = 2048, 256, 0.999
# The number of texts to embed in both orders.
SOME = 512
# The number of texts for calibration.
CALIBRATION = 200
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
        found = run({"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})
        pooled = found if found.ndim == 2 else (found * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
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
    return {f"OpenVINO{name}": openvino_run(path, threads, hint) for name, hint in (("", None), (", float32", "f32"))}


def openvino_run(path: Path, threads: int, precision: str | None) -> Run:
    """Load a model in OpenVINO.

    Args:
        path: The file.
        threads: The number of threads.
        precision: OpenVINO's name of the precision, by default bfloat16 if the CPU supports it.
    """
    import openvino

    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    if precision:
        options["INFERENCE_PRECISION_HINT"] = precision
    compiled = openvino.compile_model(path, "CPU", options)
    taken = [argument.any_name for argument in compiled.inputs]
    return lambda inputs: compiled({name: inputs[name] for name in taken})[0]


def exported_run(folder: Path, **options: object) -> Run:
    """Load a model that `sequence-encoder export` has written. Its run returns vectors.

    Args:
        folder: The folder.
        **options: Options of `ExportedEncoder.from_pretrained`.
    """
    encoder = ExportedEncoder.from_pretrained(folder, device="cpu", **options)

    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        lengths = inputs["attention_mask"].sum(1)
        ids = [row[:length].tolist() for row, length in zip(inputs["input_ids"], lengths, strict=True)]
        return encoder.encode_batch(ids, ("mean",)).numpy()

    return run


def exported_runs(folder: Path, name: str) -> dict[str, Run]:
    """Load a model that `sequence-encoder export` has written for OpenVINO, in float32 and in bfloat16."""
    kinds = {"float32": "f32", "bfloat16": "bf16"}
    return {
        f"{name}, {kind}": exported_run(folder, config={"INFERENCE_PRECISION_HINT": hint})
        for kind, hint in kinds.items()
    }


def torch_run(model: torch.nn.Module) -> Run:
    """Return the run of a model in torch."""

    @torch.inference_mode()
    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        batch = {name: torch.from_numpy(array) for name, array in inputs.items()}
        return model(**batch).last_hidden_state.float().numpy()

    return run


def loaded(dtype: torch.dtype) -> SequenceEncoderModel:
    """Load and convert the model."""
    return convert(BertModel.from_pretrained(MINILM, dtype=dtype)).eval()


def compare_orders() -> None:
    """Compare graphs of this package and of BERT, in both orders of the texts."""
    bert, threads = BertModel.from_pretrained(MINILM).eval(), torch.get_num_threads()
    texts, tokenizer = short_texts(SOME), AutoTokenizer.from_pretrained(MINILM)
    with tempfile.TemporaryDirectory() as folder:
        path, onnx, openvino = Path(folder) / "bert.onnx", Path(folder) / "onnx", Path(folder) / "openvino"
        export(bert, path)
        export_ours(convert(bert), tokenizer, onnx)
        export_ours(convert(bert), tokenizer, openvino, "openvino")
        runs = {
            "ours in torch, float32": torch_run(loaded(torch.float32)),
            "ours in torch, bfloat16": torch_run(loaded(torch.bfloat16)),
            "BERT in ONNX Runtime": onnx_run(path, threads),
            "ours in ONNX Runtime": exported_run(onnx),
            **{f"BERT in {name}": run for name, run in openvino_runs(path, threads).items()},
            **exported_runs(openvino, "ours in OpenVINO"),
        }
        print_orders(runs, tokenizer, texts, "BERT in ONNX Runtime")


def compare_eight_bits() -> None:
    """Compare models in eight bits with those in floats, in both orders of the texts."""
    threads, tokenizer = torch.get_num_threads(), AutoTokenizer.from_pretrained(MINILM)
    sample = short_texts(SOME + CALIBRATION)
    texts, calibration = sample[:SOME], sample[SOME:]
    ours = {"float32": loaded(torch.float32), "eight bits": loaded(torch.float32)}
    print(quantize(ours["eight bits"], tokenizer, calibration))
    runs = {f"ours in torch, {name}": torch_run(model) for name, model in ours.items()}
    runs["ours in torch, bfloat16"] = torch_run(loaded(torch.bfloat16))
    with tempfile.TemporaryDirectory() as folder:
        for name, model in ours.items():
            place = Path(folder) / name
            export_ours(model, tokenizer, place / "onnx")
            export_ours(model, tokenizer, place / "openvino", "openvino")
            runs[f"ours in ONNX Runtime, {name}"] = exported_run(place / "onnx")
            title = "ours in OpenVINO" if name == "float32" else f"ours in OpenVINO, {name}"
            runs |= exported_runs(place / "openvino", title)
        bert, quantized = Path(folder) / "bert.onnx", Path(folder) / "nncf.xml"
        if is_installed("nncf"):
            export(BertModel.from_pretrained(MINILM).eval(), bert)
            quantize_with_nncf(bert, tokenizer, calibration, MAX_LENGTH, quantized)
            runs["BERT in OpenVINO, NNCF"] = openvino_run(quantized, threads, "f32")
            runs["BERT in OpenVINO, NNCF and bfloat16"] = openvino_run(quantized, threads, "bf16")
        if is_installed("ctranslate2"):
            runs |= ctranslate2_runs(Path(folder) / "ctranslate2", threads)
        print_orders(runs, tokenizer, texts, "ours in OpenVINO, float32")


def print_orders(runs: dict[str, Run], tokenizer: PreTrainedTokenizerBase, texts: list[str], reference: str) -> None:
    """Print a table for texts sorted by length, one for the order in which they come, and cosines to float32.

    Args:
        runs: The models, of which the first one is in float32.
        tokenizer: Their tokenizer.
        texts: The texts to embed.
        reference: The model with which to compare the speed.
    """
    print_machine()
    lengths = [len(ids) for ids in tokenizer(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"]]
    for title, sort_by in (("sorted by length", len), ("as they come", lambda ids: 0)):
        ordered = sorted(lengths) if sort_by is len else lengths
        padded = sum(32 * max(ordered[start : start + 32]) for start in range(0, len(texts), 32))
        peers = {name: partial(encode, run, tokenizer, texts, 32, sort_by) for name, run in runs.items()}
        title = f"{len(texts):,} texts {title}, {sum(lengths) / padded:.0%} real tokens"
        print_table(title, interleaved(peers), sum(lengths), reference)
        expected = next(iter(peers.values()))()
        print("\ncosine to float32, mean and minimum")
        for name, peer in peers.items():
            cosines = (peer() * expected).sum(1)
            print(f"  {name:<44} {cosines.mean():.5f} {cosines.min():.5f}")


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
    {"orders": compare_orders, "eight_bits": compare_eight_bits}.get("".join(sys.argv[1:]), main)()
