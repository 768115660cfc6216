"""The options of `sequence-encoder embed`, `sequence-encoder predict` and `sequence-encoder extract`.

Nothing here imports torch, so that the command line reports mistakes at once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Any

from ...command_line import UsageError
from ...command_line.extras import require, require_version
from ...command_line.options import (
    DEVICE,
    DTYPE,
    LABEL_DESCRIPTIONS,
    MAX_LENGTH,
    MAX_TOKENS,
    MODEL,
    TEXT_PAIR_COLUMN,
    THEN,
    TRUE_OR_FALSE,
    check_least,
    option,
)
from ...command_line.parser import Command, Values, read_label_descriptions
from ...data.corpus import TextArguments

FORMATS = ("parquet", "npy", "lance")
ENGINES = ("local", "ray")
# The types that a column can be copied as.
NUMBERS = ("int", "float")
POOLINGS = ("mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
PathOrName = str | os.PathLike[str]
ID_COLUMN = {"help": "Column to write as id (default: the number of the row, from 0)."}
_TRUST = {"help": "Allow a model that was exported as a torch program, which can run arbitrary code."}


@dataclass
class ModelArguments:
    """The model, and how it reads texts.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "model"

    model: str = option(**MODEL)
    max_length: int | None = option(default=None, **MAX_LENGTH)
    max_tokens: int = option(default=2048, **MAX_TOKENS)
    device: str | None = option(default=None, **DEVICE)

    def __post_init__(self) -> None:
        check_least(self, max_length=1, max_tokens=1)


@dataclass
class WindowedModelArguments(ModelArguments):
    """The model, and how it reads texts in windows."""

    max_length: int | None = option(
        "Maximum number of tokens of a text with the labels; longer texts are read in windows that overlap (default: "
        "the limit of the model).",
        None,
    )


@dataclass
class VectorArguments:
    """How texts become vectors.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "vectors"

    prompt: str | None = option("Text to prepend to each text, such as 'passage: '.", None)
    prompt_name: str | None = option("Name of a prompt that the model defines.", None)
    pooling: str | None = option(
        "How to pool token vectors into a text vector (default: as the model says, or else mean).",
        None,
        choices=list(POOLINGS),
    )
    truncate_dim: int | None = option("Number of dimensions to keep (default: all).", None)
    normalize: bool | None = option(
        "Whether to scale vectors to length 1 (default: as the model says).", None, **TRUE_OR_FALSE
    )

    vectors: list[str] | None = option(
        "Kinds of vectors to write for a model that computes several in one pass, such as BGE-M3: any of dense, "
        "sparse and token (default: dense).",
        None,
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

    dtype: str = option(default="auto", **DTYPE)
    precision: str | None = option(
        "Precision of the stored vectors; int8 and binary take one byte or one bit per dimension (default: "
        "float32, or float16 for token vectors).",
        None,
        choices=["float32", "int8", "binary"],
    )
    format: str = option(
        "Format to write. npy writes NumPy arrays, and Parquet files with the other columns; lance writes a "
        "LanceDB table.",
        "parquet",
        choices=list(FORMATS),
    )
    trust_remote_code: bool = option(default=False, **_TRUST)


@dataclass
class PredictionArguments:
    """What to predict.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "predictions"

    text_pair_column: str | None = option(default=None, **TEXT_PAIR_COLUMN)
    labels: list[str] | None = option(
        "Labels to choose from, such as politics sport, with a model for zero-shot classification (default: those that "
        "the model has learned).",
        None,
        metavar="LABEL",
    )
    hypothesis_template: str | None = option(
        "Sentence with {} for the label, which a model for natural language inference compares with the text (default: "
        "'This example is {}.').",
        None,
    )
    multi_label: bool | None = option(
        "Whether several labels can be right, so that each of the --labels is scored alone (default: one is right).",
        None,
        **TRUE_OR_FALSE,
    )
    scores: bool = option("Write the scores of all labels as well.", False)
    coverage: float | None = option(
        "Share of the texts whose set of labels should contain the true label; needs a calibrated model (default: "
        "0.9).",
        None,
    )
    abstain_below: float | None = option(
        "Write no label for texts whose p-value of unfamiliarity is lower; needs a calibrated model.", None
    )
    then: str | None = option(default=None, **THEN)
    then_below: float | None = option(
        "Score of MODEL below which --then reads a text (default: 0.9; `sequence-encoder evaluate --then` finds the "
        "best).",
        None,
    )
    dtype: str = option(default="auto", **DTYPE)
    trust_remote_code: bool = option(default=False, **_TRUST)

    def __post_init__(self) -> None:
        if self.then is None and self.then_below is not None:
            raise UsageError(f"--then_below needs --then, got --then_below {self.then_below}.")
        if self.then is not None and self.coverage is not None:
            raise UsageError(f"--coverage cannot be used with --then, got --coverage {self.coverage}.")
        _check_probability(self, "then_below")
        if self.labels is None:
            for name in ("hypothesis_template", "multi_label"):
                if (value := getattr(self, name)) is not None:
                    raise UsageError(f"--{name} needs --labels, got --{name} {value}.")
            return
        self.labels = _named_once(self.labels)
        for name in ("text_pair_column", "coverage", "abstain_below", "then"):
            if (value := getattr(self, name)) is not None:
                raise UsageError(f"--{name} cannot be used with --labels, got --{name} {value}.")
        template = self.hypothesis_template
        if template is not None and not _has_place(template):
            raise UsageError(f"--hypothesis_template must have {{}} in the place of the label, got {template!r}.")


def _check_probability(arguments: Any, name: str) -> None:
    value = getattr(arguments, name)
    if value is not None and not 0 <= value <= 1:
        raise UsageError(f"--{name} must be a number from 0 to 1, got {value}.")


def _named_once(labels: list[str] | str) -> list[str]:
    """Return the names in `--labels`."""
    given = [labels] if isinstance(labels, str) else list(labels)
    # As in transformers' pipeline, one text can name several labels.
    names = [label.strip() for label in (given[0].split(",") if len(given) == 1 else given)]
    if not all(names) or len({*names}) < len(names):
        raise UsageError(f"--labels must name each label once, and none may be empty, got {names}.")
    return names


def _has_place(template: str) -> bool:
    try:
        return template.format("a") != template.format("b")
    except (IndexError, KeyError, ValueError, AttributeError):
        return False


@dataclass
class ExtractionArguments:
    """What to extract.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "extraction"

    labels: list[str] | None = option(
        "Labels to look for, such as person organisation 'price in euro'. The model need not have seen them in "
        "training.",
        None,
        metavar="LABEL",
    )
    label_descriptions: dict[str, str] | str | None = option(default=None, **LABEL_DESCRIPTIONS)
    threshold: float | None = option(
        "Probability above which a span is an entity (default: as the model says, usually 0.5).", None
    )
    nested: bool = option(
        "Keep entities inside others. Otherwise, the most probable of those that overlap stays.", False
    )
    multi_label: bool = option("Whether several labels can be right for a span. Otherwise, it has one.", False)
    dtype: str = option(default="auto", **DTYPE)
    trust_remote_code: bool = option(default=False, **_TRUST)

    def __post_init__(self) -> None:
        if (self.labels is None) == (self.label_descriptions is None):
            given = "neither" if self.labels is None else "both"
            raise UsageError(f"either --labels or --label_descriptions must be given, got {given}.")
        if self.labels is not None:
            self.labels = _named_once(self.labels)
        self.label_descriptions = read_label_descriptions(self.label_descriptions)
        _check_probability(self, "threshold")


@dataclass
class RowArguments:
    """What to do with the rows of the corpus, and where to write the results.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "rows and output"

    output_dir: str = option(
        "Folder to write the results to. To continue after an interruption, run the same command again."
    )
    id_column: str | None = option(default=None, **ID_COLUMN)
    columns: list[str] = option(
        "Columns to copy to the output, such as title,url. Columns of CSV and TSV files are copied as strings, "
        "unless a type follows the name: year:int or price:float.",
        [],
        metavar="COLUMN[:TYPE][,...]",
    )
    max_characters: int = option(
        "Maximum number of characters in a text. A row with a longer text is a bad row.", 1_000_000
    )
    strict: bool = option(
        "Stop at a bad row (no text, not a string, too long) instead of leaving it without a result.", False
    )
    shard_rows: int = option(
        "Number of rows in each output file. An interruption loses at most one file; small files are slower.", 16_384
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

    engine: str = option(
        "Where to compute: local is this process, or the processes that accelerate launch starts; ray is the "
        "cluster that RAY_ADDRESS names, or else this machine.",
        "local",
        choices=list(ENGINES),
    )
    workers: int | None = option("Number of Ray workers (default: one per GPU, or one per machine without GPUs).", None)

    def __post_init__(self) -> None:
        check_least(self, workers=1)
        if self.workers is not None and self.engine != "ray":
            raise UsageError(f"--workers needs --engine ray, got --engine {self.engine}.")


EMBED = Command(
    "embed",
    "Write a vector for each row of a corpus, to Parquet, NumPy or LanceDB.\n"
    "If the command is interrupted, run it again to continue.",
    'minilm --corpus "texts/*.parquet" --text_column text --output_dir vectors',
    (ModelArguments, TextArguments, EmbeddingArguments, RowArguments, EngineArguments),
    check=lambda model, corpus, options, rows, engine: check_libraries("embed", options.format, engine.engine),
)
PREDICT = Command(
    "predict",
    "Write a label and a score for each row of a corpus, with a classifier, a cross-encoder or a zero-shot model.\n"
    "If the command is interrupted, run it again to continue.",
    'classifier --corpus "texts/*.parquet" --text_column text --output_dir predictions',
    (ModelArguments, TextArguments, PredictionArguments, RowArguments, EngineArguments),
    check=lambda model, corpus, options, rows, engine: check_libraries("predict", engine=engine.engine),
)
EXTRACT = Command(
    "extract",
    "Write the entities in a corpus with any labels, one row an entity, with a model such as GLiNER.\n"
    "If the command is interrupted, run it again to continue.",
    'urchade/gliner_small-v2.1 --corpus "texts/*.parquet" --labels person organisation --output_dir entities',
    (WindowedModelArguments, TextArguments, ExtractionArguments, RowArguments, EngineArguments),
    check=lambda model, corpus, options, rows, engine: check_libraries("extract", engine=engine.engine),
)


def name_and_type(column: str) -> tuple[str, str | None]:
    """Return the name of a column and the type that the user asked for, such as ("year", "int") for year:int."""
    name, _, kind = column.rpartition(":")
    return (name, kind) if name and kind in NUMBERS else (column, None)


def arguments_of(command: Command, options: Values, kinds: tuple[type, ...] = ()) -> tuple[Any, ...]:
    """Return the dataclasses of a command for options that were given in Python.

    Args:
        command: The command.
        options: The options by their names, without dashes.
        kinds: The dataclasses to return, by default those of the command.

    Raises:
        UsageError: If the name or the value of an option is not allowed.
    """
    kinds = kinds or command.kinds
    options = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in options.items()}
    known = {each.name for kind in kinds for each in fields(kind)}
    if unknown := sorted(options.keys() - known):
        raise UsageError(f"there is no option {', '.join(unknown)}; the options are {', '.join(sorted(known))}.")
    for kind in kinds:
        for each in fields(kind):
            value, choices = options.get(each.name), each.metadata.get("choices")
            if value is not None and choices and value not in choices:
                raise UsageError(f"{each.name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")
    return tuple(
        kind(**{each.name: options[each.name] for each in fields(kind) if each.name in options}) for kind in kinds
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
