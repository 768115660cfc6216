"""Five tasks that tell what a pretrained encoder is worth, and a corpus to pretrain it on that has none of their texts.

Four tasks come from the documentation of libraries that are held out as a whole, and one from reviews of movies. Texts
to train on and to test with come from different files. Everything is drawn once and kept in a file.
"""

from __future__ import annotations

import json
import random
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from extraction_rows import WORD, read_libraries, rows_of
from labelled_texts import DATA
from vector_tasks import first_and_rest

from sequence_encoder.data.documentation import Docstring, read_documentation, shingles_of
from sequence_encoder.data.windows import sentences
from sequence_encoder.saving.whole_folders import write_atomically

LIBRARIES = (
    *("matplotlib", "sklearn", "networkx", "numpy"),
    *("huggingface_hub", "fontTools", "sentence_transformers", "datasets"),
)
MOST_LIBRARIES = 30
# Documents to evaluate the loss of masked tokens on.
MASKED = 200
TRAIN, TEST, WORDS = 1200, 504, 40
# A text that shares as many of its runs of five words with the corpus is no test.
SHARED = 0.5
# Only `--final` scores this task, after the recipes are chosen.
FINAL = "sentiment"


@dataclass(frozen=True)
class Task:
    """What an encoder is scored on.

    Attributes:
        name: Its name.
        kind: `retrieval`, or what is predicted: a key of `downstream_scores.KINDS`.
        train: The rows to train on, each with `texts` and, but for retrieval, `label`.
        test: The rows to test with.
        labels: The number of labels.
        chance: The score of a guess, in percent, which becomes 0.
        ceiling: The score that becomes 100.
    """

    name: str
    kind: str
    train: list[dict[str, Any]]
    test: list[dict[str, Any]]
    labels: int
    chance: float
    ceiling: float

    def normalised(self, score: float) -> float:
        """Return a score between chance and ceiling as one from 0 to 100."""
        return 100 * (score - self.chance) / (self.ceiling - self.chance)


def texts_and_tasks(scratch: Path) -> tuple[list[Path], list[Task]]:
    """Return the files to pretrain on and to compute losses on, and the tasks, all of which are written once."""
    files = [scratch / "documentation.jsonl", scratch / "documentation-held-out.jsonl"]
    kept = scratch / "tasks.jsonl"
    if not all(file.exists() for file in (*files, kept)):
        docs = read_documentation(MOST_LIBRARIES, show_progress=False)
        if missing := set(LIBRARIES) - {doc.library for doc in docs}:
            raise SystemExit(f"The tasks need the libraries {', '.join(sorted(missing))}; install them.")
        others = [doc for doc in docs if doc.library not in LIBRARIES]
        masked = random.Random(0).sample(sorted({doc.path for doc in others}), MASKED)
        train = [doc for doc in others if doc.path not in masked]
        random.Random(0).shuffle(train)
        tasks = make_tasks([doc for doc in docs if doc.library in LIBRARIES], train)
        check_apart(tasks, train)
        rows = [doc for doc in others if doc.path in masked][:MASKED]
        for file, part in zip(files, (train, rows), strict=True):
            write_atomically(file, (json.dumps({"text": doc.text, "library": doc.library}) + "\n" for doc in part))
        write_atomically(kept, (json.dumps(asdict(task)) + "\n" for task in tasks))
    return files, [Task(**json.loads(line)) for line in kept.open(encoding="utf-8")]


def make_tasks(docs: Sequence[Docstring], corpus: Sequence[Docstring]) -> list[Task]:
    """Make the tasks from the documentation of the libraries that are held out."""
    seen = _shingles(corpus)
    docs = random.Random(0).sample(docs, len(docs))

    def made(
        name: str, kind: str, rows: Iterable[tuple[str, dict[str, Any]]], labels: int, chance: float, ceiling: float
    ) -> Task:
        train, test = [], []
        for path, row in rows:
            if all(_shared(text, seen) < SHARED for text in _whole(row)):
                (test if _tests(path) else train).append(row)
        return Task(name, kind, train[:TRAIN], test[:TEST], labels, chance, ceiling)

    return [
        made("libraries", "text", _libraries(docs), len(LIBRARIES), 100 / len(LIBRARIES), 90),
        made("retrieval", "retrieval", _retrieval(docs), 0, 0, 90),
        made("entities", "words", *_entities()),
        made("neighbours", "pair", _neighbours(docs), 3, 100 / 3, 90),
        _sentiment(),
    ]


def check_apart(tasks: Sequence[Task], corpus: Sequence[Docstring]) -> None:
    """Check that no library and no text of the tasks is in the corpus.

    Raises:
        ValueError: If one is.
    """
    if found := {doc.library for doc in corpus}.intersection(LIBRARIES):
        raise ValueError(f"The corpus contains the libraries {', '.join(sorted(found))} of the tasks.")
    seen = _shingles(corpus)
    for task in tasks:
        for row in task.train + task.test:
            for text in _whole(row):
                if task.name != FINAL and _shared(text, seen) >= SHARED:
                    raise ValueError(f"The corpus contains a text of the task {task.name!r}: {text!r}.")


def _whole(row: dict[str, Any]) -> list[str]:
    return [" ".join(row["texts"])] if isinstance(row.get("label"), list) else row["texts"]


def _shingles(docs: Iterable[Docstring]) -> set[int]:
    return {shingle for doc in docs for shingle in shingles_of(doc.text)}


def _shared(text: str, seen: set[int]) -> float:
    found = shingles_of(text)
    return len(found & seen) / len(found)


def _tests(path: str) -> bool:
    return zlib.crc32(path.encode()) % 3 == 0


def _cut(text: str) -> str:
    return " ".join(text.split()[:WORDS])


def _libraries(docs: Sequence[Docstring]) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield texts with the library that they document, as many of each; the names of libraries are hidden."""
    counts: Counter[tuple[str, bool]] = Counter()
    for doc in docs:
        key = (doc.library, _tests(doc.path))
        counts[key] += 1
        if counts[key] <= (TEST if key[1] else TRAIN) // len(LIBRARIES):
            yield doc.path, {"texts": [_cut(doc.hidden)], "label": LIBRARIES.index(doc.library)}


def _retrieval(docs: Sequence[Docstring]) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield the first sentence of a text, and its rest, which the sentence should find."""
    for doc in docs:
        if (found := first_and_rest(doc.text)) is not None:
            yield doc.path, {"texts": [_cut(part) for part in found]}


def _neighbours(docs: Sequence[Docstring]) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield pairs of sentences: the second follows the first (0), comes before it (1), or is from another text (2)."""
    rng = random.Random(0)
    found: dict[tuple[str, bool], list[tuple[str, list[str]]]] = defaultdict(list)
    for doc in docs:
        parts = [_cut(part) for part in sentences(doc.text) if len(part.split()) > 4]
        if len(parts) > 2:
            found[doc.library, _tests(doc.path)].append((doc.path, parts))
    rows = []
    for texts in found.values():
        for index, (path, parts) in enumerate(texts):
            label, start = rng.randrange(3), rng.randrange(len(parts) - 1)
            pair = parts[start : start + 2]
            if label == 1:
                pair.reverse()
            if label == 2:
                pair[1] = rng.choice(texts[index - 1][1])
            rows.append((path, {"texts": pair, "label": label}))
    rng.shuffle(rows)
    return rows


def _entities() -> tuple[list[tuple[str, dict[str, Any]]], int, float, float]:
    """Return words with the kind of thing that each names (0: none), the number of kinds, chance and ceiling."""
    libraries = read_libraries(LIBRARIES)
    modules = set(sys.stdlib_module_names).union(*(library.names.modules for library in libraries))
    found = [row for library in libraries for row in rows_of(library, modules)]
    found = random.Random(0).sample(found, len(found))
    counts = Counter(label for row in found for *_, label in row.entities)
    kinds = [None, *(label for label, _ in counts.most_common(10))]
    rows, known = [], set()
    for row in found:
        if row.text in known or any(label not in kinds for *_, label in row.entities):
            continue
        known.add(row.text)
        spans = [match.span() for match in WORD.finditer(row.text)]
        inside = [
            next((kinds.index(label) for first, last, label in row.entities if first <= start < last), 0)
            for start, _ in spans
        ]
        rows.append((row.path, {"texts": [row.text[start:end] for start, end in spans], "label": inside}))
    return rows, len(kinds), 0, 95


def _sentiment() -> Task:
    data = DATA["movies"]()
    train, test = (
        [{"texts": [_cut(row["text"])], "label": data.classes.index(row["label"])} for row in rows]
        for rows in (data.train[:TRAIN], data.test[:TEST])
    )
    return Task("sentiment", "text", train, test, len(data.classes), 100 / len(data.classes), 90)
