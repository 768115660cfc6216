"""Writes the search page of an index: the page of `sequence-encoder index --static_site`.

Shapes: N texts, D channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...command_line import UsageError
from ...command_line.progress import Progress
from ...conversion.source import Source
from ...inference.corpora.arguments import ModelArguments
from ...inference.corpora.formats import VECTORS
from ...inference.corpora.models import load_encoder
from ..arguments import IndexArguments
from ..layout import Layout, open_table
from .page_models import GraphPageModel, PageModel, StaticPageModel
from .writing import SiteText, write_static_site

_TITLE = "Search"
# The rows of a table to read at once.
_ROWS = 4096


def load_page_model(
    source: Source, kind: Any, model: ModelArguments, options: IndexArguments, packages: str | None
) -> PageModel:
    """Load a model, and check that a page can compute the vectors of queries with it.

    Args:
        source: The model of the index.
        kind: The class for its vectors; None for one dense vector for a text.
        model: How it reads texts.
        options: How texts become vectors.
        packages: The folder with the libraries of the page, if it needs any.

    Raises:
        UsageError: If the page cannot.
        ValueError: If an option does not fit the model.
    """
    if kind is not None or source.is_exported:
        what = "is exported" if source.is_exported else f"has {' and '.join(kind.kinds)} vectors"
        raise UsageError(f"--static_site needs a model with one dense vector for a text, but {source.name} {what}.")
    encoder, tokenizer, _ = load_encoder(source, "cpu", "float32")
    named = {"prompt_name": "query"} if options.query_prompt is None else {"prompt": options.query_prompt}
    prepared = encoder.prepare_encoding(
        tokenizer,
        pooling=options.pooling,
        normalize_embeddings=options.normalize,
        max_length=model.max_length,
        truncate_dim=options.truncate_dim,
        **named,
    )
    if encoder.config.is_static:
        return StaticPageModel(prepared, source.name, packages)
    return GraphPageModel(prepared, source.name, packages)


def write_indexed_site(folder: Path, index: Path, layout: Layout, model: PageModel) -> int:
    """Write the search page of an index.

    Args:
        folder: The folder of the page.
        index: The folder of the index.
        layout: What is known about the index.
        model: The model for the vectors of queries.

    Returns:
        The number of bytes that a browser reads before it can search.
    """
    table, facts = open_table(index)
    columns = [name for name in table.schema.names if name != VECTORS]
    rows = table.search().select(columns).to_arrow().to_pylist()
    # The numbers of rows tell nobody anything.
    if [row["id"] for row in rows] == list(range(len(rows))):
        for row in rows:
            del row["id"]
    texts = [SiteText(row.pop(layout.text_column) or "", row) for row in rows]
    with Progress("Writing the search page"):
        return write_static_site(
            folder,
            texts,
            title=_TITLE,
            language=layout.language,
            model=model,
            vectors=_vectors(table, facts["dimensions"]),
        )


def _vectors(table: Any, channels: int) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the vectors of consecutive rows, (N, D); 0 for a row without a vector."""
    for batch in table.search().select([VECTORS]).to_batches(batch_size=_ROWS):
        column = batch.column(VECTORS)
        found = np.zeros((len(column), channels), np.float32)
        found[column.is_valid().to_numpy(zero_copy_only=False)] = column.flatten().to_numpy().reshape(-1, channels)
        yield found
