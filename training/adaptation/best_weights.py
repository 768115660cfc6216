"""Callbacks of an adaptation: the weights of the best evaluation, an early end, and checkpoints that fit both."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainerCallback

from ...command_line import UsageError
from ...saving.finite_weights import in_words, not_finite
from ..checkpoints import WholeCheckpoints, checkpoint_at

_FILE = "best_weights"


class DivergedError(UsageError):
    """A loss is infinite or no number."""


class BestWeights(TrainerCallback):
    """Keeps the trained weights of the best evaluation, and puts them back at the end of the training.

    What is best is `metric_for_best_model` and `greater_is_better` of the `TrainingArguments`; of equals the one with
    the smaller loss, or else the later one. Each process keeps its own part where weights are sharded, and writes it
    into every checkpoint.

    Args:
        resume_from: the checkpoint that training resumes from.

    Attributes:
        epoch: of the weights that are kept.
    """

    def __init__(self, resume_from: Path | None = None) -> None:
        self.resume_from = resume_from
        self.best: tuple[float, float] | None = None
        self.epoch: float | None = None
        self.weights: dict[str, torch.Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Loads what the checkpoint has."""
        if self.resume_from is not None:
            kept = torch.load(self.resume_from / _file(args), map_location=args.device)
            self.best, self.epoch, self.weights = kept["best"], kept["epoch"], kept["weights"]

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Keeps the weights if they are better than all before."""
        name = f"eval_{str(args.metric_for_best_model).removeprefix('eval_')}"
        value = (metrics or {}).get(name)
        # A metric that is no number is none.
        if value is None or math.isnan(value):
            return
        score = (float(value if args.greater_is_better else -value), -float(metrics.get("eval_loss", 0.0)))
        if self.best is None or score >= self.best:
            self.best, self.epoch = score, state.epoch
            trained = ((name, weight) for name, weight in kwargs["model"].named_parameters() if weight.requires_grad)
            self.weights = {name: weight.detach().clone() for name, weight in trained}

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Saves the best weights with the checkpoint."""
        kept = {"best": self.best, "epoch": self.epoch, "weights": self.weights}
        torch.save(kept, checkpoint_at(args, state) / _file(args))

    @torch.no_grad()
    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Puts the best weights back."""
        for name, weight in kwargs["model"].named_parameters():
            if name in self.weights:
                weight.copy_(self.weights[name])
        self.weights = {}


class EarlyStopping(EarlyStoppingCallback):
    """That of transformers, whose count of evaluations survives an interruption.

    It does not warn that nothing brings the best weights back: here `BestWeights` does.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Takes the count of the checkpoint, or starts at zero."""
        kept = state.stateful_callbacks[type(self).__name__]["attributes"]
        self.early_stopping_patience_counter = kept["early_stopping_patience_counter"]


class SaveAfterEvaluation(TrainerCallback):
    """Moves checkpoints to where a training can be resumed without missing an evaluation.

    `Trainer` saves the last step of an epoch before it evaluates the epoch, and a training that is resumed from there
    does not evaluate it any more. After the last step of all there is nothing to resume.
    """

    def __init__(self) -> None:
        self.waits = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Puts a checkpoint off to the end of an epoch, if this is its last step."""
        if control.should_save and float(state.epoch).is_integer():
            self.waits, control.should_save = True, False
        self._skip_last(state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Saves what was put off."""
        control.should_save = control.should_save or self.waits
        self.waits = False
        self._skip_last(state, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Skips the checkpoint if the evaluation has ended the training."""
        self._skip_last(state, control)

    def _skip_last(self, state: Any, control: Any) -> None:
        if control.should_training_stop or state.global_step >= state.max_steps:
            control.should_save = False


class StopAtDivergence(TrainerCallback):
    """Ends a training whose loss or weights have become infinite or no number, before they are saved.

    Add it after `BestWeights`, which may bring better weights back.
    """

    def __init__(self) -> None:
        self.before: list[str] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Notes what was so from the start, as the vector of a token that no text has can be."""
        self.before = not_finite(kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Checks the weights after the last step, which no loss shows."""
        if names := [name for name in not_finite(kwargs["model"]) if name not in self.before]:
            raise DivergedError(
                f"the training has diverged: after step {state.global_step} the weights are NaN or infinite in "
                f"{in_words(names)}. Nothing is saved. Try a lower --learning_rate than {args.learning_rate:g}."
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Checks the losses of training and evaluation."""
        for name in ("loss", "eval_loss", "train_loss"):
            value = (logs or {}).get(name)
            if isinstance(value, int | float) and not math.isfinite(value):
                raise DivergedError(
                    f"the training has diverged: at step {state.global_step} the loss is {value}. Nothing is saved. "
                    f"Try a lower --learning_rate than {args.learning_rate:g}."
                )


def callbacks_of(args: Any, keep_best: bool, patience: int | None, resume_from: Path | None) -> list[TrainerCallback]:
    """The callbacks of one training, in the order in which they have to be called.

    Args:
        args: those of the `Trainer`.
        keep_best: whether to end with the weights of the best evaluation.
        patience: evaluations without a better one after which training ends.
        resume_from: the checkpoint that training resumes from.
    """
    best: list[TrainerCallback] = [BestWeights(resume_from)] if keep_best else []
    early: list[TrainerCallback] = [] if patience is None else [EarlyStopping(patience)]
    return [*best, StopAtDivergence(), *early, SaveAfterEvaluation(), WholeCheckpoints(args)]


def _file(args: Any) -> str:
    return f"{_FILE}-{args.process_index}.pt"
