"""Students of all-MiniLM-L6-v2 and all-mpnet-base-v2 beside those of other libraries: quality, speed and size.

Every cell learns from the same 100,000 sentences in the same time, and is then compared with its teacher on the seven
tasks of `vector_tasks.py` and in its speed. Both read as much of a text as their folders say, which is 256 tokens for
all-MiniLM-L6-v2 and its students. The results are lines of JSON; cells that are there are not run again.

    python benchmarks/distillation.py results.jsonl --seconds 600
    python benchmarks/distillation.py results.jsonl --cells layers-3 peer-layers-3
    python benchmarks/distillation.py results.jsonl --table
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from few_labels import mpnet, python_with
from minilm import MINILM
from peers import interleaved, print_machine
from vector_tasks import TASKS, corpus, evaluate

from sequence_encoder.conversion.source import Source
from sequence_encoder.inference.corpora.models import load_encoder

HERE = Path(__file__).parent
TEXTS, TIMED = 100_000, 4096
MODEL2VEC = (
    *("transformers==5.3.0", "tokenizers<=0.23.0", "huggingface-hub<2", "model2vec==0.10.0", "tokenlearn==0.2.1"),
    *("skeletoken==0.6.0", "joblib", "kernels<0.11"),
)


@dataclass(frozen=True)
class Cell:
    """One way to make a student.

    Attributes:
        teacher: The folder of the teacher.
        command: The arguments of `sequence-encoder distill`, or of `distillation_peers.py`.
        is_peer: Whether another library does it.
        needs_model2vec: Whether it needs the environment of model2vec, which excludes newer versions of transformers.
    """

    teacher: Callable[[], Path]
    command: Sequence[str]
    is_peer: bool = False
    needs_model2vec: bool = False


def minilm() -> Path:
    """Return the folder of all-MiniLM-L6-v2."""
    return MINILM


CELLS = {
    "layers-3": Cell(minilm, ("--layers", "3")),
    "peer-layers-3": Cell(minilm, ("layers", "--layers", "3"), is_peer=True),
    "layers-2": Cell(minilm, ("--layers", "2")),
    "peer-layers-2": Cell(minilm, ("layers", "--layers", "2"), is_peer=True),
    "narrow": Cell(mpnet, ("--layers", "6", "--hidden_size", "384")),
    "narrow-pretrained": Cell(mpnet, ("--student", str(MINILM))),
    "static-without-texts": Cell(minilm, ("--static", "--without_texts")),
    "peer-model2vec": Cell(minilm, ("model2vec",), is_peer=True, needs_model2vec=True),
    "static": Cell(minilm, ("--static",)),
    "peer-tokenlearn": Cell(minilm, ("tokenlearn",), is_peer=True, needs_model2vec=True),
}


def run(name: str, texts: Path, folder: Path, seconds: float) -> dict[str, float]:
    """Make the student of a cell in a folder, and return the seconds, and those of the processor, that it took."""
    cell = CELLS[name]
    teacher = str(cell.teacher())
    if cell.is_peer:
        python = python_with("model2vec", *MODEL2VEC) if cell.needs_model2vec else sys.executable
        peer, *more = cell.command
        command = [python, str(HERE / "distillation_peers.py"), peer, teacher, str(texts), str(folder), *more]
    else:
        command = [sys.executable, "-m", "sequence_encoder", "distill", teacher, "--output_dir", str(folder)]
        command += [*cell.command, *([] if "--without_texts" in cell.command else ["--corpus", str(texts)])]
        command = [part for part in command if part != "--without_texts"]
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    subprocess.run([*command, "--seconds", str(seconds)], check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.perf_counter() - started, "cpu_seconds": used}


def encoder_of(folder: Path, threads: int) -> Callable[[Sequence[str]], np.ndarray]:
    """Return a function that computes the vectors of texts with this package, which loads the peers' folders, too."""
    torch.set_num_threads(threads)
    encoder, tokenizer, _ = load_encoder(Source(str(folder)), None, "float32")
    return lambda texts: encoder.encode(list(texts), tokenizer)


@cache
def scores_of(folder: Path) -> dict[str, float]:
    """Return the scores of an encoder."""
    return evaluate(encoder_of(folder, torch.get_num_threads()))


def measure(name: str, texts: list[str], student: Path) -> dict[str, Any]:
    """Return the scores of a student and of its teacher, and how many times as fast it is on one thread."""
    teacher = CELLS[name].teacher()
    encoders = {role: encoder_of(folder, 1) for role, folder in (("teacher", teacher), ("student", student))}
    timed = interleaved({role: (lambda encode=encode: encode(texts[:TIMED])) for role, encode in encoders.items()}, 3)
    size = sum(file.stat().st_size for file in student.rglob("*.safetensors")) / 2**20
    return {
        "speed": timed["teacher"] / timed["student"],
        "texts_a_second": TIMED / timed["student"],
        "mebibytes": size,
        "student": scores_of(student),
        "teacher": scores_of(teacher),
    }


def print_table(results: dict[str, Any]) -> None:
    """Print the share of the teacher's score that each student keeps."""
    print(f"| | {' | '.join(TASKS)} | mean | speed | MiB | minutes |")
    print("|---" * (len(TASKS) + 5) + "|")
    for name, found in results.items():
        shares = [100 * found["student"][task] / found["teacher"][task] for task in TASKS]
        cells = [f"{share:.1f}" for share in (*shares, float(np.mean(shares)))]
        cells += [f"{found['speed']:.1f} x", f"{found['mebibytes']:.0f}", f"{found['seconds'] / 60:.1f}"]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    """Run the cells, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=CELLS)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    lines = options.results.read_text(encoding="utf-8").splitlines() if options.results.exists() else []
    results = {each["cell"]: each for each in map(json.loads, lines)}
    print_machine()
    for name in [] if options.table else [name for name in options.cells if name not in results]:
        sentences = corpus(TEXTS)
        with tempfile.TemporaryDirectory() as scratch:
            texts, student = Path(scratch, "texts.jsonl"), Path(scratch, "student")
            texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences), encoding="utf-8")
            took = run(name, texts, student, options.seconds)
            results[name] = {"cell": name, **took, **measure(name, sentences, student)}
        with options.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(results[name]) + "\n")
    print_table(results)


if __name__ == "__main__":
    main()
