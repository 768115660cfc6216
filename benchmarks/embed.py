"""Compare the speed of the command `embed` with that of `encode` on the same texts, and measure its memory.

Both have the same model in memory. `encode` gets the texts in a list; the command reads them from a Parquet file and
writes shards. The peak memory is that of whole runs of the command with a tiny model, on short texts.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import pyarrow as pa
from minilm import MINILM
from peers import interleaved, print_machine, print_table, short_texts
from pyarrow import parquet
from transformers import AutoTokenizer

from sequence_encoder import SequenceEncoderConfig, SequenceEncoderModel, convert
from sequence_encoder.inference.corpora.arguments import EMBED, arguments_of
from sequence_encoder.inference.corpora.rows import CorpusRows
from sequence_encoder.inference.corpora.run import Run
from sequence_encoder.inference.corpora.vectors import Vectors
from sequence_encoder.inference.preparation import optimize_for_inference

TEXTS, SHARD_ROWS, MAX_LENGTH = 16_384, 16_384, 256
ROWS = (20_000, 200_000)
_numbers = itertools.count()
# Runs a command line, and prints the peak MiB of its process.
MEASURED = """
import resource, sys
from sequence_encoder.__main__ import main
main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def write_corpus(folder: Path, texts: list[str]) -> Path:
    """Write texts to a Parquet file, in row groups of a usual size."""
    file = folder / f"{len(texts)}.parquet"
    parquet.write_table(pa.table({"text": texts}), file, row_group_size=10_000)
    return file


def embed(model: SequenceEncoderModel, tokenizer: object, corpus: Path, folder: Path) -> None:
    """Run the command on a model that is loaded."""
    options = {"model": str(MINILM), "corpus": str(corpus), "output_dir": "", "shard_rows": SHARD_ROWS}
    *parts, _ = arguments_of(EMBED, {**options, "max_length": MAX_LENGTH})
    model_options, texts, how, rows = parts
    vectors = Vectors(model, tokenizer, model_options, how)
    output = folder / f"vectors-{next(_numbers)}"
    with contextlib.redirect_stdout(io.StringIO()):
        Run("embed", tuple(parts), str(MINILM), output, CorpusRows(texts, rows), "parquet", lambda: (vectors, ""))()


def peak_memory(folder: Path, rows: int) -> int:
    """Return the peak MiB of a run with a tiny model on short texts."""
    corpus = write_corpus(folder, [f"Text number {number} of many." for number in range(rows)])
    arguments = ["embed", str(folder / "tiny"), "--corpus", str(corpus), "--output_dir", str(folder / f"peak-{rows}")]
    finished = subprocess.run([sys.executable, "-c", MEASURED, *arguments], capture_output=True, text=True, check=True)
    return int(finished.stdout.splitlines()[-1])


def save_tiny(folder: Path) -> None:
    """Save a tiny encoder with random weights and the tokenizer of MiniLM."""
    tokenizer = AutoTokenizer.from_pretrained(MINILM)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = SequenceEncoderConfig.from_preset("bert", tokenizer=tokenizer, **sizes)
    SequenceEncoderModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Print the table and the peak memory."""
    print_machine()
    tokenizer, model = AutoTokenizer.from_pretrained(MINILM), convert(str(MINILM))
    print(optimize_for_inference(model))
    texts = short_texts(TEXTS)
    real = sum(len(ids) for ids in tokenizer(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = write_corpus(folder, texts)
        peers = {
            "encode": partial(model.encode, texts, tokenizer, max_length=MAX_LENGTH),
            "embed": partial(embed, model, tokenizer, corpus, folder),
        }
        seconds = interleaved(peers)
        print_table(f"{TEXTS:,} texts in shards of {SHARD_ROWS:,} rows, {real:,} tokens", seconds, real, "encode")
        save_tiny(folder / "tiny")
        print("\nPeak memory of a run with a tiny model")
        for rows in ROWS:
            print(f"  {rows:>9,} rows {peak_memory(folder, rows):>9,} MiB")


if __name__ == "__main__":
    main()
