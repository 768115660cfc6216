"""Where texts come from: files, folders, a dataset of the Hub, or the documentation on this disk; streamed or not."""

from __future__ import annotations

import copy
import glob
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..command_line import UsageError
from .documentation import read_documentation, split_by_file
from .text_files import TextFormat, csv_header, csv_records, encoding_of, undecodable

DOCUMENTATION = "documentation"
# The reader of `datasets` for each ending.
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


@dataclass
class CorpusArguments:
    """Which texts to train on.

    Raises:
        UsageError: for values that are not allowed.
    """

    _argument_group_name = "corpus"

    corpus: str = field(
        default=DOCUMENTATION,
        metadata={
            "help": "File, folder or pattern such as 'texts/*.jsonl.gz' (text, JSON, Parquet, CSV, TSV, Arrow); "
            "dataset of the Hub; or 'documentation', the docstrings of the installed libraries."
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a dataset of the Hub."})
    split: str = field(default="train", metadata={"help": "Split of a dataset of the Hub."})
    text_column: str = field(default="text", metadata={"help": "Column of the texts."})
    sample_by: str = field(
        default="line",
        metadata={"help": "What counts as a document in a text file.", "choices": ["line", "paragraph", "document"]},
    )
    encoding: str | None = field(
        default=None,
        metadata={"help": "Encoding of the files, such as latin-1; by default UTF-8."},
    )
    delimiter: str | None = field(default=None, metadata={"help": "Character between two columns of CSV, such as ';'."})
    streaming: bool = field(default=False, metadata={"help": "Read and tokenise while training; needs --max_steps."})
    shuffle_buffer: int = field(
        default=10_000, metadata={"help": "Documents to shuffle among each other while streaming."}
    )
    eval_documents: int = field(
        default=0,
        metadata={"help": "Documents to hold out for evaluation: random ones, or the first of a stream."},
    )
    num_proc: int | None = field(default=None, metadata={"help": "Processes that tokenise; by default one per core."})

    def __post_init__(self) -> None:
        for name, least in (("shuffle_buffer", 1), ("eval_documents", 0), ("num_proc", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"--{name} must be at least {least}, got {value}.")
        TextFormat(self.encoding, self.delimiter)
        if self.corpus != DOCUMENTATION:
            for name, default in (("dataset_config", None), ("split", "train")):
                if (value := getattr(self, name)) != default and find_files(self.corpus, "corpus") is not None:
                    raise UsageError(
                        f"--{name} {value} is for a dataset of the Hub, and --corpus {self.corpus} is not."
                    )
            find_files(self.corpus, "corpus")
        elif self.streaming:
            raise UsageError("--streaming is for files and datasets of the Hub; the documentation fits any disk.")


def load_corpus(arguments: CorpusArguments, scratch: Path, seed: int) -> tuple[Any, Any]:
    """(train, held out): datasets, or streams, with a column "text"; held out is None where nothing is.

    Args:
        arguments: which texts.
        scratch: a folder to keep the documentation in, so that it is the same when training goes on.
        seed: of what is held out.

    Raises:
        UsageError: if there are no such texts, or some of them cannot be read; it names the file.
    """
    if arguments.corpus == DOCUMENTATION:
        files = write_documentation(scratch, arguments.eval_documents, seed)
        train, *others = (_load("json", [file], arguments) for file in files)
        return train, next(iter(others), None)
    source = find_files(arguments.corpus, "corpus")
    if source is None:
        options = {"split": arguments.split, "streaming": arguments.streaming}
        texts = load_from_hub(arguments.corpus, "corpus", arguments.dataset_config, **options)
    else:
        texts = _load(*source, arguments)
    texts = _text_alone(texts, arguments)
    count = arguments.eval_documents
    if not count:
        return texts, None
    if arguments.streaming:
        # Reading moves the place that a stream keeps, also that of what shares its source.
        train, held_out = texts.skip(count), copy.deepcopy(texts).take(count)
        if next(iter(copy.deepcopy(train)), None) is None:
            raise UsageError(f"--eval_documents {count} leaves nothing of --corpus {arguments.corpus} to train on.")
        return train, held_out
    if count >= len(texts):
        raise UsageError(f"--eval_documents {count} leaves nothing of the {len(texts)} documents to train on.")
    parts = texts.train_test_split(test_size=count, seed=seed)
    return parts["train"], parts["test"]


def find_files(source: str, argument: str) -> tuple[str, list[Path]] | None:
    """The reader and the files of a file, a folder or a pattern; None for the name of a dataset of the Hub.

    Args:
        source: what the user gave.
        argument: by which, for errors.

    Raises:
        UsageError: if there are none, or of several kinds, or nothing is in them.
    """
    path, named = Path(source), f"--{argument} {source}"
    if not source:
        raise UsageError(f"--{argument} must name a file or a folder, got nothing.")
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file() and _reader(file))
    elif path.exists():
        found = [path]
    elif glob.has_magic(source):
        found = sorted(Path(name) for name in glob.glob(source, recursive=True))
    elif _reader(path) or path.is_absolute() or source.startswith(".") or source.count("/") > 1:
        raise UsageError(f"{named}: there is no such file, folder or dataset.")
    else:
        return None
    if not found:
        raise UsageError(f"{named}: there is no file that ends in {', '.join(READERS)} (or compressed).")
    kinds = {_reader(file) for file in found}
    if len(kinds) > 1 or None in kinds:
        endings = sorted({"".join(file.suffixes) or file.name for file in found})
        raise UsageError(
            f"{named}: all files must be of the same kind, one of {', '.join(READERS)} (or compressed); got "
            f"{', '.join(endings)}."
        )
    filled = [file for file in found if file.stat().st_size]
    if not filled:
        raise UsageError(f"{named} is empty.")
    return str(kinds.pop()), filled


def _reader(file: Path) -> str | None:
    suffixes = [suffix for suffix in map(str.lower, file.suffixes) if suffix not in _COMPRESSED]
    return READERS.get(suffixes[-1]) if suffixes else None


def _load(reader: str, files: list[Path], arguments: CorpusArguments) -> Any:
    named, text_format = f"--corpus {arguments.corpus}", TextFormat(arguments.encoding, arguments.delimiter)
    options: dict[str, Any] = {"sample_by": arguments.sample_by} if reader == "text" else {}
    if reader in ("csv", "tsv"):
        options["sep"] = text_format.delimiter or ("\t" if reader == "tsv" else ",")
    if reader in ("text", "csv", "tsv", "json"):
        options["encoding"] = encoding_of(files, text_format.encoding)
    if reader == "json" and options["encoding"] in ("utf-8", "utf-8-sig"):
        # It leaves out the mark by itself, and checks the bytes under any name of UTF-8 but its default.
        options["encoding"] = "utf8"
    rows = read_files({"tsv": "csv"}.get(reader, reader), files, named, arguments.streaming, **options)
    for file in files if "sep" in options else ():
        csv_header(file, csv_records(file, text_format.encoding, options["sep"]), options["sep"])
    return rows


def read_files(reader: str, files: list[Path], named: str, streaming: bool = False, **options: Any) -> Any:
    """The rows of files, or a stream of them.

    Args:
        reader: of `datasets`.
        files: of one kind.
        named: what the user asked for, for errors.
        streaming: whether they are read while they are used.
        options: of the reader.

    Raises:
        UsageError: if one cannot be read; it names the file.
    """
    from datasets import load_dataset

    from ..command_line.console import without_warning

    def load(files: list[Path], streaming: bool) -> Any:
        # Names are taken for patterns.
        names = [glob.escape(str(file)) for file in files]
        return load_dataset(reader, data_files=names, split="train", streaming=streaming, **options)

    # What it says is said again, with a remedy.
    with without_warning(f"datasets.packaged_modules.{reader}.{reader}", "Failed to "):
        try:
            rows = load(files, streaming)
            if streaming:
                next(iter(copy.deepcopy(rows)), None)
            return rows
        # Each reader has errors of its own.
        except Exception as error:
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError) and error.errno:
                raise
            for file in files:
                try:
                    for _ in load([file], True):
                        pass
                except Exception as cause:
                    told = undecodable(file, options["encoding"]) if "encoding" in options else None
                    told = told or f"{file} cannot be read as {reader}: {str(cause) or type(cause).__name__}"
                    raise UsageError(told) from error
            raise UsageError(f"{named} cannot be read: {error.__cause__ or error}") from error


def load_from_hub(name: str, argument: str, config: str | None, **options: Any) -> Any:
    """A dataset of the Hub.

    Raises:
        UsageError: if there is none of that name, or none of it can be had.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        return load_dataset(name, config, **options)
    except (DatasetNotFoundError, ValueError, ConnectionError) as error:
        raise UsageError(f"--{argument} {name}: {error}") from error


def _text_alone(texts: Any, arguments: CorpusArguments) -> Any:
    """The texts without other columns."""
    # Reading moves the place that a stream keeps.
    first = next(iter(copy.deepcopy(texts) if arguments.streaming else texts), None)
    if first is None:
        raise UsageError(f"--corpus {arguments.corpus} is empty.")
    columns = texts.column_names or list(first)
    if arguments.text_column not in columns:
        raise UsageError(
            f"--text_column {arguments.text_column} is not in --corpus {arguments.corpus}; choose one of "
            f"{', '.join(columns)}."
        )
    texts = texts.select_columns([arguments.text_column])
    return texts if arguments.text_column == "text" else texts.rename_column(arguments.text_column, "text")


def texts_of(batch: Any) -> list[str]:
    """The texts of a batch of examples, as `text_of` reads them."""
    return [text_of(text) for text in batch["text"]]


def text_of(text: Any) -> str:
    """A text as it is in the column of texts; one that is missing is empty.

    Raises:
        UsageError: for what is no text.
    """
    if text is not None and not isinstance(text, str):
        raise UsageError(f"--text_column must hold texts, and has {text!r} of type {type(text).__name__}.")
    return text or ""


def write_documentation(folder: Path, held_out: int, seed: int) -> list[Path]:
    """Writes the docstrings on this disk as JSON Lines: those to train on, and some of other files if any are held out.

    What is there already stays. Returns the files.

    Raises:
        UsageError: if too many are to be held out.
    """
    # It imports transformers, which takes seconds.
    from ..saving.whole_folders import write_whole

    files = [folder / "documentation.jsonl", folder / "documentation-held-out.jsonl"][: 1 + bool(held_out)]
    if all(file.exists() for file in files):
        return files
    docs = read_documentation()
    if held_out > len(docs) // 2:
        raise UsageError(f"--eval_documents {held_out} is more than half of the {len(docs)} docstrings.")
    train, others, share = docs, docs[:0], held_out / len(docs)
    # Files hold one docstring or hundreds.
    while len(others) < held_out:
        train, others = split_by_file(docs, share, seed)
        share = min(1.0, 1.2 * share)
    for file, part in zip(files, (train, others[:held_out]), strict=False):
        write_whole(file, (json.dumps({"text": doc.text}) + "\n" for doc in part))
    return files
