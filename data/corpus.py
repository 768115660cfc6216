"""Loads or streams texts from files, folders, a Hub dataset, or the docstrings of the installed libraries."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..command_line import UsageError
from ..command_line.options import DATASET_CONFIG_NAME, DELIMITER, ENCODING, TEXT_COLUMN, check_least, option
from .corpus_files import DOCUMENTATION, find_files
from .dataset_loading import load_from_hub, quiet_hub, read_files
from .documentation import read_documentation, split_by_file
from .row_files import ROW_READERS, RowFiles
from .text_files import TextFormat

# The number of rows to read together from Parquet files.
_BATCH_ROWS = 1024

CORPUS = {
    "help": "Texts: a file, a folder, a pattern such as 'texts/*.jsonl.gz' (text, JSON, Parquet, CSV, TSV or Arrow), a "
    "dataset on the Hub, or 'documentation' for the docstrings of the installed libraries."
}


@dataclass
class TextArguments:
    """The options that choose texts.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "corpus"

    corpus: str = option(**CORPUS)
    dataset_config_name: str | None = option(default=None, **DATASET_CONFIG_NAME)
    split: str = option("Split of the dataset on the Hub.", "train")
    text_column: str = option(default="text", **TEXT_COLUMN)
    sample_by: str = option("What a document is in a text file.", "line", choices=["line", "paragraph", "document"])
    encoding: str | None = option(default=None, **ENCODING)
    delimiter: str | None = option(default=None, **DELIMITER)

    def __post_init__(self) -> None:
        TextFormat(self.encoding, self.delimiter)
        if self.corpus != DOCUMENTATION:
            for name, default in (("dataset_config_name", None), ("split", "train")):
                if (value := getattr(self, name)) != default and find_files(self.corpus, "corpus") is not None:
                    raise UsageError(
                        f"--{name} {value} needs a Hub dataset, but --corpus {self.corpus} is a local path."
                    )
            find_files(self.corpus, "corpus")


@dataclass
class CorpusArguments(TextArguments):
    """The options that choose the texts to train on and to hold out.

    Raises:
        UsageError: If a value is not allowed.
    """

    corpus: str = option(default=DOCUMENTATION, **CORPUS)
    streaming: bool = option("Read and tokenize the corpus during training; needs --max_steps.", False)
    shuffle_buffer: int = option("Number of documents in the shuffle buffer of a stream.", 10_000)
    eval_documents: int = option(
        "Number of documents to hold out for evaluation: random ones, or the first ones of a stream.", 0
    )
    num_proc: int | None = option("Number of processes that tokenize (default: one per core).", None)

    def __post_init__(self) -> None:
        check_least(self, shuffle_buffer=1, eval_documents=0, num_proc=1)
        super().__post_init__()
        if self.streaming and self.corpus == DOCUMENTATION:
            raise UsageError("--streaming needs files or a Hub dataset; --corpus documentation fits on any disk.")


def load_corpus(arguments: CorpusArguments, scratch: Path, seed: int) -> tuple[Any, Any]:
    """Load the texts to train on and the texts to hold out.

    The folder `scratch` keeps the documentation, so that a resumed training reads the same texts.

    Returns:
        (train, held out), datasets or streams with a column "text". The second is None if nothing is held out.

    Raises:
        UsageError: If there are no such texts, or if a file cannot be read. The message names the file.
    """
    if arguments.corpus == DOCUMENTATION:
        files = write_documentation(scratch, arguments.eval_documents, seed)
        train, *others = (
            _texts_of_rows(_row_files("json", [file], arguments), "text", streaming=False) for file in files
        )
        return train, next(iter(others), None)
    texts = _open_texts(arguments)
    count = arguments.eval_documents
    if not count:
        return texts, None
    if arguments.streaming:
        # Reading a stream moves its position, and the position of every stream with the same source.
        train, held_out = texts.skip(count), copy.deepcopy(texts).take(count)
        if next(iter(copy.deepcopy(train)), None) is None:
            raise UsageError(f"--eval_documents {count} leaves no document of --corpus {arguments.corpus} to train on.")
        return train, held_out
    if count >= len(texts):
        raise UsageError(f"--eval_documents must be less than the {len(texts)} documents, got {count}.")
    parts = texts.train_test_split(test_size=count, seed=seed)
    return parts["train"], parts["test"]


def open_rows(
    arguments: TextArguments, scratch: Path, wanted: Sequence[tuple[str, str]], varying: Sequence[str]
) -> Any:
    """Open a stream of some columns of all rows.

    Args:
        arguments: The options that choose the texts.
        scratch: A folder that keeps the documentation, so that a resumed run reads the same texts.
        wanted: Pairs of an option and the column that it names.
        varying: The columns whose types may differ between tables, if the format has no types for columns.

    Returns:
        A stream whose `iter(batch_size)` yields Arrow tables.

    Raises:
        UsageError: If there are no such texts or columns, or if the first row cannot be read.
    """
    names = list(dict.fromkeys(name for _, name in wanted))
    if arguments.corpus == DOCUMENTATION:
        files: RowFiles | None = _row_files("json", write_documentation(scratch, 0, 0), arguments)
    else:
        files = _found_row_files(arguments)
    if files is not None:
        check_row_columns(files, arguments, wanted)
        # These modules import pyarrow.
        from .row_tables import RowTables

        return RowTables(files, names, varying)
    rows = _open(arguments, True, wanted)
    check_columns(rows, arguments, wanted)
    return rows.select_columns(names).with_format("arrow")


def _open_texts(arguments: CorpusArguments) -> Any:
    """Open a dataset or a stream with the column "text" alone."""
    wanted = [("text_column", arguments.text_column)]
    if (files := _found_row_files(arguments)) is not None:
        check_row_columns(files, arguments, wanted)
        return _texts_of_rows(files, arguments.text_column, arguments.streaming)
    texts = _open(arguments, arguments.streaming, wanted)
    check_columns(texts, arguments, wanted)
    texts = texts.select_columns([arguments.text_column])
    return texts if arguments.text_column == "text" else texts.rename_column(arguments.text_column, "text")


def _open(arguments: TextArguments, streaming: bool, wanted: Sequence[tuple[str, str]]) -> Any:
    """Open Parquet or Arrow files, or a Hub dataset. Only the wanted columns of Parquet files are read."""
    source = find_files(arguments.corpus, "corpus")
    if source is None:
        options: dict[str, Any] = {"split": arguments.split, "streaming": streaming}
        return load_from_hub(arguments.corpus, "corpus", arguments.dataset_config_name, **options)
    reader, files = source
    options = {}
    if reader == "parquet":
        from datasets import Features

        from .parquet_schemas import common_schema

        # The default is the size of the first row group, which may be huge, or zero.
        options["batch_size"] = _BATCH_ROWS
        if (schema := common_schema(files, wanted)) is not None:
            # Other columns may have types that `datasets` does not support.
            options |= {"columns": schema.names, "features": Features.from_arrow_schema(schema)}
    return read_files(reader, files, f"--corpus {arguments.corpus}", streaming, **options)


def _found_row_files(arguments: TextArguments) -> RowFiles | None:
    """Return the files of the corpus if they are text, CSV, TSV or JSON."""
    source = find_files(arguments.corpus, "corpus")
    return _row_files(*source, arguments) if source is not None and source[0] in ROW_READERS else None


def _row_files(reader: str, files: list[Path], arguments: TextArguments) -> RowFiles:
    return RowFiles(reader, files, TextFormat(arguments.encoding, arguments.delimiter, arguments.sample_by))


def _texts_of_rows(files: RowFiles, column: str, streaming: bool) -> Any:
    """Return a dataset or a stream of the texts of a column."""
    from datasets import Dataset, Features, IterableDataset, Value
    from datasets.exceptions import DatasetGenerationError

    # `datasets` keeps the texts in its cache, under a name that depends on these values.
    stats = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files.files]
    options = {"reader": files.reader, "text_format": files.text_format, "column": column}
    given = {"files": [str(file.absolute()) for file in files.files], **options}
    features = Features({"text": Value("string")})
    if streaming:
        # With a list, each file is a shard, which a resumed training can skip.
        return IterableDataset.from_generator(_texts, features, gen_kwargs=given)
    try:
        with quiet_hub():
            return Dataset.from_generator(_texts, features, gen_kwargs={**given, "stats": stats})
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, UsageError):
            raise error.__cause__ from None
        raise


def _texts(
    files: list[str], reader: str, text_format: TextFormat, column: str, stats: Any = None
) -> Iterator[dict[str, str]]:
    """Yield the texts of a column of text, CSV, TSV or JSON files."""
    rows = RowFiles(reader, [Path(file) for file in files], text_format)
    for number, row in enumerate(rows.rows()):
        try:
            text = text_of(row.get(column))
            text.encode()
        except UsageError as error:
            raise UsageError(f"{rows.place(number)}: {error}") from error
        except UnicodeEncodeError as error:
            raise UsageError(rows.surrogate_error(column, [text], number)) from error
        yield {"text": text}


def check_columns(texts: Any, arguments: TextArguments, wanted: Iterable[tuple[str, str]]) -> None:
    """Check that a dataset or a stream has rows and columns, given as pairs of an option and the column that it names.

    Raises:
        UsageError: If there are no rows, or if a column does not exist.
    """
    from datasets import IterableDataset

    # Reading a stream moves its position, but not that of a copy.
    first = next(iter(copy.deepcopy(texts) if isinstance(texts, IterableDataset) else texts), None)
    if first is None:
        raise UsageError(f"--corpus {arguments.corpus} is empty.")
    _check_names(texts.column_names or list(first), f"--corpus {arguments.corpus}", wanted)


def check_row_columns(files: RowFiles, arguments: TextArguments, wanted: Iterable[tuple[str, str]]) -> None:
    """Check that text, CSV, TSV or JSON files have rows, and that each file has the columns. See `check_columns`."""
    sampled = 0
    for file, rows in files.samples():
        named = f"--corpus {arguments.corpus}" if not sampled else str(file)
        _check_names(list(dict.fromkeys(name for row in rows for name in row)), named, wanted)
        sampled += 1
        if files.reader == "text":
            # All text files have the same column.
            break
    if not sampled:
        raise UsageError(f"--corpus {arguments.corpus} is empty.")


def _check_names(columns: list[str], named: str, wanted: Iterable[tuple[str, str]]) -> None:
    for argument, name in wanted:
        if name not in columns:
            raise UsageError(f"--{argument} {name} is not a column of {named}; choose one of {', '.join(columns)}.")


def texts_of(batch: Any) -> list[str]:
    """Return the texts of a batch of examples. See `text_of`."""
    return [text_of(text) for text in batch["text"]]


def text_of(text: Any) -> str:
    """Return a value of the text column, or an empty text if it is missing.

    Raises:
        UsageError: If the value is not a text.
    """
    if text is not None and not isinstance(text, str):
        raise UsageError(f"--text_column must name a column of texts, got {text!r} of type {type(text).__name__}.")
    return text or ""


def write_documentation(folder: Path, held_out: int, seed: int) -> list[Path]:
    """Write the docstrings of the installed libraries as JSON Lines, unless the files already exist.

    Held-out docstrings and training docstrings come from different source files.

    Returns:
        The file to train on and, if anything is held out, the held-out file.

    Raises:
        UsageError: If more than half of the docstrings would be held out.
    """
    # This module imports transformers, which takes seconds.
    from ..saving.whole_folders import write_atomically

    files = [folder / "documentation.jsonl", folder / "documentation-held-out.jsonl"][: 1 + bool(held_out)]
    if all(file.exists() for file in files):
        return files
    docs = read_documentation()
    if held_out > len(docs) // 2:
        raise UsageError(
            f"--eval_documents must be at most {len(docs) // 2}, half of the {len(docs)} docstrings, got {held_out}."
        )
    train, others, share = docs, docs[:0], held_out / len(docs)
    # A file can contain one docstring or hundreds, so a share of the files has only roughly that share of the
    # docstrings.
    while len(others) < held_out:
        train, others = split_by_file(docs, share, seed)
        share = min(1.0, 1.2 * share)
    for file, part in zip(files, (train, others[:held_out]), strict=False):
        write_atomically(file, (json.dumps({"text": doc.text}) + "\n" for doc in part))
    return files
