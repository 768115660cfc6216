"""Labelled entities for free: texts of the documentation on disk, with the names in them labelled by what they are.

The rows to train on come from other libraries than those to test with, and some labels are only in tests. To write
`train.json`, `seen.json` and `unseen.json` in GLiNER's format:

    python benchmarks/extraction_rows.py FOLDER
"""

from __future__ import annotations

import json
import random
import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from documented_names import read_library
from name_labels import Labeller, Library, UnclearError

from sequence_encoder.data.documentation import STANDARD_LIBRARY, Docstring, find_libraries, without_near_duplicates
from sequence_encoder.data.windows import sentences

# Other names of each label. Training uses all of them, and tests use the first.
LABELS = {
    "parameter": ("parameter", "function argument", "argument name"),
    "function": ("function", "function name", "callable function"),
    "method": ("method", "method of a class", "method name"),
    "class": ("class", "class name", "object class"),
    "attribute": ("attribute", "property of an object", "attribute name"),
    "module": ("module", "python module", "package or submodule"),
    "exception": ("exception", "error class", "exception type"),
    "constant": ("constant", "named constant", "global constant"),
    "environment variable": ("environment variable", "environment setting", "shell variable"),
    "command-line option": ("command-line option", "command-line flag", "command-line switch"),
    "built-in type": ("built-in type", "basic data type", "primitive type"),
    "numeric type": ("numeric type", "number precision", "dtype"),
    "truth value": ("truth value", "boolean value", "true or false"),
    "version number": ("version number", "software version", "release version"),
    "file name": ("file name", "path of a file", "file path"),
    "web address": ("web address", "URL", "link to a website"),
    "technical standard": ("technical standard", "specification document", "standard number"),
    "software library": ("software library", "software package", "library name"),
    "programming language": ("programming language", "coding language", "computer language"),
    "operating system": ("operating system", "computing platform", "OS"),
    "file format": ("file format", "data format", "format of a file"),
    "text encoding": ("text encoding", "character encoding", "character set"),
    "hardware": ("hardware", "computing device", "processor type"),
    "language model": ("language model", "neural network model", "pretrained model"),
}
UNSEEN_LABELS = ("exception", "operating system", "file format", "programming language")
TRAIN_LIBRARIES = (
    *(STANDARD_LIBRARY, "torch", "transformers", "scipy", "sklearn", "matplotlib", "networkx", "sympy", "sqlalchemy"),
    *("huggingface_hub", "optuna", "pydantic", "setuptools", "sphinx", "peft", "accelerate", "pip", "docutils"),
)
TEST_LIBRARIES = ("numpy", "pandas", "datasets", "PIL", "sentence_transformers", "rich", "tensorboard", "pygments")
WORD = re.compile(r"\w+(?:[-_]\w+)*|\S")
MAX_BYTES = 60_000_000
MIN_WORDS, MAX_WORDS, MAX_WIDTH = 6, 64, 12

_SECTION = re.compile(r"(?:[A-Z][\w ]{2,30}:|[-=~^*]{3,})$")
_ITEM = re.compile(r"(?:[-*] |\*{0,2}\w+(?: \([^)]*\))? ?: )")


@dataclass
class Row:
    """A text with its entities, each the start and the end in characters and the label."""

    text: str
    entities: list[tuple[int, int, str]]
    library: str
    path: str

    def words(self, rng: random.Random, labels: Iterable[str], negatives: int | None) -> dict[str, Any]:
        """Return the row in GLiNER's format.

        Args:
            rng: What chooses the names of the labels, their order, and the negatives.
            labels: The labels that there are.
            negatives: The largest number of labels to add that are not in the text. If None, all are added in their
                order, with the first of their names.
        """
        spans = [match.span() for match in WORD.finditer(self.text)]
        starts = {start: index for index, (start, _) in enumerate(spans)}
        ends = {end: index for index, (_, end) in enumerate(spans)}
        positive = {label for *_, label in self.entities}
        chosen = list(labels)
        if negatives is not None:
            others = [label for label in chosen if label not in positive]
            chosen = [*sorted(positive), *rng.sample(others, min(len(others), rng.randint(1, negatives)))]
            rng.shuffle(chosen)
        called = {label: LABELS[label][0] if negatives is None else rng.choice(LABELS[label]) for label in chosen}
        ner = [[starts[start], ends[end], called[label]] for start, end, label in self.entities if label in called]
        words = [self.text[start:end] for start, end in spans]
        return {"text": self.text, "tokenized_text": words, "ner": ner, "ner_labels": list(called.values())}


def paragraphs(text: str) -> Iterator[list[str]]:
    """Yield the paragraphs and items of a docstring, each as its sentences."""
    for block in re.split(r"\n\s*\n", re.sub(r"```.*?(?:```|$)", "\n\n", text, flags=re.DOTALL)):
        lines = [line for line in block.splitlines() if not _SECTION.match(line.strip())]
        if not lines or any(mark in block for mark in (">>>", "...  ", "+--", "===", ".. ", "::")):
            continue
        indent = min(len(line) - len(line.lstrip()) for line in lines)
        deeper = any(line[indent : indent + 1].isspace() for line in lines)
        item = ""
        for line in lines:
            starts = (deeper and not line[indent : indent + 1].isspace()) or _ITEM.match(line[indent:])
            if starts and item:
                yield sentences(item)
                item = ""
            item = f"{item} {line.strip()}".strip()
        yield sentences(item)


def rows_of(library: Library, modules: set[str]) -> Iterator[Row]:
    """Yield the runs of clear sentences with entities in the documentation of a library."""
    for doc in library.docs:
        label = Labeller(library, doc, modules)
        for paragraph in paragraphs(doc.text):
            text, entities = "", []
            for sentence in [*paragraph, None]:
                try:
                    if sentence is None or sentence[-1] not in ".:?!":
                        raise UnclearError
                    added, found = label(re.sub(r"^[-*] ", "", sentence))
                    if added.startswith(":"):
                        raise UnclearError
                    shift = len(text) + bool(text)
                    text = f"{text} {added}".strip() if text else added
                    entities += [(start + shift, end + shift, kind) for start, end, kind in found]
                except UnclearError:
                    if _is_row(text, entities):
                        yield Row(text, entities, library.name, doc.path)
                    text, entities = "", []


def _is_row(text: str, entities: list[tuple[int, int, str]]) -> bool:
    """Whether a text is a sentence or more with entities that are whole words."""
    spans = [match.span() for match in WORD.finditer(text)]
    starts, ends = {start: i for i, (start, _) in enumerate(spans)}, {end: i for i, (_, end) in enumerate(spans)}
    whole = all(start in starts and end in ends for start, end, _ in entities)
    return (
        bool(entities)
        and MIN_WORDS <= len(spans) <= MAX_WORDS
        and whole
        and all(ends[end] - starts[start] < MAX_WIDTH for start, end, _ in entities)
        and len(re.findall(r"\b[a-z]{2,}\b", text)) >= 4
    )


def read_libraries(wanted: Iterable[str]) -> list[Library]:
    """Read those of the wanted libraries that are installed."""
    installed = find_libraries()
    libraries = []
    for name in wanted:
        if name in installed:
            files = installed[name]
            standard = name == STANDARD_LIBRARY
            root = (
                Path(sysconfig.get_path("stdlib")) if standard else next(p for p in files[0].parents if p.name == name)
            )
            libraries.append(Library(name, *read_library(files, root, "" if standard else name, MAX_BYTES)))
    return libraries


def read_rows() -> tuple[list[Row], list[Row], list[Row]]:
    """Return rows to train on, and rows of other libraries: to test known labels, and to test labels never seen."""
    libraries = read_libraries((*TRAIN_LIBRARIES, *TEST_LIBRARIES))
    modules = set(sys.stdlib_module_names).union(*(library.names.modules for library in libraries))
    found = [row for library in libraries for row in rows_of(library, modules)]
    by_text = {row.text: row for row in found}
    docs = [Docstring(row.path, row.library, text, text) for text, row in by_text.items()]
    rows = [by_text[doc.text] for doc in without_near_duplicates(docs)]
    rows = random.Random(0).sample(rows, len(rows))
    unseen = [row for row in rows if any(label in UNSEEN_LABELS for *_, label in row.entities)]
    known = [row for row in rows if all(label not in UNSEEN_LABELS for *_, label in row.entities)]
    return (
        _balanced([row for row in known if row.library in TRAIN_LIBRARIES], 2000),
        _balanced([row for row in known if row.library in TEST_LIBRARIES], 60),
        _balanced([row for row in unseen if row.library in TEST_LIBRARIES], 120),
    )


def _balanced(rows: list[Row], most: int) -> list[Row]:
    """Return at most `most` rows for each label, where a row counts for the rarest of its labels."""
    counts = Counter(label for row in rows for *_, label in row.entities)
    taken: Counter[str] = Counter()
    kept = []
    for row in rows:
        rarest = min((label for *_, label in row.entities), key=lambda label: counts[label])
        taken[rarest] += 1
        if taken[rarest] <= most:
            kept.append(row)
    return kept


def write_rows(folder: Path) -> None:
    """Write the rows in GLiNER's format, and print what they hold."""
    train, seen, unseen = read_rows()
    known = [label for label in LABELS if label not in UNSEEN_LABELS]
    rng = random.Random(0)
    splits = {
        "train": [row.words(rng, known, negatives=8) for row in train],
        "seen": [row.words(rng, known, negatives=None) for row in seen],
        "unseen": [row.words(rng, UNSEEN_LABELS, negatives=None) for row in unseen],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    for name, found in (("train", train), ("seen", seen), ("unseen", unseen)):
        counts = Counter(label for row in found for *_, label in row.entities)
        print(f"\n{name}: {len(found):,} rows, {sum(counts.values()):,} entities of", dict(counts.most_common()))
        print("  by library:", dict(Counter(row.library for row in found).most_common()))


if __name__ == "__main__":
    write_rows(Path(sys.argv[1]))
