"""Callbacks that keep the best weights, stop early, place checkpoints, and stop a training that diverges."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainerCallback

from ....command_line import UsageError
from ....saving.finite_weights import find_non_finite, summarize_names
from ...checkpoints import CompleteCheckpointsCallback, checkpoint_at

_FILE = "best_weights"


class DivergedError(UsageError):
    """Raised when a loss or the weights become NaN or infinite."""


class BestWeights(TrainerCallback):
    """Callback that keeps the weights of the best evaluation and restores them when training ends.

    `metric_for_best_model` and `greater_is_better` of the `TrainingArguments` decide which evaluation is best. Ties go
    to the smaller loss, then to the later evaluation. Each process keeps its own shard of sharded weights and writes
    it into every checkpoint.

    Args:
        resume_from: The checkpoint that training resumes from.
        by_loss: Whether the loss alone decides.

    Attributes:
        epoch: The epoch of the kept weights.
    """

    def __init__(self, resume_from: Path | None = None, by_loss: bool = False) -> None:
        self.resume_from, self.by_loss = resume_from, by_loss
        self.best: tuple[float, float] | None = None
        self.epoch: float | None = None
        self.weights: dict[str, torch.Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Load the best weights from the checkpoint."""
        if self.resume_from is not None:
            kept = torch.load(self.resume_from / _file(args), map_location=args.device)
            self.best, self.epoch, self.weights = kept["best"], kept["epoch"], kept["weights"]

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Keep the weights if this evaluation is the best so far."""
        name = f"eval_{str(args.metric_for_best_model).removeprefix('eval_')}"
        value = (metrics or {}).get(name)
        # A NaN metric cannot be compared.
        if value is None or math.isnan(value):
            return
        value = 0.0 if self.by_loss else value
        score = (float(value if args.greater_is_better else -value), -float(metrics.get("eval_loss", 0.0)))
        if self.best is None or score >= self.best:
            self.best, self.epoch = score, state.epoch
            trained = ((name, weight) for name, weight in kwargs["model"].named_parameters() if weight.requires_grad)
            self.weights = {name: weight.detach().clone() for name, weight in trained}

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save the best weights with the checkpoint."""
        kept = {"best": self.best, "epoch": self.epoch, "weights": self.weights}
        torch.save(kept, checkpoint_at(args, state) / _file(args))

    @torch.no_grad()
    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Restore the best weights."""
        for name, weight in kwargs["model"].named_parameters():
            if name in self.weights:
                weight.copy_(self.weights[name])
        self.weights = {}


class EarlyStopping(EarlyStoppingCallback):
    """`EarlyStoppingCallback` of transformers that keeps its count of evaluations when a run is resumed.

    It does not warn that `load_best_model_at_end` is off, because `BestWeights` restores the best weights.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Restore the count from the checkpoint, or start at zero."""
        kept = state.stateful_callbacks[type(self).__name__]["attributes"]
        self.early_stopping_patience_counter = kept["early_stopping_patience_counter"]


class SaveAfterEvaluation(TrainerCallback):
    """Callback that saves checkpoints where a resumed training does not miss an evaluation.

    `Trainer` saves the last step of an epoch before it evaluates the epoch, and a training that resumes from there
    skips that evaluation. No checkpoint is saved after the very last step, since nothing remains to resume.
    """

    def __init__(self) -> None:
        self.waits = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Postpone the checkpoint to the end of the epoch if this is the epoch's last step."""
        if control.should_save and float(state.epoch).is_integer():
            self.waits, control.should_save = True, False
        self._skip_last(state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save the postponed checkpoint."""
        control.should_save = control.should_save or self.waits
        self.waits = False
        self._skip_last(state, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Skip the checkpoint if the evaluation ended the training."""
        self._skip_last(state, control)

    def _skip_last(self, state: Any, control: Any) -> None:
        if control.should_training_stop or state.global_step >= state.max_steps:
            control.should_save = False


class StopAtDivergence(TrainerCallback):
    """Callback that stops a training whose loss or weights become NaN or infinite, before they are saved.

    Add it after `BestWeights`, which may restore weights that are finite.
    """

    def __init__(self) -> None:
        self.before: list[str] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the weights that are not finite at the start, such as the embedding of an unused token."""
        self.before = find_non_finite(kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check the weights after the last step, which no later loss would reveal."""
        if names := [name for name in find_non_finite(kwargs["model"]) if name not in self.before]:
            raise DivergedError(
                f"the training has diverged: after step {state.global_step} the weights are NaN or infinite in "
                f"{summarize_names(names)}. Nothing is saved. Try a lower --learning_rate than {args.learning_rate:g}."
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Check the losses of training and evaluation."""
        for name in ("loss", "eval_loss", "train_loss"):
            value = (logs or {}).get(name)
            if isinstance(value, int | float) and not math.isfinite(value):
                raise DivergedError(
                    f"the training has diverged: at step {state.global_step} the loss is {value}. Nothing is saved. "
                    f"Try a lower --learning_rate than {args.learning_rate:g}."
                )


def callbacks_of(
    args: Any, keep_best: bool, patience: int | None, resume_from: Path | None, by_loss: bool = False
) -> list[TrainerCallback]:
    """Return the callbacks of one training, in the order in which they must be called.

    Args:
        args: The arguments of the `Trainer`.
        keep_best: Whether to restore the weights of the best evaluation at the end.
        patience: The number of evaluations without improvement after which training stops.
        resume_from: The checkpoint that training resumes from.
        by_loss: Whether the smallest loss is the best evaluation, whatever `metric_for_best_model`.
    """
    best: list[TrainerCallback] = [BestWeights(resume_from, by_loss)] if keep_best else []
    early: list[TrainerCallback] = [] if patience is None else [EarlyStopping(patience)]
    return [*best, StopAtDivergence(), *early, SaveAfterEvaluation(), CompleteCheckpointsCallback(args)]


def _file(args: Any) -> str:
    return f"{_FILE}-{args.process_index}.pt"
