"""Estimates the number of rows in files of text, for the time that is left, without reading all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

# A gigabyte of text has its number of rows estimated from the first ones.
_BYTES = 2**26
_BLOCK = 2**20
_WITH_HEADER = ("csv", "tsv")


def estimate_rows(reader: str, files: Sequence[Path]) -> int | None:
    """Return about how many rows files have, or None if their size does not tell. `reader` is that of `find_files`."""
    plain = {".txt": "text", ".jsonl": "json", ".csv": "csv", ".tsv": "tsv"}
    # A compressed file may have any size, and a file that ends in `.json` may hold a single list.
    if any(plain.get(file.suffix.lower()) != reader for file in files):
        return None
    rows = bytes_read = 0
    for file in files:
        found, size = _line_ends(file, _BYTES - bytes_read, quoted=reader in _WITH_HEADER)
        rows, bytes_read = rows + found - (reader in _WITH_HEADER), bytes_read + size
        if bytes_read >= _BYTES:
            break
    if not bytes_read:
        return None
    return max(1, round(rows * sum(file.stat().st_size for file in files) / bytes_read))


def _line_ends(file: Path, limit: int, quoted: bool) -> tuple[int, int]:
    """Return the number of lines in the first bytes of a file, without line breaks in quotes, and the bytes read."""
    lines = size = quotes = 0
    last = b"\n"
    with file.open("rb") as content:
        while size < limit and (block := content.read(min(_BLOCK, limit - size))):
            parts = block.split(b'"') if quoted else [block]
            lines += sum(part.count(b"\n") for part in parts[quotes % 2 :: 2])
            quotes, size, last = quotes + len(parts) - 1, size + len(block), block
    return lines + (not last.endswith(b"\n")), size
