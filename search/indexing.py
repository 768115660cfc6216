"""Makes an index: the vectors of a corpus in a table of LanceDB, with indexes for vectors and for words."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from ..bulk.arguments import ModelArguments, PathOrName, RowArguments, arguments_of
from ..bulk.commands import embed
from ..bulk.folder import OutputFolder
from ..command_line import UsageError
from ..data.corpus import TextArguments
from .arguments import ANY_LANGUAGE, INDEX, IndexArguments, check_libraries
from .layout import VECTORS, Layout, nearest, open_table

# With fewer rows, comparing all vectors is as fast as an index, and exact.
_FEWEST_ROWS = 10_000
# An index of bits (RaBitQ, Gao and Long, 2024) takes eight channels to a byte.
_CHANNELS = 8
# The share of neighbours that an index should find, and the numbers of its lists of vectors to look at, to choose from.
_LEAST_RECALL, _PROBES = 0.97, (20, 80)
# The number of rows whose nearest neighbours are compared, to measure the recall, and of these neighbours.
_MEASURED, _NEIGHBOURS = 100, 10
# Of the distances of vectors that are the same.
_TOLERANCE = 1e-6


def index_corpus(model: PathOrName, corpus: PathOrName, output_dir: PathOrName, **options: Any) -> Layout:
    """Make an index of the texts of a corpus, as `sequence-encoder index`.

    Args:
        model: A folder or a Hub id of an encoder.
        corpus: A file, folder, pattern or Hub dataset.
        output_dir: The folder to write. If the function is interrupted, call it again to continue.
        **options: The options of the command, by their names.

    Returns:
        What is known about the index.

    Raises:
        ValueError: If an option is not allowed or does not fit the model, or the folder holds an index of other
            settings.
        FileExistsError: If the folder contains anything else, or another run is writing to it.
    """
    return index(*arguments_of(INDEX, {"model": model, "corpus": corpus, "output_dir": output_dir, **options}))


def index(model: ModelArguments, corpus: TextArguments, options: IndexArguments, rows: RowArguments) -> Layout:
    """Run `sequence-encoder index`. See `index_corpus`."""
    check_libraries("index")
    if Path(model.model).is_dir():
        # Searches may start in another folder.
        model.model = str(Path(model.model).resolve())
    if corpus.text_column == rows.id_column:
        raise UsageError(f"--id_column {rows.id_column} is the column of the texts; choose another one.")
    if corpus.text_column in ("id", VECTORS):
        raise UsageError(
            f"--text_column {corpus.text_column}: index itself writes a column of that name; rename it in the corpus."
        )
    rows.columns = list(dict.fromkeys([corpus.text_column, *rows.columns]))
    embed(model, corpus, options.for_vectors(), rows, command="index")
    folder = Path(rows.output_dir)
    with OutputFolder(folder, "index").lock():
        layout = _complete(folder, corpus.text_column, options)
    print(_summary(layout, folder))
    return layout


def _complete(folder: Path, text_column: str, options: IndexArguments) -> Layout:
    """Add the indexes to the table in a folder, unless they are there."""
    layout = Layout.read_if_complete(folder)
    table, _ = open_table(folder)
    # Someone may have deleted the table, to compute it again.
    chosen = (options.language, options.query_prompt)
    if layout is not None and (layout.language, layout.query_prompt) == chosen and table.list_indices():
        return layout
    Layout.remove(folder)
    try:
        layout = add_indexes(table, text_column, *chosen)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"Interrupted; the vectors stay in {folder}. To continue, run the same command again."
        ) from error
    layout.write(folder)
    return layout


def add_indexes(table: Any, text_column: str, language: str, query_prompt: str | None = None) -> Layout:
    """Add the indexes of words and, if there are many rows, of vectors to a table of LanceDB.

    Args:
        table: The table.
        text_column: The column with the texts.
        language: Their language, see `IndexArguments`.
        query_prompt: What to put before queries.
    """
    from lancedb.index import FTS

    # Many small parts of a table are slow to read.
    table.optimize()
    any_language = FTS(base_tokenizer="icu", stem=False, remove_stop_words=False)
    words = any_language if language == ANY_LANGUAGE else FTS(language=language)
    table.create_index(text_column, config=words, replace=True)
    count = table.count_rows()
    vectors = table.count_rows(f"{VECTORS} IS NOT NULL")
    probes, recall = _add_vector_index(table, count, vectors) if vectors >= _FEWEST_ROWS else (None, None)
    return Layout(text_column, language, query_prompt, count, probes, recall)


def _add_vector_index(table: Any, count: int, vectors: int) -> tuple[int, float]:
    """Add the smallest and fastest index of vectors that finds nearly all neighbours, and return probes and recall."""
    from lancedb.index import IvfFlat, IvfRq, IvfSq

    channels = table.schema.field(VECTORS).type.list_size
    probes, recall = _PROBES[0], 0.0
    for kind in (IvfRq, IvfSq, IvfFlat)[bool(channels % _CHANNELS) :]:
        table.create_index(VECTORS, config=kind(distance_type="cosine"), replace=True)
        for probes in _PROBES:
            recall = _measure_recall(table, count, vectors, probes)
            if recall >= _LEAST_RECALL:
                return probes, recall
    return probes, recall


def _measure_recall(table: Any, count: int, vectors: int, probes: int) -> float:
    """Return the share of the nearest neighbours of random rows that the index of vectors finds."""
    # Twice as many as needed, because some rows may have no vector.
    rows = sorted(random.Random(0).sample(range(count), min(count, 2 * _MEASURED * count // vectors)))
    queries = table.take_offsets(rows).select([VECTORS]).to_arrow().column(VECTORS).drop_null()[:_MEASURED]
    found = 0
    for query in queries.combine_chunks().flatten().to_numpy().reshape(len(queries), -1):
        near, exact = (
            request.select(["_distance"]).limit(_NEIGHBOURS).to_arrow()["_distance"].to_numpy()
            for request in (nearest(table, query, probes), nearest(table, query, None))
        )
        # Rows with the same text are equally near, and any of them will do.
        found += int((near <= exact.max() + _TOLERANCE).sum())
    return found / (_NEIGHBOURS * len(queries))


def _summary(layout: Layout, folder: Path) -> str:
    sentence = f"{layout.rows:,} rows can be searched in {folder}"
    if layout.recall is None:
        return f"{sentence}, all vectors exactly."
    return f"{sentence}. The index of vectors finds {layout.recall:.1%} of the {_NEIGHBOURS} nearest rows."
