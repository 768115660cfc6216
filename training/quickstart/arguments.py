"""The options of `sequence-encoder quickstart`. Nothing here imports torch, so that errors show at once."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...command_line import UsageError
from ...command_line.options import check_least
from ...command_line.parser import CommandLine

# With these defaults, the quickstart takes four to five minutes on two cores of a server CPU.
PRETRAINING_STEPS, ADAPTATION_STEPS = 900, 300


@dataclass
class QuickstartArguments:
    """The options of the quickstart.

    Raises:
        UsageError: If a value is not allowed.
    """

    pretraining_steps: int = field(default=PRETRAINING_STEPS, metadata={"help": "Number of pretraining steps."})
    adaptation_steps: int = field(default=ADAPTATION_STEPS, metadata={"help": "Number of steps in each adaptation."})
    from_checkpoint: str | None = field(
        default=None,
        metadata={
            "aliases": ["--from"],
            "help": "Encoder to adapt instead of pretraining one: a folder or a Hub id.",
        },
    )
    output_dir: str = field(default="quickstart-model", metadata={"help": "Folder for the finished classifier."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the output folder if it exists."})
    seed: int = field(default=0, metadata={"help": "Seed of the split, the weights, the masks and the data order."})

    def __post_init__(self) -> None:
        check_least(self, pretraining_steps=1, adaptation_steps=1)
        if self.from_checkpoint is not None and self.pretraining_steps != PRETRAINING_STEPS:
            raise UsageError("--pretraining_steps has no effect with --from, because that encoder is pretrained.")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed must be from 0 to {2**32 - 1}, got {self.seed}.")


COMMAND_LINE = CommandLine(
    "quickstart",
    "Pretrain, adapt, save and reload a small encoder in minutes, on the docstrings of the installed libraries.",
    "--pretraining_steps 2000 --output_dir quickstart-model",
    (QuickstartArguments,),
)
