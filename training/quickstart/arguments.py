"""The options of `sequence-encoder quickstart`. Nothing here imports torch, so that mistakes are refused at once."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...command_line import UsageError
from ...command_line.parser import CommandLine

# On two cores of a server's CPU, the whole quickstart then takes less than five minutes.
PRETRAINING_STEPS, ADAPTATION_STEPS = 800, 200


@dataclass
class QuickstartArguments:
    """What a quickstart does.

    Raises:
        UsageError: for values that are not allowed.
    """

    pretraining_steps: int = field(default=PRETRAINING_STEPS, metadata={"help": "Steps of pretraining."})
    adaptation_steps: int = field(default=ADAPTATION_STEPS, metadata={"help": "Steps of each adaptation."})
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
        for name in ("pretraining_steps", "adaptation_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name} must be at least 1, got {getattr(self, name)}.")
        if self.from_checkpoint is not None and self.pretraining_steps != PRETRAINING_STEPS:
            raise UsageError("--pretraining_steps has no effect with --from, whose encoder is pretrained already.")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed must be from 0 to {2**32 - 1}, got {self.seed}.")


COMMAND_LINE = CommandLine(
    "quickstart",
    "Pretrain, adapt, save, reload and predict, on the docstrings of the installed libraries, in a few minutes.",
    "--pretraining_steps 2000 --output_dir quickstart-model",
    (QuickstartArguments,),
)
