"""The progress bar of a training run: the steps, the remaining time and the latest loss."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments


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
        """Start the bar. In a log file, it updates rarely, because each update is a new line."""
        interval = 0.1 if sys.stderr.isatty() else 30
        self.training_bar = tqdm(
            total=state.max_steps, desc=self.description, dynamic_ncols=True, mininterval=interval, maxinterval=interval
        )
        self.current_step = 0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the latest loss next to the bar."""
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix_str(f"loss {float(logs['loss']):.3f}", refresh=False)
