"""The options of `sequence-encoder adapt` for the examples and their columns."""

from __future__ import annotations

from dataclasses import dataclass

from ....command_line import UsageError
from ....command_line.options import DATASET_CONFIG_NAME, LABEL_NAMES_FILE, option
from ....evaluation.calibration.arguments import CALIBRATION_FILE
from ....tasks.arguments import ExampleArguments


@dataclass
class TaskDataArguments(ExampleArguments):
    """The source of the examples, and the names of their columns.

    Raises:
        UsageError: If a value is not allowed.
    """

    otherwise = "Use --dataset_name for a dataset on the Hub."
    may_lack_labels = True

    train_file: str | None = option("Training examples: CSV, TSV, JSON (Lines), Parquet or Arrow.", None)
    validation_file: str | None = option("Validation examples, to select the best weights.", None)
    test_file: str | None = option("Test examples, to evaluate the selected weights.", None)
    calibration_file: str | None = option(f"{CALIBRATION_FILE['help']} (default: the validation examples)", None)
    label_names_file: str | None = option(
        f"{LABEL_NAMES_FILE['help'].rstrip('.')}, for training texts without labels.",
        None,
    )
    zero_shot_model: str | None = option(
        "Model for natural language inference that compares texts and names, instead of the encoder.", None
    )
    unlabelled_file: str | None = option("Texts without labels, used if they improve the model.", None)
    dataset_name: str | None = option("Dataset on the Hub, to use instead of files.", None, metavar="DATASET")
    dataset_config_name: str | None = option(default=None, **DATASET_CONFIG_NAME)
    validation_split: str = option("Validation split of the dataset on the Hub.", "validation")
    test_split: str = option("Test split of the dataset on the Hub.", "test")
    validation_share: float | None = option("Share of the training examples to hold out for validation.", None)

    def __post_init__(self) -> None:
        if (self.train_file is None) == (self.dataset_name is None):
            given = "neither" if self.train_file is None else "both"
            raise UsageError(f"exactly one of --train_file and --dataset_name is needed, got {given}.")
        if self.validation_share is not None and not 0 < self.validation_share < 1:
            raise UsageError(f"--validation_share must be between 0 and 1, got {self.validation_share}.")
        super().__post_init__()

    @property
    def lacks_labels(self) -> bool:
        """Whether no training text has a label."""
        return self.label_names_file is not None and self.unlabelled_file is None

    @property
    def finds_labels(self) -> bool:
        """Whether some or all training texts have no label."""
        return self.label_names_file is not None or self.unlabelled_file is not None

    def file_of(self, split: str) -> tuple[str, str] | None:
        """See `ExampleArguments`."""
        source = getattr(self, argument := f"{split}_file")
        return None if source is None else (argument, source)
