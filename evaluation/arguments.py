"""The options of `sequence-encoder evaluate`.

Nothing here imports torch, so that the command line reports mistakes at once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..command_line import UsageError
from ..command_line.extras import require
from ..command_line.options import DEVICE, MAX_LENGTH, MODEL, OVERWRITE, SEED, THEN, check_least, option
from ..command_line.parser import AddValues, Command
from .tasks.example_arguments import ExampleArguments


@dataclass
class EvaluationArguments:
    """The model, and the folder to write.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "evaluation"

    model: str = option(**MODEL)
    output_dir: str = option("Folder to write report.html and evaluation.json to.")
    other_models: list[str] = option(
        "Models with the same labels, such as those of other seeds, to measure their agreement.",
        [],
        metavar="MODEL [MODEL ...]",
        action=AddValues,
    )
    then: str | None = option(default=None, **THEN)
    max_length: int | None = option(default=None, **MAX_LENGTH)
    bootstrap_samples: int = option("Number of bootstrap samples for the confidence intervals.", 1000)
    seed: int = option(default=0, **SEED)
    device: str | None = option(default=None, **DEVICE)
    overwrite: bool = option(default=False, **OVERWRITE)
    matched_dir: str | None = option(
        "Folder to save a copy of the classifier to, whose predictions on --match have --label_shares.", None
    )
    match: str | None = option("Name of the file in --test_file to adjust --matched_dir to.", None, metavar="NAME")
    label_shares: list[str] = option(
        "Shares of the labels in --match, such as positive=0.7 negative=0.3 (default: the shares in the first file).",
        [],
        metavar="LABEL=SHARE [LABEL=SHARE ...]",
    )

    def __post_init__(self) -> None:
        if (self.matched_dir is None) != (self.match is None):
            given, lacks = ("match", "matched_dir") if self.matched_dir is None else ("matched_dir", "match")
            raise UsageError(f"--{given} needs --{lacks}.")
        if self.label_shares and self.match is None:
            raise UsageError("--label_shares needs --match and --matched_dir.")
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

    test_file: list[str] = option(
        "Test examples: CSV, TSV, JSON (Lines), Parquet or Arrow, optionally with a name, such as home=movies.csv "
        "away=tweets.csv. The other files are compared with the first one, and may lack labels.",
        [],
        metavar="[NAME=]FILE [[NAME=]FILE ...]",
        action=AddValues,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.test_file:
            raise UsageError(f"--test_file must be given. {EVALUATE.with_example}")
        self.paths: dict[str, str] = {}
        for given in self.test_file:
            name, equals, path = given.partition("=")
            if not equals or os.path.exists(given):
                name, path = os.path.basename(given).partition(".")[0], given
            name, path = name.strip(), os.path.expanduser(path)
            if not name or not path:
                raise UsageError(f"--test_file must be FILE or NAME=FILE, such as home=movies.csv, got {given!r}.")
            if name in self.paths:
                raise UsageError(
                    f"--test_file has two files named {name}; name one of them differently, such as {name}2={path}."
                )
            if os.path.realpath(path) in map(os.path.realpath, self.paths.values()):
                raise UsageError(f"--test_file has {path} twice; pass each file once.")
            self.paths[name] = path

    def file_of(self, split: str) -> tuple[str, str] | None:
        """See `ExampleArguments`."""
        return ("test_file", self.paths[split]) if split in self.paths else None


EVALUATE = Command(
    "evaluate",
    "Evaluate a model on several files, test them for distribution shift, and estimate accuracy without labels.",
    "adapted --test_file home=movies.csv away=tweets.csv --output_dir report",
    (EvaluationArguments, EvaluationFiles),
    check=lambda *parsed: check_libraries(),
)


def check_libraries() -> None:
    """Check that all optional libraries that the command needs are installed.

    Raises:
        MissingLibraryError: If one of them is missing.
    """
    require("evaluate", "datasets", "scipy", "sklearn", extra="adapt")
