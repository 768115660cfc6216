"""The progress bar of a training run: the steps, the remaining time and the latest loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments

from ...command_line.progress import Progress


class StepBar(ProgressCallback):
    """A progress bar with a description, instead of the dictionaries that `Trainer` prints.

    Args:
        description: The text to show before the bar.
    """

    def __init__(self, description: str) -> None:
        super().__init__()
        self.description = description

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the bar."""
        self.training_bar: Any = Progress(self.description, state.max_steps, "step")
        self.current_step = 0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the latest loss beside the steps."""
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix_str(f"loss {float(logs['loss']):.3f}")
