"""Makes an index: the vectors of a corpus in a table of LanceDB, with indexes for vectors and for words."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from ..bulk.arguments import ModelArguments, RowArguments, arguments_of
from ..bulk.commands import embed
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


def index_corpus(model: str, corpus: str, output_dir: str, **options: Any) -> Layout:
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
    check_libraries()
    if Path(model.model).is_dir():
        # Searches may start in another folder.
        model.model = str(Path(model.model).resolve())
    if corpus.text_column == rows.id_column:
        raise UsageError(f"--id_column {rows.id_column} is the column of the texts; choose another one.")
    rows.columns = list(dict.fromkeys([corpus.text_column, *rows.columns]))
    embed(model, corpus, options.for_vectors(), rows)
    folder = Path(rows.output_dir)
    layout = Layout.read_if_complete(folder)
    if layout is None or layout.language != options.language:
        table, _ = open_table(folder)
        layout = add_indexes(table, corpus.text_column, options.language)
        layout.write(folder)
    print(_summary(layout, folder))
    return layout


def add_indexes(table: Any, text_column: str, language: str) -> Layout:
    """Add the indexes of words and, if there are many rows, of vectors to a table of LanceDB.

    Args:
        table: The table.
        text_column: The column with the texts.
        language: Their language, see `IndexArguments`.
    """
    from lancedb.index import FTS

    # Many small parts of a table are slow to read.
    table.optimize()
    any_language = FTS(base_tokenizer="icu", stem=False, remove_stop_words=False)
    words = any_language if language == ANY_LANGUAGE else FTS(language=language)
    table.create_index(text_column, config=words, replace=True)
    count = table.count_rows()
    probes, recall = _add_vector_index(table, count) if count >= _FEWEST_ROWS else (None, None)
    return Layout(text_column, language, count, probes, recall)


def _add_vector_index(table: Any, count: int) -> tuple[int, float]:
    """Add the smallest and fastest index of vectors that finds nearly all neighbours, and return probes and recall."""
    from lancedb.index import IvfFlat, IvfRq, IvfSq

    channels = table.schema.field(VECTORS).type.list_size
    probes, recall = _PROBES[0], 0.0
    for kind in (IvfRq, IvfSq, IvfFlat)[bool(channels % _CHANNELS) :]:
        table.create_index(VECTORS, config=kind(distance_type="cosine"), replace=True)
        for probes in _PROBES:
            recall = _measure_recall(table, count, probes)
            if recall >= _LEAST_RECALL:
                return probes, recall
    return probes, recall


def _measure_recall(table: Any, count: int, probes: int) -> float:
    """Return the share of the nearest neighbours of random rows that the index of vectors finds."""
    rows = sorted(random.Random(0).sample(range(count), _MEASURED))
    vectors = table.take_offsets(rows).select([VECTORS]).to_arrow().column(VECTORS).drop_null()
    found = 0
    for vector in vectors.combine_chunks().flatten().to_numpy().reshape(len(vectors), -1):
        near, exact = (
            set(request.select(["_distance"]).limit(_NEIGHBOURS).with_row_id(True).to_arrow()["_rowid"].to_pylist())
            for request in (nearest(table, vector, probes), nearest(table, vector, None))
        )
        found += len(near & exact)
    return found / (_NEIGHBOURS * len(vectors))


def _summary(layout: Layout, folder: Path) -> str:
    sentence = f"{layout.rows:,} rows can be searched in {folder}"
    if layout.recall is None:
        return f"{sentence}, all vectors exactly."
    return f"{sentence}. The index of vectors finds {layout.recall:.1%} of the {_NEIGHBOURS} nearest rows."
