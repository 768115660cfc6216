"""An index of 100,000 sentences: recall and speed; nDCG@10 by words, by vectors and by both; and with a reranker.

The sentences are from the documentation of the installed libraries. For nDCG@10, the first sentence of a docstring or
of a paragraph of Python's manual is a query for the rest of it, and the heading of a section of a package's README for
its text. The reranker is trained on other docstrings with `sequence-encoder adapt`.

    python benchmarks/search.py [--quality | --reranker]
"""

from __future__ import annotations

import json
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
from minilm import MINILM
from peers import print_machine

from sequence_encoder import Reranker, SearchIndex, index_corpus
from sequence_encoder.__main__ import main
from sequence_encoder.data.documentation import Docstring, read_documentation
from sequence_encoder.data.windows import sentences
from sequence_encoder.search.arguments import MODES

ROWS, QUERIES, NEIGHBOURS = 100_000, 200, 10
DOCUMENTS, TRAINED, NEGATIVES, SHORTEST = 4000, 1500, 3, 20
MOST_QUERIES, LEAST_SECTION = 1000, 100
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


def split(texts: Iterable[str]) -> list[tuple[str, str]]:
    """Return the first sentence of each text of three or more, and the rest of it."""
    pairs = [(found[0], text[len(found[0]) :].strip()) for text in texts if len(found := sentences(text)) > 2]
    return [(first, rest) for first, rest in pairs if len(first) > SHORTEST]


def paragraphs() -> list[str]:
    """Return the paragraphs of the part of Python's manual that `help` shows."""
    found = (" ".join(text.split()) for topic in topics.values() for text in re.split(r"\n\s*\n", topic))
    return list(dict.fromkeys(found))


def sections() -> list[tuple[str, str]]:
    """Return the headings of at least three words and the texts of the sections of READMEs in Markdown."""
    found: dict[str, str] = {}
    for each in sorted(metadata.distributions(), key=lambda each: str(each.metadata["Name"])):
        readme = str(each.metadata.get_payload() or each.metadata["Description"] or "")
        for heading, text in re.findall(r"(?m)^#{1,4} +(.+)\n((?:(?!#{1,4} ).*\n)+)", readme):
            text = " ".join(text.split())
            if len(heading.split()) > 2 and len(text) > LEAST_SECTION:
                found.setdefault(heading.strip("# "), text)
    return [*found.items()]


def indexed(folder: Path, model: str, texts: Iterable[str]) -> SearchIndex:
    """Return an index of texts."""
    corpus = write(folder.with_suffix(".jsonl"), ({"text": text} for text in texts))
    index_corpus(model, corpus, str(folder), max_length=128)
    return SearchIndex(folder)


def gain(ids: list[int], right: int) -> float:
    """Return the nDCG@10 of one query with one relevant document."""
    return 1 / float(np.log2(ids.index(right) + 2)) if right in ids else 0.0


def mean_gain(index: SearchIndex, queries: list[tuple[int, str]], **options: Any) -> str:
    """Return the nDCG@10 of queries, each with the number of its document, in percent."""
    gains = [gain([hit.id for hit in index.search(query, NEIGHBOURS, **options)], right) for right, query in queries]
    return f"{100 * statistics.mean(gains):.1f}"


def quality(folder: Path, model: str, docs: list[Docstring]) -> None:
    """Print the nDCG@10 of each mode in three collections."""
    pairs = random.Random(0).sample(split(doc.text for doc in docs), DOCUMENTS)
    collections = {"docstrings": pairs, "Python's manual": split(paragraphs()), "READMEs": sections()}
    rows = []
    for number, (name, pairs) in enumerate(collections.items()):
        index = indexed(folder / str(number), model, [text for _, text in pairs])
        queries = list(enumerate(query for query, _ in pairs))[:MOST_QUERIES]
        cells = [mean_gain(index, queries, mode=mode) for mode in MODES]
        rows.append(f"| {name} | {len(pairs):,} | {len(queries):,} | {' | '.join(cells)} |")
    print(f"\n| nDCG@10 | texts | queries | {' | '.join(MODES)} |\n|---|---|---|---|---|---|", *rows, sep="\n")


def reranking(folder: Path, model: str, docs: list[Docstring]) -> None:
    """Print the nDCG@10 of hybrid searches with and without a reranker."""
    pairs = random.Random(0).sample(split(doc.text for doc in docs), DOCUMENTS)
    index = indexed(folder / "documents", model, [text for _, text in pairs])
    examples = []
    for right, (query, text) in enumerate(pairs[:TRAINED]):
        others = [hit for hit in index.search(query, 30) if hit.id != right]
        negatives = random.Random(right).sample(others, NEGATIVES)
        examples += [{"text": query, "text_pair": text, "label": 1.0}]
        examples += [{"text": query, "text_pair": hit.text, "label": 0.0} for hit in negatives]
    options = ["--max_length", "96", "--num_train_epochs", "3", "--learning_rate", "2e-4", "--bf16", "True"]
    options += ["--output_dir", str(folder / "reranker")]
    examples_file = write(folder / "pairs.jsonl", examples)
    main(["adapt", "--task", "ranking", "--model", model, "--train_file", examples_file, *options])
    held_out = [(right, query) for right, (query, _) in enumerate(pairs)][TRAINED : TRAINED + QUERIES]
    reranker = Reranker(str(folder / "reranker"))
    print("\n| search | nDCG@10 |\n|---|---|")
    print(f"| hybrid | {mean_gain(index, held_out)} |")
    print(f"| hybrid, reranked | {mean_gain(index, held_out, reranker=reranker)} |")


if __name__ == "__main__":
    print_machine()
    with tempfile.TemporaryDirectory() as name:
        main(["convert", str(MINILM), "--output_dir", f"{name}/minilm"])
        measure = {"--quality": quality, "--reranker": reranking}.get(sys.argv[-1], speed)
        measure(Path(name), f"{name}/minilm", read_documentation(show_progress=False))
