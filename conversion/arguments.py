"""The options of `sequence-encoder convert` and `sequence-encoder inspect`, and what `inspect` runs.

Nothing here imports torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from ..command_line.options import OVERWRITE, option
from ..command_line.parser import Command
from ..command_line.quiet import quiet_libraries
from ..command_line.without_torch import without_torch
from .families import FAMILY_MODULES


@dataclass
class ConvertArguments:
    """What to convert, and where to write it."""

    model: str = option("Folder or Hub id of the model.")
    output_dir: str = option("Folder to write the converted model to.")
    to: str | None = option(
        "Family to convert a SequenceEncoder back to.", None, choices=list(FAMILY_MODULES), metavar="FAMILY"
    )
    base_model: bool = option("Convert only the encoder, without its head.", False)
    overwrite: bool = option(default=False, **OVERWRITE)


@dataclass
class InspectArguments:
    """What to inspect."""

    model: str = option("Folder or Hub id of the model.")
    json: bool = option("Print JSON, for scripts.", False)


CONVERT = Command(
    "convert",
    "Convert a model of another family to a SequenceEncoder, or convert one back with --to.",
    "google-bert/bert-base-uncased --output_dir converted",
    (ConvertArguments,),
)
INSPECT = Command(
    "inspect",
    "Show whether a model can be converted, and how large it is, from its config.json alone.",
    "google-bert/bert-base-uncased",
    (InspectArguments,),
    needs_models=lambda options: False,
)


def inspect_command(options: InspectArguments) -> None:
    """Run `sequence-encoder inspect`."""
    with without_torch(), quiet_libraries():
        from .inspection import inspect

        inspection = inspect(options.model)
    print(json.dumps(inspection.as_dict(), indent=2) if options.json else inspection)
