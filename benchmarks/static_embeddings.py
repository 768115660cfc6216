"""The speed of a static encoder: sentences a second of `encode`, `embed`, the tokenizer and MiniLM, and peak memory.

The sentences are from the documentation of the installed libraries, repeated up to a million with other numbers at
their ends. The time is that of the processor, since the machine may be busy; it hardly differs from that of the clock
on one core that is not.

    python benchmarks/static_embeddings.py
"""

from __future__ import annotations

import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import torch
from minilm import MINILM
from peers import print_machine
from pyarrow import parquet
from transformers import AutoTokenizer

from sequence_encoder import convert, embed_corpus, read_documentation, static_encoder
from sequence_encoder.data.windows import sentences
from sequence_encoder.tokenizer.static_tokenizer import static_tokenizer

SHORTEST, LARGE, FEW, DIM = 20, 1_000_000, 1024, 256


def measured(run: Callable[[], object]) -> float:
    """Return the processor seconds of a function."""
    started = time.process_time()
    run()
    return time.process_time() - started


def many(texts: list[str]) -> Iterator[str]:
    """Yield a million sentences."""
    for number in range(LARGE):
        yield f"{texts[number % len(texts)]} {number // len(texts)}"


def peak() -> str:
    """Return the peak memory of this process."""
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024:,} MiB"


def main() -> None:
    """Print the table."""
    print_machine()
    torch.set_num_threads(1)
    docs = read_documentation(show_progress=False)
    texts = list(dict.fromkeys(text for doc in docs for text in sentences(doc.text) if len(text) > SHORTEST))
    random.Random(0).shuffle(texts)
    original = AutoTokenizer.from_pretrained(MINILM)
    tokenizer, minilm = static_tokenizer(original.backend_tokenizer), convert(str(MINILM))
    model = static_encoder(torch.randn(len(tokenizer), DIM))
    backend = tokenizer.backend_tokenizer
    tokens = sum(len(each.ids) for each in backend.encode_batch_fast(texts[:FEW], add_special_tokens=False)) / FEW
    print(
        f"{tokens:.1f} tokens in a sentence\n\n| what | sentences a second of one core | peak memory |\n|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save_pretrained(folder / "static")
        tokenizer.save_pretrained(folder / "static")
        corpus = folder / "corpus.parquet"
        schema = pa.schema([("text", pa.string())])
        with parquet.ParquetWriter(corpus, schema) as writer:
            for first in range(0, LARGE, 100_000):
                some = [f"{texts[i % len(texts)]} {i // len(texts)}" for i in range(first, first + 100_000)]
                writer.write_table(pa.table({"text": some}))
        runs: dict[str, tuple[int, Callable[[], object]]] = {
            "MiniLM in float32": (FEW, lambda: minilm.encode(texts[:FEW], original)),
            "the tokenizer alone": (
                len(texts[:100_000]),
                lambda: [
                    [each.ids for each in backend.encode_batch_fast(texts[i : i + 16_384], add_special_tokens=False)]
                    for i in range(0, 100_000, 16_384)
                ],
            ),
            "static, `iter_encode`": (LARGE, lambda: [None for _ in model.iter_encode(many(texts), tokenizer)]),
            "static, `embed` to Parquet": (
                LARGE,
                lambda: embed_corpus(str(folder / "static"), str(corpus), str(folder / "out")),
            ),
        }
        for what, (count, run) in runs.items():
            print(f"| {what} | {count / measured(run):,.0f} | {peak()} |", flush=True)
        single = measured(lambda: [model.encode(text, tokenizer) for text in texts[:FEW]])
        print(f"| static, one `encode` a sentence | {FEW / single:,.0f} | {peak()} |")


if __name__ == "__main__":
    main()
