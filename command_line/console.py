"""The console output of a training run: one progress bar, and one table of losses and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, has_length

from .progress import Progress, say

# Number of rows for a training run without evaluations.
_ROWS = 20


def show_table(trainer: Trainer, columns: Sequence[str]) -> None:
    """Make a trainer print a table instead of dictionaries.

    Args:
        trainer: The trainer, before it trains.
        columns: The names of logged values, such as "loss" and "eval_accuracy". Cells without a value stay empty.
    """
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(TrainingTable(columns))


class TrainingTable(ProgressCallback):
    """The progress, and a table with one row for each evaluation.

    Without evaluations, the table has about twenty rows. Rows go to standard output, the progress to standard error.

    Args:
        columns: The names of logged values.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        super().__init__()
        self.columns = ("step", "epoch", *columns)
        self.row: dict[str, Any] = {}
        self.printed: list[str] = []
        self.last_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the bar at the current step."""
        self.row, self.printed = {}, []
        self.current_step = self.last_step = state.global_step
        if state.is_world_process_zero:
            self.training_bar = _progress(args, "Training", state.max_steps, "step", initial=state.global_step)

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Advance the bar of the evaluation, which disappears when the evaluation ends."""
        if self.prediction_bar is None and state.is_world_process_zero and has_length(eval_dataloader):
            self.prediction_bar = _progress(args, "Evaluating", len(eval_dataloader), "batch")
        super().on_prediction_step(args, state, control, eval_dataloader=eval_dataloader, **kwargs)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Collect the values of a row, and print the row when it is complete."""
        logged = {name: value for name, value in (logs or {}).items() if name in self.columns[2:]}
        if not logged or not state.is_world_process_zero:
            return
        self.row |= {**logged, "step": state.global_step, "epoch": f"{state.epoch or 0:.2f}"}
        evaluated = any(name.startswith("eval_") for name in logged)
        waited = state.global_step - self.last_step >= max(state.max_steps, 1) / _ROWS
        if evaluated or (waited and args.eval_strategy == IntervalStrategy.NO):
            self._print(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Print what was logged since the last row, and close the bar."""
        if state.is_world_process_zero:
            if self.row:
                self._print(state)
            super().on_train_end(args, state, control, **kwargs)

    def _print(self, state: TrainerState) -> None:
        widths = [max(len(name), len(str(state.max_steps)), 5) for name in self.columns]
        lines = [] if self.printed else [list(self.columns)]
        cells = [_text(self.row.get(name, "")) for name in self.columns]
        # The evaluation after the training often repeats the one at the last step.
        if not (self.printed and all(new in ("", old) for new, old in zip(cells, self.printed, strict=True))):
            lines.append(cells)
        for line in lines:
            say("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))
        self.row, self.printed, self.last_step = {}, cells, state.global_step


def _progress(args: TrainingArguments, description: str, total: int, unit: str, initial: int = 0) -> Any:
    return Progress(description, total, unit, initial=initial, show=not args.disable_tqdm)


def _text(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
