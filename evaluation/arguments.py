"""The options of `sequence-encoder evaluate`.

Nothing here imports torch, so that the command line reports mistakes at once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from ..command_line import UsageError
from ..command_line.extras import require
from ..command_line.options import DEVICE, MODEL, check_least
from ..command_line.parser import AddValues, CommandLine
from ..tasks.arguments import ExampleArguments


@dataclass
class EvaluationArguments:
    """The model, and the folder to write.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "evaluation"

    model: str = field(metadata=MODEL)
    output_dir: str = field(metadata={"help": "Folder to write report.html and evaluation.json into."})
    also: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Other models with the same labels, such as those of other seeds, for their agreement.",
            "metavar": "MODEL",
            "action": AddValues,
        },
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Truncate texts to this many tokens; the default is that of the model."}
    )
    bootstrap_samples: int = field(default=1000, metadata={"help": "Number of bootstrap samples for intervals."})
    seed: int = field(default=0, metadata={"help": "Seed of the bootstrap and of the classifiers."})
    device: str | None = field(default=None, metadata=DEVICE)
    overwrite: bool = field(default=False, metadata={"help": "Replace a report in the folder."})
    matched_dir: str | None = field(
        default=None,
        metadata={"help": "Folder for a copy of the classifier that gives --match_file its labels in --label_shares."},
    )
    match_file: str | None = field(
        default=None, metadata={"help": "Name, as in --file, of the texts that --matched_dir is for."}
    )
    label_shares: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Shares of the labels in --match_file, such as positive=0.7 negative=0.3; the default is those "
            "of the first file."
        },
    )

    def __post_init__(self) -> None:
        if (self.matched_dir is None) != (self.match_file is None):
            given, lacks = ("match_file", "matched_dir") if self.matched_dir is None else ("matched_dir", "match_file")
            raise UsageError(f"--{given} needs --{lacks}.")
        if self.label_shares and self.match_file is None:
            raise UsageError("--label_shares needs --match_file and --matched_dir.")
        self.shares: dict[str, float] = {}
        for given in self.label_shares:
            name, _, share = given.rpartition("=")
            if name in self.shares:
                raise UsageError(f"--label_shares must have each label once, got {name} twice.")
            try:
                self.shares[name] = float(share)
            except ValueError:
                raise UsageError(f"--label_shares must be LABEL=SHARE, such as positive=0.7, got {given!r}.") from None
        if self.matched_dir is not None and os.path.realpath(self.matched_dir) == os.path.realpath(self.output_dir):
            raise UsageError(f"--matched_dir and --output_dir must be different folders, got {self.matched_dir} twice.")
        check_least(self, max_length=1, bootstrap_samples=1, seed=0)


@dataclass
class EvaluationFiles(ExampleArguments):
    """The files, and the names of their columns.

    Raises:
        UsageError: If a file or a name is given twice.
    """

    file: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Files with their names, the first of which is home: home=movies.csv away=tweets.csv. Others may "
            "lack labels. CSV, TSV, JSON (Lines), Parquet or Arrow.",
            "action": AddValues,
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.file:
            raise UsageError(
                "--file must be given. For example: sequence-encoder evaluate adapted --file home=movies.csv "
                "away=tweets.csv --output_dir report"
            )
        self.paths: dict[str, str] = {}
        for given in self.file:
            name, equals, path = given.partition("=")
            if not equals or os.path.exists(given):
                name, path = os.path.basename(given).partition(".")[0], given
            name, path = name.strip(), os.path.expanduser(path)
            if not name or not path:
                raise UsageError(f"--file must be NAME=FILE, such as home=movies.csv, got {given!r}.")
            if name in self.paths:
                raise UsageError(f"--file names two files {name}; give each its own name, such as {name}2={path}.")
            if os.path.realpath(path) in map(os.path.realpath, self.paths.values()):
                raise UsageError(f"--file has {path} twice; name each file once.")
            self.paths[name] = path

    def file_of(self, split: str) -> tuple[str, str] | None:
        """See `ExampleArguments`."""
        return ("file", self.paths[split]) if split in self.paths else None


EVALUATE = CommandLine(
    "evaluate",
    "Measure a model on files, test whether the others have shifted from the first one, and estimate how often the\n"
    "model is right where there are no labels.",
    "adapted --file home=movies.csv away=tweets.csv --output_dir report",
    (EvaluationArguments, EvaluationFiles),
    positional=("model",),
)


def check_libraries() -> None:
    """Check that all optional libraries that the command needs are installed.

    Raises:
        MissingLibraryError: If one of them is missing.
    """
    require("evaluate", "datasets", "scipy", "sklearn", extra="adapt")
