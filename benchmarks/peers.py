"""Functions that the benchmarks share: texts, interleaved timing, peak memory, the machine's limit, and tables."""

from __future__ import annotations

import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from sequence_encoder.data.documentation import STANDARD_LIBRARY, docstrings_of, find_libraries
from sequence_encoder.data.windows import sentences

ROUNDS = int(os.environ.get("ROUNDS", "5"))
DTYPES = (torch.float32, torch.bfloat16)


def short_texts(count: int) -> list[str]:
    """Return sentences of the standard library's documentation in random order."""
    docs = [doc for path in find_libraries()[STANDARD_LIBRARY] for doc in docstrings_of(path)]
    return random.Random(0).sample([sentence for doc in docs for sentence in sentences(doc)], count)


def interleaved(peers: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Run the peers in turns, and return the median seconds of each over the rounds, without the first."""
    times: dict[str, list[float]] = {name: [] for name in peers}
    for round_ in range(rounds + 1):
        for name, run in peers.items():
            started = time.perf_counter()
            run()
            if round_:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def train(model: torch.nn.Module, data: list[dict[str, torch.Tensor]], halved: bool) -> None:
    """Train once over the data with AdamW, and with autocast to bfloat16 if `halved`."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    for batch in data:
        train_step(model, optimizer, batch, halved)


def train_step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor], halved: bool
) -> None:
    """Train on a batch, with autocast to bfloat16 if `halved`."""
    with torch.autocast(batch["input_ids"].device.type, torch.bfloat16, enabled=halved):
        loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def product_limit(dtype: torch.dtype, rows: int = 2048, inner: int = 384, columns: int = 1536) -> float:
    """Measure the floating-point operations per second of plain matrix products, as the best of several runs."""
    a, b = torch.randn(rows, inner, dtype=dtype), torch.randn(inner, columns, dtype=dtype)
    best = float("inf")
    for _ in range(7):
        started = time.perf_counter()
        for _ in range(10):
            a @ b
        best = min(best, time.perf_counter() - started)
    return 10 * 2 * rows * inner * columns / best


def padded_batches(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], size: int, max_length: int = 512
) -> list[dict[str, torch.Tensor]]:
    """Tokenise texts in batches of `size` in their order, each padded to its longest text."""
    return [
        dict(tokenizer(texts[i : i + size], padding=True, truncation=True, max_length=max_length, return_tensors="pt"))
        for i in range(0, len(texts), size)
    ]


def extra_memory(prepare: str, run: str) -> int:
    """Return the peak MiB that `run` takes beyond what `prepare` used, as statements in a new process."""
    program = (
        "import sys, torch; sys.path.insert(0, 'benchmarks'); import peers\n"
        f"{prepare}\npeers.peak_since_last(); before = peers.peak_since_last()\n{run}\n"
        "print(peers.peak_since_last() - before)"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(finished.stdout.splitlines()[-1])


def peak_since_last() -> int:
    """Return the peak MiB of this process since the last call (Linux only)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def matrix_operations(model: torch.nn.Module) -> int:
    """Return the floating-point operations per token of the layers' matrix products."""
    return sum(2 * p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "layer" in name)


def print_table(
    title: str,
    seconds: Mapping[str, float],
    tokens: int,
    reference: str,
    operations: int | None = None,
    limit: float | None = None,
) -> None:
    """Print tokens per second without padding, the speedup over the reference, and the share of the product limit."""
    print(f"\n{title}")
    for name, value in seconds.items():
        share = (
            "" if operations is None or limit is None else f"  {tokens / value * operations / limit:6.1%} of products"
        )
        print(f"  {name:<36} {tokens / value:>10,.0f} tokens/s  {seconds[reference] / value:5.2f} x{share}")


def print_machine() -> None:
    """Print the date, the processor, the threads and the version of torch."""
    print(f"{date.today()}, {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, ", end="")
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
