"""An index of 100,000 sentences: recall and speed; and nDCG@10 by words, by vectors, by both, and with a reranker.

The sentences are from the documentation of the installed libraries. For nDCG@10, the first sentence of a docstring
is a query for the rest of it. The reranker is trained on other docstrings with `sequence-encoder adapt`.

    python benchmarks/search.py [--quality]
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from minilm import MINILM
from peers import print_machine

from sequence_encoder.__main__ import main
from sequence_encoder.data.documentation import Docstring, read_documentation
from sequence_encoder.data.windows import sentences
from sequence_encoder.search import Reranker, SearchIndex, index_corpus
from sequence_encoder.search.arguments import MODES

ROWS, QUERIES, NEIGHBOURS = 100_000, 200, 10
DOCUMENTS, TRAINED, NEGATIVES, SHORTEST = 4000, 1500, 3, 20
THREADS = 8


def write(file: Path, rows: Iterable[dict[str, Any]]) -> str:
    """Write rows as JSON Lines."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def rate(search: Callable[[str], object], queries: list[str], threads: int) -> float:
    """Return the number of queries a second."""
    with ThreadPoolExecutor(threads) as pool:
        # A single thread is that of the caller, since OpenMP would keep threads for both.
        run: Callable[..., Iterable[object]] = map if threads == 1 else pool.map
        list(run(search, queries[:threads]))
        started = time.perf_counter()
        list(run(search, queries))
        return len(queries) / (time.perf_counter() - started)


def speed(folder: Path, model: str, docs: list[Docstring]) -> None:
    """Print the recall of the index of vectors, and the speed of searches."""
    texts = list(dict.fromkeys(text for doc in docs for text in sentences(doc.text) if len(text) > SHORTEST))
    random.Random(0).shuffle(texts)
    queries = texts[ROWS : ROWS + QUERIES]
    corpus = write(folder / "sentences.jsonl", ({"text": text} for text in texts[:ROWS]))
    started = time.perf_counter()
    layout = index_corpus(model, corpus, str(folder / "index"))
    print(f"{layout.rows:,} rows indexed in {time.perf_counter() - started:.0f} s, vectors included")
    index = SearchIndex(folder / "index")
    vectors = np.stack([index.vector(query) for query in queries])
    found = [{hit.id for hit in index.search(query, NEIGHBOURS, mode="vector")} for query in queries]
    stored = index.table.to_arrow().column("embedding").combine_chunks().flatten().to_numpy()
    exact = np.argsort(-(vectors @ stored.reshape(layout.rows, -1).T), axis=1)[:, :NEIGHBOURS]
    recall = statistics.mean(len(ids & set(near)) / NEIGHBOURS for ids, near in zip(found, exact, strict=True))
    print(f"recall@{NEIGHBOURS} of {QUERIES} other sentences: {recall:.3f} (rows of the index: {layout.recall:.3f})")
    print(f"\n| queries a second | one thread | {THREADS} threads |\n|---|---|---|")
    rows: dict[str, Callable[[str], object]] = {"vector of the query alone": index.vector}
    rows |= {mode: lambda query, mode=mode: index.search(query, NEIGHBOURS, mode=mode) for mode in MODES}
    for name, search in rows.items():
        print(f"| {name} | {rate(search, queries, 1):.0f} | {rate(search, queries, THREADS):.0f} |", flush=True)


def gain(ids: list[int], right: int) -> float:
    """Return the nDCG@10 of one query with one relevant document."""
    return 1 / float(np.log2(ids.index(right) + 2)) if right in ids else 0.0


def quality(folder: Path, model: str, docs: list[Docstring]) -> None:
    """Print the nDCG@10 of each kind of search."""
    split = [(found[0], doc.text[len(found[0]) :].strip()) for doc in docs if len(found := sentences(doc.text)) > 2]
    pairs = random.Random(0).sample([(first, rest) for first, rest in split if len(first) > SHORTEST], DOCUMENTS)
    corpus = write(folder / "documents.jsonl", ({"text": rest} for _, rest in pairs))
    index_corpus(model, corpus, str(folder / "documents"), max_length=128)
    index = SearchIndex(folder / "documents")
    examples = []
    for right, (query, text) in enumerate(pairs[:TRAINED]):
        others = [hit for hit in index.search(query, 30) if hit.id != right]
        negatives = random.Random(right).sample(others, NEGATIVES)
        examples += [{"text": query, "text_pair": text, "label": 1.0}]
        examples += [{"text": query, "text_pair": hit.text, "label": 0.0} for hit in negatives]
    options = ["--max_length", "96", "--num_train_epochs", "3", "--learning_rate", "2e-4", "--bf16", "True"]
    options += ["--output_dir", str(folder / "reranker")]
    examples_file = write(folder / "pairs.jsonl", examples)
    main(["adapt", "--task", "ranking", "--from", model, "--train_file", examples_file, *options])
    reranker = Reranker(str(folder / "reranker"))
    held_out = list(enumerate(pairs))[TRAINED : TRAINED + QUERIES]
    print("\n| search | nDCG@10 |\n|---|---|")
    searches = {mode: {"mode": mode} for mode in MODES} | {"hybrid, reranked": {"reranker": reranker}}
    for name, chosen in searches.items():
        gains = [gain([hit.id for hit in index.search(query, NEIGHBOURS, **chosen)], i) for i, (query, _) in held_out]
        print(f"| {name} | {100 * statistics.mean(gains):.1f} |", flush=True)


if __name__ == "__main__":
    print_machine()
    with tempfile.TemporaryDirectory() as name:
        main(["convert", str(MINILM), f"{name}/minilm"])
        measure = quality if "--quality" in sys.argv[1:] else speed
        measure(Path(name), f"{name}/minilm", read_documentation(show_progress=False))
