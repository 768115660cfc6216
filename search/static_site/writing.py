"""Writes a search page: its code, the texts, their vectors in eight bits, the model of queries and the index of words.

Shapes: N texts, D channels.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import numpy as np

from ..ranking import POOL, SMOOTHING
from .page_models import PageModel
from .site_folder import MANIFEST, SUFFIX, SiteFiles, in_eight_bits, site_folder
from .words import index_words

# The bytes of a file with texts, before they are compressed. A hit needs a whole file.
_SHARD_BYTES = 2**16
# JavaScript rounds larger integers.
_LARGEST_NUMBER = 2**53
# The files with places for values in double braces.
_PAGE, _WORKER = "index.html", "service-worker.js"


@dataclass(frozen=True)
class SiteText:
    """A text of a page.

    Attributes:
        text: The text.
        fields: What the page shows beside it. `title` is its heading, and `url` the address to which that leads.
    """

    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)


def write_static_site(
    folder: Path,
    texts: Sequence[SiteText],
    *,
    title: str,
    language: str,
    model: PageModel | None = None,
    vectors: Iterable[np.ndarray[Any, Any]] = (),
) -> int:
    """Write a search page.

    Args:
        folder: The folder to write. It is complete or as before, even if the function fails.
        texts: N texts.
        title: The title of the page.
        language: The language of the texts.
        model: The model for the vectors of queries. Without one, the page searches for words alone.
        vectors: The vectors of the texts, (N, D) in parts; 0 for a text that is only found by its words.

    Returns:
        The number of bytes that a browser reads before it can search.
    """
    with site_folder(folder) as written:
        files = SiteFiles(written)
        manifest: dict[str, Any] = {
            "title": title,
            "language": language,
            "rows": len(texts),
            "fusion": {"pool": POOL, "smoothing": SMOOTHING},
        }
        words = index_words((f"{each.fields.get('title') or ''} {each.text}" for each in texts), language)
        manifest["words"] = {
            "list": files.add_json("words", words.words),
            "arrays": files.add_packed("postings", words.to_bytes()),
        }
        if model is not None:
            manifest["vectors"] = {"file": files.add("vectors", in_eight_bits(vectors)), "rows": len(texts)}
            manifest["model"] = model.write(files, [each.text for each in texts])
        at_first = sum((written / name).stat().st_size for name in files.names)
        manifest["texts"] = _write_texts(files, texts)
        total = sum((written / name).stat().st_size for name in files.names)
        manifest |= {"texts_bytes": total - at_first, "files": sorted({*files.names})}
        (written / MANIFEST).write_text(json.dumps(manifest, ensure_ascii=False), encoding="utf-8")
        _write_code(written, title, files.runs_wasm)
    return at_first


def _write_code(folder: Path, title: str, runs_wasm: bool) -> None:
    """Write the code of the page into its folder, which has all other files."""
    sources = {source.name: source for source in (package_files(__package__) / "page").iterdir()}
    shell = {path.name for path in folder.iterdir() if path.suffix != SUFFIX} | sources.keys()
    values = {
        "title": html.escape(title),
        "scripts": "'self' 'wasm-unsafe-eval'" if runs_wasm else "'self'",
        "shell": json.dumps(sorted(shell - {_PAGE, _WORKER})),
    }
    for name, source in sources.items():
        code = source.read_text(encoding="utf-8")
        if name in (_PAGE, _WORKER):
            for field_name, value in values.items():
                code = code.replace(f"{{{{{field_name}}}}}", value)
        (folder / name).write_text(code, encoding="utf-8")


def _write_texts(files: SiteFiles, texts: Sequence[SiteText]) -> dict[str, Any]:
    """Write the texts in files of similar sizes, and return where each of them starts."""
    starts, names = [], []
    shard: list[Any] = []
    size = 0
    for row, each in enumerate(texts):
        shard.append([each.text, {name: _shown(value) for name, value in each.fields.items()}])
        size += len(each.text) + sum(len(str(value)) for value in each.fields.values())
        if size >= _SHARD_BYTES or row == len(texts) - 1:
            starts.append(row + 1 - len(shard))
            names.append(files.add_json("texts", shard))
            shard, size = [], 0
    return {"starts": starts, "files": names}


def _shown(value: Any) -> Any:
    """Return a value as JavaScript can read it and shows it in the same way."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int | float) and math.isfinite(value) and abs(value) <= _LARGEST_NUMBER:
        return value
    return str(value)
