"""What the benchmarks share: texts, how peers are timed beside each other, the limit of the machine, and the table."""

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
    """Sentences of the standard library's documentation, in random order."""
    docs = [doc for path in find_libraries()[STANDARD_LIBRARY] for doc in docstrings_of(path)]
    return random.Random(0).sample([sentence for doc in docs for sentence in sentences(doc)], count)


def interleaved(peers: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each, one after the other in every round, after a round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in peers}
    for round_ in range(rounds + 1):
        for name, run in peers.items():
            started = time.perf_counter()
            run()
            if round_:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def train(model: torch.nn.Module, data: list[dict[str, torch.Tensor]], halved: bool) -> None:
    """One pass over the data: forward, backward, AdamW; `halved` under autocast to bfloat16."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    for batch in data:
        with torch.autocast("cpu", torch.bfloat16, enabled=halved):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def product_limit(dtype: torch.dtype, rows: int = 2048, inner: int = 384, columns: int = 1536) -> float:
    """Operations a second of plain matrix products, the best of several."""
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
    """Batches of so many texts, in their order, padded to the longest of each."""
    return [
        dict(tokenizer(texts[i : i + size], padding=True, truncation=True, max_length=max_length, return_tensors="pt"))
        for i in range(0, len(texts), size)
    ]


def extra_memory(prepare: str, run: str) -> int:
    """MiB that Python statements take at their peak beyond what others took before, in a process of its own."""
    program = (
        "import sys, torch; sys.path.insert(0, 'benchmarks'); import peers\n"
        f"{prepare}\npeers.peak_since_last(); before = peers.peak_since_last()\n{run}\n"
        "print(peers.peak_since_last() - before)"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(finished.stdout.splitlines()[-1])


def peak_since_last() -> int:
    """MiB of this process at the most since the last call (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def matrix_operations(model: torch.nn.Module) -> int:
    """Operations of the layers' matrix products for one token."""
    return sum(2 * p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "layer" in name)


def print_table(
    title: str,
    seconds: Mapping[str, float],
    tokens: int,
    reference: str,
    operations: int | None = None,
    limit: float | None = None,
) -> None:
    """Real tokens a second, how many times those of the reference, and the share of what the products alone allow."""
    print(f"\n{title}")
    for name, value in seconds.items():
        share = (
            "" if operations is None or limit is None else f"  {tokens / value * operations / limit:6.1%} of products"
        )
        print(f"  {name:<34} {tokens / value:>10,.0f} tokens/s  {seconds[reference] / value:5.2f} x{share}")


def print_machine() -> None:
    """Where and when this was measured."""
    print(f"{date.today()}, {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, ", end="")
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
