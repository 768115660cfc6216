"""The documentation on the user's own disk as a corpus: docstrings of what is installed, labelled by their library.

Nothing is downloaded and nothing imported: files are read and parsed. Names that would give the library away can be
hidden, and of texts that repeat each other only one is kept.
"""

from __future__ import annotations

import ast
import gc
import os
import random
import re
import sys
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from ..command_line import UsageError

STANDARD_LIBRARY = "python"
# Other names under which a library appears in texts: how it is written, and how it is customarily imported.
_ALIASES = {
    STANDARD_LIBRARY: ("cpython", "pep"),
    "huggingface_hub": ("hugging face", "huggingface", "hf", "hub"),
    "matplotlib": ("plt", "pyplot"),
    "networkx": ("nx",),
    "numpy": ("np",),
    "pandas": ("pd",),
    "pyarrow": ("arrow", "pa"),
    "sklearn": ("scikit-learn", "scikit"),
    "sympy": ("sp",),
    "tensorflow": ("tf", "keras"),
    "torch": ("pytorch", "aten", "c10"),
    "transformers": ("transformer",),
}
_SKIPPED_FOLDERS = {"test", "tests", "testing", "idlelib", "site-packages", "dist-packages", "_vendor", "vendor"}
_HIDDEN = "library"
_WORD = re.compile(r"\w+")
# The parts of `snake_case` and `CamelCase`.
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+")


@dataclass(frozen=True)
class Docstring:
    """One text: where it stands, the library it documents, and itself with and without the names of libraries."""

    path: str
    library: str
    text: str
    hidden: str


def find_libraries() -> dict[str, list[Path]]:
    """The Python files of the standard library and of every importable package on disk, by library."""
    installed = {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}
    installed |= {Path(entry) for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))}
    roots: dict[str, Path] = {STANDARD_LIBRARY: Path(sysconfig.get_path("stdlib"))}
    for folder in sorted(path for path in installed if path.is_dir()):
        for package in sorted(folder.iterdir()):
            if (package / "__init__.py").is_file() and package.name.isidentifier():
                roots.setdefault(package.name, package)
    roots.pop(__name__.split(".")[0], None)
    return {library: sorted(_python_files(root)) for library, root in roots.items()}


def _python_files(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS]
        paths = (Path(folder, name) for name in files if name.endswith(".py"))
        yield from (path for path in paths if path.is_file())


def docstrings_of(path: Path) -> list[str]:
    """All docstrings of a file; none of a file that cannot be parsed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented))
    return [text for text in found if text]


class NameHider:
    """Replaces words by a neutral one: those with the name of a library in them, or another name of it as a part."""

    def __init__(self, libraries: Iterable[str]) -> None:
        libraries = list(libraries)
        others = {alias for name in libraries for alias in (*_ALIASES.get(name, ()), name.strip("_").replace("_", "-"))}
        phrases = sorted((alias for alias in others if not _WORD.fullmatch(alias)), key=len, reverse=True)
        # The words of a phrase may stand on two lines, or be joined by any sign.
        patterns = (r"[\W_]+".join(re.split(r"\W+", phrase)) for phrase in phrases)
        self._phrases = re.compile("|".join(patterns) or r"(?!)", re.IGNORECASE)
        names = {name.strip("_").lower() for name in libraries}
        # Three letters stand in many other words.
        self._inside = [name for name in names if len(name) > 3]
        self._parts = names | others
        self._known: dict[str, bool] = {}

    def __call__(self, text: str) -> str:
        """The text without the names."""
        return _WORD.sub(self._word, self._phrases.sub(_HIDDEN, text))

    def _word(self, match: re.Match[str]) -> str:
        word = match.group()
        if word not in self._known:
            parts = {part.lower() for part in (word, *_PART.findall(word))}
            inside = any(name in word.lower() for name in self._inside)
            self._known[word] = inside or not parts.isdisjoint(self._parts)
        return _HIDDEN if self._known[word] else word


def without_near_duplicates(docs: Iterable[Docstring], size: int = 5, overlap: float = 0.5) -> list[Docstring]:
    """Keeps texts so that of none `overlap` or more of its runs of `size` words stand in the others, longest first.

    (Broder, 1997, with exact shingles and containment in the union of what is kept, so that a text put together from
    several others goes too.)
    """
    seen: set[int] = set()
    kept = []
    for doc in sorted(docs, key=lambda doc: (-len(doc.hidden), doc.path, doc.hidden, doc.text)):
        shingles = shingles_of(doc.hidden, size)
        if len(shingles & seen) < overlap * len(shingles):
            kept.append((doc, shingles))
            seen |= shingles
    # A long text may repeat parts of several shorter ones, which came after it: then it goes.
    counts = Counter(shingle for _, shingles in kept for shingle in shingles)
    unique = []
    for doc, shingles in reversed(kept):
        if sum(counts[shingle] > 1 for shingle in shingles) < overlap * len(shingles):
            unique.append(doc)
        else:
            counts.subtract(shingles)
    return unique[::-1]


def shingles_of(text: str, size: int = 5) -> set[int]:
    """The hashes of all runs of `size` words of a text."""
    words = _WORD.findall(text.lower())
    return {hash(tuple(words[i : i + size])) for i in range(max(len(words) - size + 1, 1))}


def read_documentation(
    max_libraries: int = 10,
    min_words: int = 15,
    max_characters: int = 8000,
    max_bytes: int = 15_000_000,
    show_progress: bool = True,
) -> list[Docstring]:
    """The docstrings of the libraries that have most of them, without near-duplicates.

    Args:
        max_libraries: how many libraries.
        min_words: shorter docstrings are left out.
        max_characters: longer ones are cut.
        max_bytes: of a library with more source code than this, only some files are read, the same ones each time.
        show_progress: whether to show a progress bar.

    Raises:
        UsageError: if there are not two libraries with documentation on this disk.
    """
    files = [(library, path) for library, paths in find_libraries().items() for path in _some_of(paths, max_bytes)]
    found: list[tuple[str, str, str]] = []
    # A file takes milliseconds, so they travel in larger lots; the child processes read, the parent collects.
    # Syntax trees have no cycles: searching for some takes as long as parsing does.
    workers = min(os.cpu_count() or 1, 8, len(files) // 64 + 1)
    with ProcessPoolExecutor(workers, initializer=gc.disable) as pool:
        texts = pool.map(docstrings_of, (path for _, path in files), chunksize=64)
        bar = tqdm(texts, total=len(files), desc="Reading documentation", unit="file", disable=not show_progress)
        for (library, path), docs in zip(files, bar, strict=True):
            found += [(str(path), library, text[:max_characters]) for text in docs if len(text.split()) >= min_words]

    sizes = Counter(library for _, library, _ in found)
    libraries = [library for library, _ in sizes.most_common(max_libraries)]
    if len(libraries) < 2:
        raise UsageError("The quickstart needs the documentation of two libraries on this disk, and found less.")
    hide = NameHider(libraries)
    docs = [Docstring(path, library, text, hide(text)) for path, library, text in found if library in libraries]
    return without_near_duplicates(docs)


def _some_of(paths: list[Path], max_bytes: int) -> Iterator[Path]:
    """Files in random order, as many as have less than `max_bytes` together, but at least one."""
    total = 0
    for path in random.Random(0).sample(paths, len(paths)):
        size = path.stat().st_size
        if total and total + size > max_bytes:
            return
        total += size
        yield path


def split_by_file(
    docs: list[Docstring], test_share: float = 0.15, seed: int = 0
) -> tuple[list[Docstring], list[Docstring]]:
    """(train, test), where all docstrings of one file are on one side; both in random order."""
    files = sorted({doc.path for doc in docs})
    rng = random.Random(seed)
    held_out = set(rng.sample(files, max(1, round(test_share * len(files)))))
    docs = rng.sample(docs, len(docs))
    return [doc for doc in docs if doc.path not in held_out], [doc for doc in docs if doc.path in held_out]
