"""The options of `sequence-encoder quickstart`. Nothing here imports torch, so that mistakes are refused at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ...command_line import UsageError
from ...command_line.parser import CommandLine


@dataclass
class QuickstartArguments:
    """What a quickstart does.

    Raises:
        UsageError: for values that are not allowed.
    """

    minutes: float = field(default=5.6, metadata={"help": "Minutes it takes in all; more of them train longer."})
    from_checkpoint: str | None = field(
        default=None,
        metadata={
            "aliases": ["--from"],
            "help": "Encoder to adapt instead of a new one: a folder or a Hub id.",
        },
    )
    output_dir: str = field(default="quickstart-model", metadata={"help": "Folder for the finished classifier."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the output folder if it exists."})
    seed: int = field(default=0, metadata={"help": "Seed of the split, the weights, the masks and the order."})

    def __post_init__(self) -> None:
        if not 2 <= self.minutes < math.inf:
            raise UsageError(f"--minutes must be at least 2, got {self.minutes}.")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed must be from 0 to {2**32 - 1}, got {self.seed}.")


COMMAND_LINE = CommandLine(
    "quickstart",
    "Pretrain, adapt, save, reload and predict, on the docstrings of the installed libraries, in a few minutes.",
    "--minutes 6 --output_dir quickstart-model",
    (QuickstartArguments,),
)
