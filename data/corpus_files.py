"""Finds the files of a corpus: a file, a folder or a pattern."""

from __future__ import annotations

import glob
from pathlib import Path

from ..command_line import UsageError

# The value of `--corpus` for the docstrings of the installed libraries.
DOCUMENTATION = "documentation"
# The `datasets` reader for each file extension.
READERS = {
    ".txt": "text",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".arrow": "arrow",
}
_COMPRESSED = (".gz", ".zst", ".xz", ".bz2")


def find_files(source: str, argument: str) -> tuple[str, list[Path]] | None:
    """Find the files of a file, folder or pattern that an option names, and the reader for them.

    Returns:
        (reader, files), or None if `source` is the name of a Hub dataset.

    Raises:
        UsageError: If there are no files, the files have different formats, or all of them are empty.
    """
    path, named = Path(source), f"--{argument} {source}"
    if not source:
        raise UsageError(f"--{argument} must name a file or a folder, got an empty name.")
    if path.is_dir():
        files = (file for file in path.rglob("*") if file.is_file() and reader_of(file))
        # Operating systems and editors leave hidden files in folders. Glob patterns do not match them either.
        found = sorted(file for file in files if not any(part[0] == "." for part in file.relative_to(path).parts))
    elif path.exists():
        found = [path]
    elif glob.has_magic(source):
        found = sorted(Path(name) for name in glob.glob(source, recursive=True))
    elif reader_of(path) or path.is_absolute() or source.startswith(".") or source.count("/") > 1:
        raise UsageError(f"{named}: there is no such file, folder or dataset.")
    else:
        return None
    if not found:
        raise UsageError(f"{named}: found no files ending in {', '.join(READERS)} (optionally compressed).")
    kinds = {reader_of(file) for file in found}
    if len(kinds) > 1 or None in kinds:
        endings = sorted({"".join(file.suffixes) or file.name for file in found})
        raise UsageError(
            f"{named}: all files must have the same format, one of {', '.join(READERS)} (optionally compressed), got "
            f"{', '.join(endings)}."
        )
    filled = [file for file in found if file.stat().st_size]
    if not filled:
        raise UsageError(f"{named} is empty.")
    return str(kinds.pop()), filled


def reader_of(file: Path) -> str | None:
    """Return the reader for a file by its ending, or None for other endings."""
    suffixes = [suffix for suffix in map(str.lower, file.suffixes) if suffix not in _COMPRESSED]
    return READERS.get(suffixes[-1]) if suffixes else None


def check_no_overlap(output: Path, corpus: str, option: str = "--output_dir") -> None:
    """Check that the corpus does not include files of the output, and is not inside it.

    Raises:
        UsageError: If they overlap. The message names the `option` of the output.
    """
    found = None if corpus == DOCUMENTATION else find_files(corpus, "corpus")
    if found is None:
        return
    resolved, source = output.resolve(), Path(corpus)
    inside = False
    if source.is_dir():
        inside = resolved.is_relative_to(source.resolve())
    elif glob.has_magic(corpus) and not source.exists():
        fixed = next(parent for parent in source.parents if not glob.has_magic(str(parent))).resolve()
        if resolved.is_relative_to(fixed):
            levels = source.parts[len(source.parts) - _pattern_levels(source) :]
            inside = "**" in levels or len(levels) > len(resolved.relative_to(fixed).parts)
    if inside or any(file.resolve().is_relative_to(resolved) for file in found[1]):
        raise UsageError(
            f"{option} {output} and --corpus {corpus} overlap, so the run could read its own files as texts or "
            f"delete texts; choose another {option}."
        )


def _pattern_levels(pattern: Path) -> int:
    """Count the parts of a pattern from the first one with a wildcard."""
    parts = pattern.parts
    return len(parts) - next(place for place, part in enumerate(parts) if glob.has_magic(part))
