"""The options of `sequence-encoder quickstart`. Nothing here imports torch, so that errors show at once."""

from __future__ import annotations

from dataclasses import dataclass

from ...command_line import UsageError
from ...command_line.options import OVERWRITE, SEED, check_least, option
from ...command_line.parser import Command

# With these defaults, the quickstart takes four to five minutes on two cores of a server CPU.
PRETRAINING_STEPS, ADAPTATION_STEPS = 900, 300


@dataclass
class QuickstartArguments:
    """The options of the quickstart.

    Raises:
        UsageError: If a value is not allowed.
    """

    pretraining_steps: int = option("Number of pretraining steps.", PRETRAINING_STEPS)
    adaptation_steps: int = option("Number of steps of each adaptation.", ADAPTATION_STEPS)
    model: str | None = option("Folder or Hub id of the encoder to adapt, instead of pretraining one.", None)
    output_dir: str = option("Folder to write the classifier to.", "quickstart-model")
    overwrite: bool = option(default=False, **OVERWRITE)
    seed: int = option(default=0, **SEED)

    def __post_init__(self) -> None:
        check_least(self, pretraining_steps=1, adaptation_steps=1)
        if self.model is not None and self.pretraining_steps != PRETRAINING_STEPS:
            raise UsageError(
                "--pretraining_steps has no effect with MODEL, which is pretrained already; leave one of them out."
            )
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed must be from 0 to {2**32 - 1}, got {self.seed}.")


QUICKSTART = Command(
    "quickstart",
    "Pretrain, adapt, save and reload a small encoder in minutes, on the docstrings of the installed libraries.",
    "--pretraining_steps 2000 --output_dir quickstart-model",
    (QuickstartArguments,),
)
