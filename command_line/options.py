"""The options that several commands share, with the same help everywhere: the metadata of dataclass fields."""

from __future__ import annotations

from dataclasses import MISSING, field
from typing import Any

from . import UsageError

MODEL = {"help": "Folder or Hub id of the model, of this package or of a family that `convert` supports."}
DEVICE = {"help": "Device to compute on, such as cuda:1 or cpu (default: a GPU if there is one)."}
DTYPE: dict[str, Any] = {
    "help": "dtype to compute in; auto chooses the fastest on the device. Exported models compute in float32.",
    "choices": ["auto", "float32", "bfloat16"],
}
MAX_LENGTH = {
    "help": "Maximum number of tokens of a text; longer texts are truncated (default: the limit of the model)."
}
MAX_TOKENS = {"help": "Maximum number of tokens in a batch; on a GPU, larger batches are faster."}
SECONDS = {"help": "Time budget of the whole run in seconds."}
EARLY_STOPPING_PATIENCE = {"help": "Stop after N evaluations without improvement."}
MATRYOSHKA_DIMS = {"help": "Sizes to which the embeddings can be truncated after training."}
OVERWRITE = {"help": "Replace the results of an earlier run."}
SEED = {"help": "Random seed."}
ENCODING = {"help": "Encoding of the files, such as latin-1 (default: utf-8)."}
DELIMITER = {"help": "Character that separates the columns of CSV files, such as ';' (default: ,)."}
DATASET_CONFIG_NAME = {"help": "Configuration of the dataset on the Hub."}
TEXT_COLUMN = {"help": "Column with the texts."}
TEXT_PAIR_COLUMN = {"help": "Column with the second text of each pair."}
THEN: dict[str, Any] = {
    "help": "Larger classifier with the same labels, which reads the texts that MODEL is not sure of.",
    "metavar": "MODEL",
}
LABEL_COLUMN = {"help": "Column with the labels."}
LABEL_NAMES_FILE = {"help": "File with the name of a label on each line."}
LABEL_DESCRIPTIONS = {
    "help": "JSON object, or a file with one, from the name of each label to the description that the model reads "
    'instead of it, such as \'{"price": "price in euro"}\'.',
}
CALIBRATION_TEXTS = {
    "help": "File with texts, one per line, to calibrate on: a few hundred that resemble the model's input (default: "
    "English sentences from Python's documentation)."
}
REPORT_TO = {
    "help": "Loggers: tensorboard, trackio, codecarbon (energy), others, or none.",
    "metavar": "LOGGER [LOGGER ...]",
}
# A value that is True, False or unset. Without a value, it is True.
TRUE_OR_FALSE: dict[str, Any] = {"nargs": "?", "const": True, "metavar": "{True,False}"}


def option(help: str, default: Any = MISSING, **metadata: Any) -> Any:
    """Return the dataclass field of an option.

    Args:
        help: The help.
        default: The default, which may be a list; without one, the option is required.
        **metadata: What else `HfArgumentParser` passes to `add_argument`, such as `choices` and `metavar`.
    """
    given: dict[str, Any] = {"default": default}
    if isinstance(default, list):
        given = {"default_factory": default.copy}
    return field(metadata={"help": help, **metadata}, **given)


def check_least(arguments: Any, **least: int) -> None:
    """Check that options are not too small.

    Args:
        arguments: A dataclass of options.
        **least: The smallest allowed value of each option. None is always allowed.

    Raises:
        UsageError: If an option is smaller, or NaN.
    """
    for name, smallest in least.items():
        value = getattr(arguments, name)
        if value is not None and not value >= smallest:
            raise UsageError(f"--{name} must be at least {smallest}, got {value}.")
