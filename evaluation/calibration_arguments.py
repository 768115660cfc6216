"""The options of `sequence-encoder calibrate`.

Nothing here imports torch, so that the command line reports mistakes at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..command_line import UsageError
from ..command_line.extras import require
from ..command_line.options import MODEL, check_least
from ..command_line.parser import CommandLine
from ..tasks.arguments import ExampleArguments

# The tasks of `adapt` whose models can be calibrated.
CALIBRATED_TASKS = ("classification", "multi-label", "ner", "qa")
COVERAGES = (0.9, 0.8, 0.95)
AUTO = "auto"
SCALINGS = (AUTO, "temperature", "adaptive", "vector")


@dataclass
class CalibrationArguments:
    """The model, the coverages, and the folder to write.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "calibration"

    model: str = field(metadata=MODEL)
    output_dir: str = field(metadata={"help": "Folder to write the calibrated model to."})
    coverages: list[float] = field(
        default_factory=lambda: list(COVERAGES),
        metadata={"help": "Shares of true labels that the sets of labels should contain, the default first."},
    )
    scaling: str = field(
        default=AUTO,
        metadata={
            "help": "temperature divides all logits by the same number, and adaptive by one that depends on the "
            "entropy of each prediction; neither changes a prediction. vector has a scale and an offset for each "
            "label. auto chooses the best method by cross-validation.",
            "choices": list(SCALINGS),
        },
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Truncate texts to this many tokens; the default is that of the model."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace a saved model in the folder."})

    def __post_init__(self) -> None:
        if not self.coverages or any(not 0 < each < 1 for each in self.coverages):
            shown = ", ".join(map(str, self.coverages)) or "none"
            raise UsageError(f"--coverages must be numbers between 0 and 1, such as 0.9, got {shown}.")
        check_least(self, max_length=1)


@dataclass
class CalibrationFiles(ExampleArguments):
    """The files, and the names of their columns."""

    file: str | None = field(
        default=None,
        metadata={"help": "Examples that the model was not trained on: CSV, TSV, JSON (Lines), Parquet or Arrow."},
    )
    away_file: str | None = field(
        default=None,
        metadata={
            "help": "Texts that the model is not meant for, in the same column or a text on each line, to choose the "
            "score of unfamiliar texts."
        },
    )

    def __post_init__(self) -> None:
        if self.file is None:
            raise UsageError(
                "--file must be given. For example: sequence-encoder calibrate adapted --file held-out.csv "
                "--output_dir calibrated"
            )
        super().__post_init__()

    def file_of(self, split: str) -> tuple[str, str] | None:
        """See `ExampleArguments`."""
        name, file = ("away_file", self.away_file) if split == "away" else ("file", self.file)
        return None if file is None else (name, file)


CALIBRATE = CommandLine(
    "calibrate",
    "Correct the scores of a model, so that they say how often it is right. It then also returns sets of labels, and\n"
    "recognises unfamiliar texts. It needs at least a few hundred labelled examples that it was not trained on.",
    "adapted --file held-out.csv --output_dir calibrated",
    (CalibrationArguments, CalibrationFiles),
    positional=("model",),
    left_out=lambda given: {"choice_columns", "doc_stride"},
)


def check_libraries() -> None:
    """Check that all optional libraries that the command needs are installed.

    Raises:
        MissingLibraryError: If one of them is missing.
    """
    require("calibrate", "datasets", "matplotlib", "sklearn", extra="adapt")
