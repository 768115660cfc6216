"""A corpus of the docstrings of the installed libraries, each labelled with its library.

Nothing is downloaded or imported: the source files are only parsed. Names that give the library away can be hidden, and
near-duplicates are removed.
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

from ..command_line import UsageError
from ..command_line.progress import Progress, counted_by

STANDARD_LIBRARY = "python"
# Other names of a library in texts: other spellings, and its customary import aliases.
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
    """A docstring: its file, the library it documents, its text, and its text with library names hidden."""

    path: str
    library: str
    text: str
    hidden: str


def find_libraries() -> dict[str, list[Path]]:
    """Return the Python files of the standard library and of every installed package, by library."""
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
    """Return all docstrings of a file, or an empty list if it cannot be parsed."""
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
    """Replaces words that name one of some libraries with a neutral word.

    A word is replaced if a library's name is anywhere in it, or if one of its parts is another name of a library.
    """

    def __init__(self, libraries: Iterable[str]) -> None:
        libraries = list(libraries)
        others = {alias for name in libraries for alias in (*_ALIASES.get(name, ()), name.strip("_").replace("_", "-"))}
        phrases = sorted((alias for alias in others if not _WORD.fullmatch(alias)), key=len, reverse=True)
        # The words of a phrase can be joined by a line break or any other sign.
        patterns = (r"[\W_]+".join(re.split(r"\W+", phrase)) for phrase in phrases)
        self._phrases = re.compile("|".join(patterns) or r"(?!)", re.IGNORECASE)
        names = {name.strip("_").lower() for name in libraries}
        # Names of three letters are part of many other words.
        self._inside = [name for name in names if len(name) > 3]
        self._parts = names | others
        self._known: dict[str, bool] = {}

    def __call__(self, text: str) -> str:
        """Return the text with the names hidden."""
        return _WORD.sub(self._word, self._phrases.sub(_HIDDEN, text))

    def _word(self, match: re.Match[str]) -> str:
        word = match.group()
        if word not in self._known:
            parts = {part.lower() for part in (word, *_PART.findall(word))}
            inside = any(name in word.lower() for name in self._inside)
            self._known[word] = inside or not parts.isdisjoint(self._parts)
        return _HIDDEN if self._known[word] else word


def without_near_duplicates(docs: Iterable[Docstring], size: int = 5, overlap: float = 0.5) -> list[Docstring]:
    """Remove texts that mostly repeat other texts, and keep the longest ones, which come first.

    A shingle is a run of `size` words. A text is removed if at least `overlap` of its shingles occur in the texts that
    are kept. This is the containment of Broder (1997), with exact shingles and with the union of the other texts, so
    that it also removes a text that is compiled from several others.
    """
    seen: set[int] = set()
    kept = []
    for doc in sorted(docs, key=lambda doc: (-len(doc.hidden), doc.path, doc.hidden, doc.text)):
        shingles = shingles_of(doc.hidden, size)
        if len(shingles & seen) < overlap * len(shingles):
            kept.append((doc, shingles))
            seen |= shingles
    # A long text can repeat several shorter ones that came after it. It is removed here.
    counts = Counter(shingle for _, shingles in kept for shingle in shingles)
    unique = []
    for doc, shingles in reversed(kept):
        if sum(counts[shingle] > 1 for shingle in shingles) < overlap * len(shingles):
            unique.append(doc)
        else:
            counts.subtract(shingles)
    return unique[::-1]


def shingles_of(text: str, size: int = 5) -> set[int]:
    """Return the hashes of all runs of `size` words in a text."""
    words = _WORD.findall(text.lower())
    return {hash(tuple(words[i : i + size])) for i in range(max(len(words) - size + 1, 1))}


def read_documentation(
    max_libraries: int = 10,
    min_words: int = 15,
    max_characters: int = 8000,
    max_bytes: int = 15_000_000,
    show_progress: bool = True,
) -> list[Docstring]:
    """Read the docstrings of the libraries with the most docstrings, without near-duplicates.

    Args:
        max_libraries: The number of libraries.
        min_words: Shorter docstrings are left out.
        max_characters: Longer docstrings are truncated.
        max_bytes: The maximum number of bytes of source code to read from a library. If a library is larger, the same
            random files are read each time.
        show_progress: Whether to show a progress bar.

    Raises:
        UsageError: If fewer than two installed libraries have docstrings.
    """
    files = [(library, path) for library, paths in find_libraries().items() for path in _sample_files(paths, max_bytes)]
    found: list[tuple[str, str, str]] = []
    # A file takes milliseconds, so the workers get them in chunks. They disable the garbage collector, because syntax
    # trees have no cycles and searching for cycles takes as long as parsing.
    workers = min(os.cpu_count() or 1, 8, len(files) // 64 + 1)
    with ProcessPoolExecutor(workers, initializer=gc.disable) as pool:
        read = pool.map(docstrings_of, (path for _, path in files), chunksize=64)
        progress = Progress("Reading documentation", len(files), "file", show=show_progress)
        for (library, path), texts in zip(files, counted_by(progress, read), strict=True):
            found += [(str(path), library, text[:max_characters]) for text in texts if len(text.split()) >= min_words]

    sizes = Counter(library for _, library, _ in found)
    libraries = [library for library, _ in sizes.most_common(max_libraries)]
    if len(libraries) < 2:
        raise UsageError("Found fewer than two installed libraries with docstrings to read.")
    hide = NameHider(libraries)
    docs = [Docstring(path, library, text, hide(text)) for path, library, text in found if library in libraries]
    return without_near_duplicates(docs)


def _sample_files(paths: list[Path], max_bytes: int) -> Iterator[Path]:
    """Yield files in a random order until they reach `max_bytes` together, but at least one."""
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
    """Split docstrings into (train, test) in a random order, with all docstrings of a file on one side."""
    files = sorted({doc.path for doc in docs})
    rng = random.Random(seed)
    held_out = set(rng.sample(files, max(1, round(test_share * len(files)))))
    docs = rng.sample(docs, len(docs))
    return [doc for doc in docs if doc.path not in held_out], [doc for doc in docs if doc.path in held_out]
