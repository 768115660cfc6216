"""`sequence-encoder search`: prints the hits of a search for people, or as JSON for programs."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from typing import Any

from .arguments import SearchArguments
from .ranking import SearchHit
from .search_index import SearchIndex

# The number of lines of a text to print.
_LINES = 4
_LEAST_WIDTH = 20
# Line breaks, and what a terminal would obey.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def search(options: SearchArguments) -> None:
    """Run `sequence-encoder search`."""
    index = SearchIndex(options.index, options.encoder, options.device)
    reranker = None
    if options.reranker is not None:
        from .reranking import Reranker

        reranker = Reranker(options.reranker, options.device)
    hits = index.search(
        options.query,
        options.limit,
        mode=options.mode,
        where=options.where,
        reranker=reranker,
        candidates=options.candidates,
    )
    for number, hit in enumerate(hits, 1):
        print(json.dumps(vars(hit), default=str, ensure_ascii=False) if options.json else in_words(number, hit))
    if not hits and not options.json:
        print("No text matches.")


def in_words(number: int, hit: SearchHit) -> str:
    """Return the rank, the score and the fields of a hit, and the first lines of its text."""
    facts: list[Any] = [hit.id, *(value for value in hit.fields.values() if value is not None)]
    width = max(_LEAST_WIDTH, shutil.get_terminal_size().columns - 4)
    text = textwrap.wrap(_CONTROLS.sub(" ", hit.text), width, max_lines=_LINES, placeholder=" …")
    heading = f"{number:>2}  {hit.score:.4f}  {'  '.join(_CONTROLS.sub(' ', str(fact)) for fact in facts)}"
    return "\n".join([heading, *(f"    {line}" for line in text)])
