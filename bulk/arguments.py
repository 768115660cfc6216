"""The options of `sequence-encoder embed` and `sequence-encoder predict`.

Nothing here imports torch, so that the command line reports mistakes at once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import Any

from ..command_line import UsageError
from ..command_line.extras import require, require_version
from ..command_line.options import DEVICE, MODEL, check_least
from ..command_line.parser import CommandLine, Values
from ..data.corpus import TextArguments

FORMATS = ("parquet", "npy", "lance")
ENGINES = ("local", "ray")
# The types that a column can be copied as.
NUMBERS = ("int", "float")
POOLINGS = ("mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
PathOrName = str | os.PathLike[str]
_DTYPES = ["auto", "float32", "bfloat16"]
ID_COLUMN = {"help": "Column to write as id; the default is the number of the row, from 0."}
_TRUST = {"help": "Load a model that was exported as a torch program, which can run any code."}


@dataclass
class ModelArguments:
    """The model, and how it reads texts.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "model"

    model: str = field(metadata=MODEL)
    max_length: int | None = field(
        default=None,
        metadata={"help": "Number of tokens to truncate texts to; the default is that of the model."},
    )
    max_tokens: int = field(
        default=2048, metadata={"help": "Maximum number of tokens in a batch; a GPU is faster with more."}
    )
    device: str | None = field(default=None, metadata=DEVICE)

    def __post_init__(self) -> None:
        check_least(self, max_length=1, max_tokens=1)


@dataclass
class VectorArguments:
    """How texts become vectors.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "vectors"

    prompt: str | None = field(default=None, metadata={"help": "Text to put before each text, such as 'passage: '."})
    prompt_name: str | None = field(default=None, metadata={"help": "Name of a prompt in the settings of the model."})
    pooling: str | None = field(
        default=None,
        metadata={
            "help": "How to pool the vectors of tokens; the default is that of the model, or else mean.",
            "choices": list(POOLINGS),
        },
    )
    truncate_dim: int | None = field(default=None, metadata={"help": "Number of channels to keep; the default is all."})
    normalize: bool | None = field(
        default=None,
        metadata={
            "help": "Scale vectors to length 1, or not; the default is that of the model.",
            "nargs": "?",
            "const": True,
            "metavar": "{True,False}",
        },
    )

    vectors: list[str] | None = field(
        default=None,
        metadata={
            "help": "Kinds of vectors to write for a model that gives several in one pass, such as BGE-M3: some of "
            "dense, sparse and token, separated by commas. The default is dense."
        },
    )

    def __post_init__(self) -> None:
        given = [self.vectors] if isinstance(self.vectors, str) else self.vectors or []
        self.vectors = [kind.strip() for part in given for kind in part.split(",") if kind.strip()] or None
        check_least(self, truncate_dim=1)
        if self.prompt is not None and self.prompt_name is not None:
            raise UsageError("--prompt and --prompt_name are mutually exclusive; leave one of them out.")


@dataclass
class EmbeddingArguments(VectorArguments):
    """How texts become vectors, and how vectors are stored."""

    precision: str = field(
        default="auto",
        metadata={
            "help": "dtype to compute in, where auto chooses the fastest for the device; or int8 or binary, to store "
            "vectors in eight bits or one bit a channel instead of float32.",
            "choices": [*_DTYPES, "int8", "binary"],
        },
    )
    format: str = field(
        default="parquet",
        metadata={
            "help": "Parquet; npy, for NumPy arrays beside Parquet files with all other columns; or lance, for a table "
            "of LanceDB.",
            "choices": list(FORMATS),
        },
    )
    trust_remote_code: bool = field(default=False, metadata=_TRUST)


@dataclass
class PredictionArguments:
    """What to predict.

    Attributes:
        text_pair_column: The column with the second text, for a model that reads pairs.
        scores: Whether to write the scores of all labels.
        coverage: The share of true labels that the sets of a calibrated model contain.
        abstain_below: The p-value of unfamiliarity below which a calibrated model has no answer.
        precision: The dtype to compute in.
        trust_remote_code: Whether to load a torch program, which can run any code.
    """

    _argument_group_name = "predictions"

    text_pair_column: str | None = field(
        default=None, metadata={"help": "Column with the second text of a pair, for a cross-encoder."}
    )
    scores: bool = field(default=False, metadata={"help": "Also write the scores of all labels."})
    coverage: float | None = field(
        default=None,
        metadata={"help": "Share of true labels that sets of labels contain, for a calibrated model. (default: 0.9)"},
    )
    abstain_below: float | None = field(
        default=None,
        metadata={"help": "Write no label for texts with a lower p-value of unfamiliarity, for a calibrated model."},
    )
    precision: str = field(
        default="auto",
        metadata={
            "help": "dtype to compute in; auto chooses the fastest for the device. Exported models compute in float32.",
            "choices": _DTYPES,
        },
    )
    trust_remote_code: bool = field(default=False, metadata=_TRUST)


@dataclass
class RowArguments:
    """What to do with the rows of the corpus, and where to write the results.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "rows and output"

    output_dir: str = field(metadata={"help": "Folder to write. Run the same command again to continue it."})
    id_column: str | None = field(default=None, metadata=ID_COLUMN)
    columns: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Columns to copy, such as title,url; the text too, if it is named here. CSV and TSV have texts; "
            "year:int and price:float copy them as numbers."
        },
    )
    max_characters: int = field(
        default=1_000_000, metadata={"help": "Longest text; a longer one is a bad row. It limits the memory needed."}
    )
    strict: bool = field(
        default=False,
        metadata={"help": "Stop at a bad row (null, not a text, too long), instead of writing null for it."},
    )
    shard_rows: int = field(
        default=16_384,
        metadata={"help": "Rows in a file. An interrupted run loses at most one file; with few rows, it is slower."},
    )

    def __post_init__(self) -> None:
        check_least(self, max_characters=1, shard_rows=1)
        # In Python, it may be a single text.
        given = [self.columns] if isinstance(self.columns, str) else self.columns
        self.columns = [name.strip() for part in given for name in part.split(",") if name.strip()]
        names = ["id", *(name for name, _ in map(name_and_type, self.columns))]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            remedy = "pass it as --id_column instead" if twice == ["id"] else "name each column once"
            raise UsageError(f"--columns: the output would have several columns named {', '.join(twice)}; {remedy}.")


@dataclass
class EngineArguments:
    """Where the command computes.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "engine"

    engine: str = field(
        default="local",
        metadata={
            "help": "local computes in this process, or in those that accelerate launch has started; ray on the "
            "cluster that RAY_ADDRESS names, or else on this machine.",
            "choices": list(ENGINES),
        },
    )
    workers: int | None = field(
        default=None,
        metadata={"help": "Number of workers on Ray; the default is one for each GPU, or for each machine without."},
    )

    def __post_init__(self) -> None:
        check_least(self, workers=1)
        if self.workers is not None and self.engine != "ray":
            raise UsageError(f"--workers needs --engine ray, got --engine {self.engine}.")


EMBED = CommandLine(
    "embed",
    "Write a vector for each row of a corpus. If the command is interrupted, run it again to continue.",
    'minilm --corpus "texts/*.parquet" --text_column text --output_dir vectors',
    (ModelArguments, TextArguments, EmbeddingArguments, RowArguments, EngineArguments),
    positional=("model",),
)
PREDICT = CommandLine(
    "predict",
    "Write a label and a score for each row of a corpus, with a classifier or a cross-encoder.\n"
    "If the command is interrupted, run it again to continue.",
    'classifier --corpus "texts/*.parquet" --text_column text --output_dir predictions',
    (ModelArguments, TextArguments, PredictionArguments, RowArguments, EngineArguments),
    positional=("model",),
)


def name_and_type(column: str) -> tuple[str, str | None]:
    """Return the name of a column and the type that the user asked for, such as ("year", "int") for year:int."""
    name, _, kind = column.rpartition(":")
    return (name, kind) if name and kind in NUMBERS else (column, None)


def arguments_of(command: CommandLine, options: Values) -> tuple[Any, ...]:
    """Return the dataclasses of a command for options that were given in Python.

    Args:
        command: The command.
        options: The options by their names, without dashes.

    Raises:
        UsageError: If the name or the value of an option is not allowed.
    """
    options = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in options.items()}
    known = {each.name for kind in command.kinds for each in fields(kind)}
    if unknown := sorted(options.keys() - known):
        raise UsageError(f"there is no option {', '.join(unknown)}; the options are {', '.join(sorted(known))}.")
    for kind in command.kinds:
        for each in fields(kind):
            value, choices = options.get(each.name), each.metadata.get("choices")
            if value is not None and choices and value not in choices:
                raise UsageError(f"{each.name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")
    return tuple(
        kind(**{each.name: options[each.name] for each in fields(kind) if each.name in options})
        for kind in command.kinds
    )


def check_libraries(command: str, file_format: str = "parquet", engine: str = "local") -> None:
    """Check that all optional libraries that the run needs are installed.

    Raises:
        MissingLibraryError: If one of them is missing.
    """
    require(command, "datasets", "filelock", "pyarrow", extra="embed")
    require_version(command, "pyarrow", "26", "older ones cannot write the null vectors of bad rows", extra="embed")
    if file_format == "lance":
        require("--format lance", "lancedb", extra="search")
    if engine == "ray":
        require("--engine ray", "ray", extra="ray")
