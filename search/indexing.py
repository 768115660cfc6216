"""Makes an index: the vectors of a corpus in a table of LanceDB, with indexes for vectors and for words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..command_line import UsageError
from ..command_line.progress import Progress
from ..conversion.source import Source
from ..data.corpus import TextArguments
from ..inference.corpora.arguments import ModelArguments, PathOrName, RowArguments, arguments_of
from ..inference.corpora.commands import embed
from ..inference.corpora.folder import OutputFolder
from ..inference.corpora.formats import VECTORS
from ..inference.corpora.listed_vectors import COLUMNS
from ..inference.corpora.models import kind_of
from .arguments import ANY_LANGUAGE, INDEX, IndexArguments, SiteArguments, check_libraries
from .layout import Layout, open_table
from .static_site.indexed_site import load_page_model, write_indexed_site
from .static_site.site_folder import check_site_folder
from .vector_search import NEIGHBOURS, VectorSearch, vector_search


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


def index(
    model: ModelArguments, corpus: TextArguments, options: IndexArguments, rows: RowArguments, site: SiteArguments
) -> Layout:
    """Run `sequence-encoder index`. See `index_corpus`."""
    check_libraries("index")
    if site.static_site is not None:
        if Path(site.static_site).resolve() == Path(rows.output_dir).resolve():
            raise UsageError(f"--static_site {site.static_site} is the folder of the index; choose another one.")
        check_site_folder(Path(site.static_site), site.overwrite)
    if Path(model.model).is_dir():
        # Searches may start in another folder.
        model.model = str(Path(model.model).resolve())
    if corpus.text_column == rows.id_column:
        raise UsageError(f"--id_column {rows.id_column} is the column of the texts; choose another one.")
    asked = options.vectors or []
    if len(asked) > 1:
        raise UsageError(f"--vectors {','.join(asked)}: an index has one kind of vectors; choose one.")
    source = Source(model.model)
    kind = kind_of(source, asked)
    columns = [VECTORS] if kind is None else [COLUMNS[each].name for each in kind.kinds]
    if corpus.text_column in ("id", *columns):
        raise UsageError(
            f"--text_column {corpus.text_column}: index itself writes a column of that name; rename it in the corpus."
        )
    if kind is not None and not options.normalize and not kind.has_unit_length(source.folder):
        raise UsageError(
            f"The vectors of {model.model} do not have length 1, but an index compares cosines; pass --normalize."
        )
    page_model = None
    if site.static_site is not None:
        page_model = load_page_model(source, kind, model, options, site.node_modules)
    rows.columns = list(dict.fromkeys([corpus.text_column, *rows.columns]))
    embed(model, corpus, options.for_vectors(), rows, command="index")
    folder = Path(rows.output_dir)
    with OutputFolder(folder, "index").lock():
        layout = _complete(folder, corpus.text_column, options)
    print(_summary(layout))
    if site.static_site is not None and page_model is not None:
        size = write_indexed_site(Path(site.static_site), folder, layout, page_model)
        print(f"The search page is in {site.static_site}. A browser reads {size / 2**20:.1f} MiB before it searches.")
    return layout


def _complete(folder: Path, text_column: str, options: IndexArguments) -> Layout:
    """Add the indexes to the table in a folder, unless they are there."""
    layout = Layout.read_if_complete(folder)
    table, facts = open_table(folder)
    # Someone may have deleted the table, to compute it again.
    chosen = (options.language, options.query_prompt)
    vectors = vector_search(table, folder, facts)
    is_same = layout is not None and (layout.language, layout.query_prompt) == chosen
    if layout is not None and is_same and table.list_indices() and vectors.is_whole():
        return layout
    Layout.remove(folder)
    try:
        layout = add_indexes(table, vectors, text_column, *chosen)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"Interrupted; the vectors stay in {folder}. To continue, run the same command again."
        ) from error
    layout.write(folder)
    return layout


def add_indexes(
    table: Any, vectors: VectorSearch, text_column: str, language: str, query_prompt: str | None = None
) -> Layout:
    """Add the indexes of words and, if they are faster, of vectors to a table of LanceDB.

    Args:
        table: The table.
        vectors: The search among its vectors.
        text_column: The column with the texts.
        language: Their language, see `IndexArguments`.
        query_prompt: What to put before queries.
    """
    from lancedb.index import FTS

    # Many small parts of a table are slow to read.
    with Progress("Merging the parts of the table"):
        table.optimize()
    any_language = FTS(base_tokenizer="icu", stem=False, remove_stop_words=False)
    words = any_language if language == ANY_LANGUAGE else FTS(language=language)
    with Progress("Indexing the words"):
        table.create_index(text_column, config=words, replace=True)
    with Progress("Indexing the vectors"):
        probes, recall = vectors.add_index()
    return Layout(text_column, language, query_prompt, table.count_rows(), probes, recall)


def _summary(layout: Layout) -> str:
    if layout.recall is None:
        return "A search compares all vectors exactly."
    return f"The vector index finds {layout.recall:.1%} of the {NEIGHBOURS} nearest rows."
