"""Loads or streams texts from files, folders, a Hub dataset, or the docstrings of the installed libraries."""

from __future__ import annotations

import copy
import glob
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..command_line import UsageError
from ..command_line.options import check_least
from .corpus_files import DOCUMENTATION, find_files
from .documentation import read_documentation, split_by_file
from .text_files import TextFormat, csv_header, csv_records, describe_decoding_error, encoding_of

# The number of rows to read together from Parquet files.
_BATCH_ROWS = 1024


@dataclass
class TextArguments:
    """The options that choose texts.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "corpus"

    corpus: str = field(
        default=DOCUMENTATION,
        metadata={
            "help": "File, folder or pattern such as 'texts/*.jsonl.gz' (text, JSON, Parquet, CSV, TSV, Arrow), "
            "Hub dataset, or 'documentation' for the docstrings of the installed libraries."
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the Hub dataset."})
    split: str = field(default="train", metadata={"help": "Split of the Hub dataset."})
    text_column: str = field(default="text", metadata={"help": "Column with the texts."})
    sample_by: str = field(
        default="line",
        metadata={"help": "What counts as a document in a text file.", "choices": ["line", "paragraph", "document"]},
    )
    encoding: str | None = field(
        default=None,
        metadata={"help": "Encoding of the files, such as latin-1; the default is UTF-8."},
    )
    delimiter: str | None = field(default=None, metadata={"help": "Column separator of CSV files, such as ';'."})

    def __post_init__(self) -> None:
        TextFormat(self.encoding, self.delimiter)
        if self.corpus != DOCUMENTATION:
            for name, default in (("dataset_config", None), ("split", "train")):
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

    streaming: bool = field(default=False, metadata={"help": "Read and tokenise during training; needs --max_steps."})
    shuffle_buffer: int = field(
        default=10_000, metadata={"help": "Number of documents in the shuffle buffer of a stream."}
    )
    eval_documents: int = field(
        default=0,
        metadata={"help": "Number of documents held out for evaluation: random ones, or the first of a stream."},
    )
    num_proc: int | None = field(
        default=None, metadata={"help": "Number of tokenising processes; the default is one per core."}
    )

    def __post_init__(self) -> None:
        check_least(self, shuffle_buffer=1, eval_documents=0, num_proc=1)
        super().__post_init__()
        if self.streaming and self.corpus == DOCUMENTATION:
            raise UsageError("--streaming needs files or a Hub dataset; --corpus documentation fits on any disk.")


def load_corpus(arguments: CorpusArguments, scratch: Path, seed: int) -> tuple[Any, Any]:
    """Load the texts to train on and the texts to hold out.

    Args:
        arguments: The options that choose the texts.
        scratch: A folder that keeps the documentation, so that a resumed training reads the same texts.
        seed: The seed of the split.

    Returns:
        (train, held out), datasets or streams with a column "text". The second is None if nothing is held out.

    Raises:
        UsageError: If there are no such texts, or if a file cannot be read. The message names the file.
    """
    if arguments.corpus == DOCUMENTATION:
        files = write_documentation(scratch, arguments.eval_documents, seed)
        train, *others = (_load("json", [file], arguments, streaming=False) for file in files)
        return train, next(iter(others), None)
    texts = _keep_text_column(_open(arguments, arguments.streaming), arguments)
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


def open_rows(arguments: TextArguments, scratch: Path) -> Any:
    """Open a stream of all rows with all columns.

    Args:
        arguments: The options that choose the texts.
        scratch: A folder that keeps the documentation, so that a resumed run reads the same texts.

    Raises:
        UsageError: If there are no such texts, or if the first row cannot be read.
    """
    if arguments.corpus == DOCUMENTATION:
        return _load("json", write_documentation(scratch, 0, 0), arguments, streaming=True)
    return _open(arguments, streaming=True)


def _open(arguments: TextArguments, streaming: bool) -> Any:
    """Open files or a Hub dataset."""
    source = find_files(arguments.corpus, "corpus")
    if source is not None:
        return _load(*source, arguments, streaming)
    options = {"split": arguments.split, "streaming": streaming}
    return load_from_hub(arguments.corpus, "corpus", arguments.dataset_config, **options)


def _load(reader: str, files: list[Path], arguments: TextArguments, streaming: bool) -> Any:
    named, text_format = f"--corpus {arguments.corpus}", TextFormat(arguments.encoding, arguments.delimiter)
    options: dict[str, Any] = {"sample_by": arguments.sample_by} if reader == "text" else {}
    if reader == "parquet":
        # The default is the size of the first row group, which may be huge, or zero.
        options["batch_size"] = _BATCH_ROWS
    if reader in ("csv", "tsv"):
        options["sep"] = text_format.delimiter or ("\t" if reader == "tsv" else ",")
    if reader in ("text", "csv", "tsv", "json"):
        options["encoding"] = encoding_of(files, text_format.encoding)
    if reader == "json" and options["encoding"] in ("utf-8", "utf-8-sig"):
        # The JSON reader skips the byte order mark itself. It validates the bytes only if the name is not its default.
        options["encoding"] = "utf8"
    rows = read_files({"tsv": "csv"}.get(reader, reader), files, named, streaming, **options)
    for file in files if "sep" in options else ():
        csv_header(file, csv_records(file, text_format.encoding, options["sep"]), options["sep"])
    return rows


def read_files(reader: str, files: list[Path], named: str, streaming: bool = False, **options: Any) -> Any:
    """Read the rows of files as a dataset or a stream.

    Args:
        reader: The name of a `datasets` reader.
        files: The files, all in the same format.
        named: The option and the value that the user gave, for error messages.
        streaming: Whether to return a stream.
        **options: Options of the reader.

    Raises:
        UsageError: If a file cannot be read. The message names the file.
    """
    from datasets import load_dataset

    from ..command_line.quiet import without_warning

    def load(files: list[Path], streaming: bool) -> Any:
        # `datasets` treats file names as patterns.
        names = [glob.escape(str(file)) for file in files]
        with _uncounted():
            return load_dataset(reader, data_files=names, split="train", streaming=streaming, **options)

    # The errors below repeat this message and add a remedy.
    with without_warning(f"datasets.packaged_modules.{reader}.{reader}", "Failed to "):
        try:
            rows = load(files, streaming)
            if streaming:
                next(iter(copy.deepcopy(rows)), None)
            return rows
        # Each reader raises its own kinds of errors.
        except Exception as error:
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError) and error.errno:
                raise
            for file in files:
                try:
                    for _ in load([file], True):
                        pass
                except Exception as cause:
                    message = describe_decoding_error(file, options["encoding"]) if "encoding" in options else None
                    message = message or f"{file} cannot be read as {reader}: {str(cause) or type(cause).__name__}"
                    raise UsageError(message) from error
            raise UsageError(f"{named} cannot be read: {error.__cause__ or error}") from error


@contextmanager
def _uncounted() -> Iterator[None]:
    """Keep `datasets` from sending a request to the Hub, which counts downloads, when it reads local files."""
    from datasets import config

    counted = config.HF_UPDATE_DOWNLOAD_COUNTS
    config.HF_UPDATE_DOWNLOAD_COUNTS = False
    try:
        yield
    finally:
        config.HF_UPDATE_DOWNLOAD_COUNTS = counted


def load_from_hub(name: str, argument: str, config: str | None, **options: Any) -> Any:
    """Load a dataset from the Hub.

    Args:
        name: The id of the dataset.
        argument: The name of the option that it came from, for error messages.
        config: The configuration of the dataset.
        **options: Options of `datasets.load_dataset`.

    Raises:
        UsageError: If there is no such dataset, or if it cannot be loaded.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        return load_dataset(name, config, **options)
    except (DatasetNotFoundError, ValueError, ConnectionError) as error:
        raise UsageError(f"--{argument} {name}: {error}") from error


def commit_of(name: str) -> str | None:
    """Return the newest commit of a dataset on the Hub, or None if the Hub cannot be asked."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    # Connection errors are not OSErrors, but share the second base class of HfHubHTTPError.
    failures: tuple[type[Exception], ...] = (OSError, ValueError, HfHubHTTPError.__mro__[1])
    try:
        return HfApi().dataset_info(name).sha
    except failures:
        # The dataset may be in the cache.
        return None


def _keep_text_column(texts: Any, arguments: CorpusArguments) -> Any:
    """Keep only the column of the texts, and call it "text"."""
    check_columns(texts, arguments, [("text_column", arguments.text_column)])
    texts = texts.select_columns([arguments.text_column])
    return texts if arguments.text_column == "text" else texts.rename_column(arguments.text_column, "text")


def check_columns(texts: Any, arguments: TextArguments, wanted: Iterable[tuple[str, str]]) -> None:
    """Check that a dataset or a stream has rows and columns.

    Args:
        texts: The dataset or the stream.
        arguments: The options that chose it, for error messages.
        wanted: Pairs of an option and the column that it names.

    Raises:
        UsageError: If there are no rows, or if a column does not exist.
    """
    from datasets import IterableDataset

    # Reading a stream moves its position, but not that of a copy.
    first = next(iter(copy.deepcopy(texts) if isinstance(texts, IterableDataset) else texts), None)
    if first is None:
        raise UsageError(f"--corpus {arguments.corpus} is empty.")
    columns = texts.column_names or list(first)
    for option, name in wanted:
        if name not in columns:
            raise UsageError(
                f"--{option} {name} is not a column of --corpus {arguments.corpus}; choose one of {', '.join(columns)}."
            )


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

    Args:
        folder: The folder to write to.
        held_out: The number of docstrings to hold out.
        seed: The seed of the split.

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
