"""The options of `sequence-encoder calibrate`.

Nothing here imports torch, so that the command line reports mistakes at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...command_line import UsageError
from ...command_line.extras import require
from ...command_line.options import (
    MAX_LENGTH,
    MODEL,
    OVERWRITE,
    check_least,
    option,
)
from ...command_line.parser import Command
from ..tasks.example_arguments import ExampleArguments

# The tasks of `adapt` whose models can be calibrated.
CALIBRATED_TASKS = ("classification", "multi-label", "ner", "qa")
# `adapt` has this option, too.
CALIBRATION_FILE = {"help": "Labelled examples to calibrate on, which the model was not trained on."}
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

    model: str = option(**MODEL)
    output_dir: str = option("Folder to write the calibrated model to.")
    coverages: list[float] = option(
        "Coverages of the sets of labels: how often a set should contain the true label. Models use the first one "
        "by default.",
        list(COVERAGES),
    )
    scaling: str = option(
        "How to scale the logits: temperature divides all of them by one number, adaptive by a number that "
        "depends on the entropy of each prediction, and neither changes a prediction; vector learns a scale and "
        "an offset for each label; auto chooses by cross-validation.",
        AUTO,
        choices=list(SCALINGS),
    )
    max_length: int | None = option(default=None, **MAX_LENGTH)
    overwrite: bool = option(default=False, **OVERWRITE)

    def __post_init__(self) -> None:
        if not self.coverages or any(not 0 < each < 1 for each in self.coverages):
            shown = ", ".join(map(str, self.coverages)) or "none"
            raise UsageError(f"--coverages must be numbers between 0 and 1, such as 0.9, got {shown}.")
        check_least(self, max_length=1)


@dataclass
class CalibrationFiles(ExampleArguments):
    """The files, and the names of their columns."""

    calibration_file: str | None = option(default=None, **CALIBRATION_FILE)
    unfamiliar_file: str | None = option(
        "Out-of-distribution texts, in the same column or one per line, to choose the score that detects "
        "unfamiliar texts.",
        None,
    )

    def __post_init__(self) -> None:
        if self.calibration_file is None:
            raise UsageError(f"--calibration_file must be given. {CALIBRATE.with_example}")
        super().__post_init__()

    def file_of(self, split: str) -> tuple[str, str] | None:
        """See `ExampleArguments`."""
        name = "unfamiliar_file" if split == "away" else "calibration_file"
        file = getattr(self, name)
        return None if file is None else (name, file)


CALIBRATE = Command(
    "calibrate",
    "Calibrate the scores of a model, and let it return sets of labels and detect unfamiliar texts.\n"
    "Calibration needs at least a few hundred labelled examples that the model was not trained on.",
    "adapted --calibration_file held-out.csv --output_dir calibrated",
    (CalibrationArguments, CalibrationFiles),
    check=lambda *parsed: check_libraries(),
    left_out=lambda given: {"choice_columns", "doc_stride"},
)


def check_libraries() -> None:
    """Check that all optional libraries that the command needs are installed.

    Raises:
        MissingLibraryError: If one of them is missing.
    """
    require("calibrate", "datasets", "matplotlib", "sklearn", extra="adapt")
