"""Training for a given time instead of a number of steps: when to stop, what the learning rate is, a progress bar.

Everything is a plain callback and scheduler of torch and transformers, for an unmodified `Trainer`.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class TimeBudget(TrainerCallback):
    """Stops training after a number of seconds, and shows how they pass.

    Args:
        seconds: how long to train, counted from the first step.
        description: what the progress bar says.

    Raises:
        ValueError: if `seconds` is not positive, and when training starts in several processes, whose clocks differ.
    """

    def __init__(self, seconds: float, description: str = "Training") -> None:
        if not seconds > 0:
            raise ValueError(f"seconds must be positive, got {seconds}.")
        self.seconds = seconds
        self.description = description
        self.started: float | None = None
        self.elapsed = 0.0
        self.bar: tqdm[Any] | None = None

    def progress(self) -> float:
        """The share of the time that has passed, 0 to 1."""
        if self.started is not None:
            self.elapsed = time.perf_counter() - self.started
        return min(1.0, self.elapsed / self.seconds)

    def schedule(self, optimizer: torch.optim.Optimizer, warmup: float = 0.1) -> LambdaLR:
        """A learning rate that rises over the first share of the time and falls over the rest, both linearly."""

        def factor(step: int) -> float:
            progress = self.progress()
            # Never quite zero, so that even the first step moves the weights.
            return max(min(progress / warmup, (1 - progress) / (1 - warmup)), 1e-2)

        return LambdaLR(optimizer, factor)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts the clock."""
        if args.world_size > 1:
            raise ValueError(f"TimeBudget trains in one process, got {args.world_size}; use max_steps instead.")
        self.started = time.perf_counter()
        form = "{l_bar}{bar}| {n:.0f}/{total:.0f} s{postfix}"
        self.bar = tqdm(total=self.seconds, desc=self.description, bar_format=form)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Moves the bar, and stops training when the time is over."""
        if self.bar is not None:
            self.bar.update(self.progress() * self.seconds - self.bar.n)
        if self.progress() >= 1:
            control.should_training_stop = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Shows the latest loss beside the bar."""
        if self.bar is not None and logs and "loss" in logs:
            self.bar.set_postfix_str(f"step {state.global_step}, loss {float(logs['loss']):.3f}", refresh=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stops the clock."""
        self.progress()
        self.started = None
        if self.bar is not None:
            self.bar.close()
