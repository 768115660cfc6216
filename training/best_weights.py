"""The best weights of a training, kept in memory: nothing is written while it trains. And its early end."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainerCallback


class BestWeights(TrainerCallback):
    """Keeps the trained weights of the best evaluation, and puts them back at the end of the training.

    What is best is `metric_for_best_model` and `greater_is_better` of the `TrainingArguments`; of equals the one with
    the smaller loss, or else the later one. Each process keeps its own part where weights are sharded.

    Attributes:
        epoch: of the weights that are kept.
    """

    def __init__(self) -> None:
        self.best: tuple[float, float] | None = None
        self.epoch: float | None = None
        self.weights: dict[str, torch.Tensor] = {}

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Keeps the weights if they are better than all before."""
        name = f"eval_{str(args.metric_for_best_model).removeprefix('eval_')}"
        value = (metrics or {}).get(name)
        # A metric that is no number is none.
        if value is None or math.isnan(value):
            return
        score = (value if args.greater_is_better else -value, -metrics.get("eval_loss", 0.0))
        if self.best is None or score >= self.best:
            self.best, self.epoch = score, state.epoch
            trained = ((name, weight) for name, weight in kwargs["model"].named_parameters() if weight.requires_grad)
            self.weights = {name: weight.detach().clone() for name, weight in trained}

    @torch.no_grad()
    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Puts the best weights back."""
        for name, weight in kwargs["model"].named_parameters():
            if name in self.weights:
                weight.copy_(self.weights[name])
        self.weights = {}


def callbacks_of(keep_best: bool, patience: int | None) -> list[TrainerCallback]:
    """Those that are asked for, to keep the best weights and to end early."""
    best: list[TrainerCallback] = [BestWeights()] if keep_best else []
    return best if patience is None else [*best, EarlyStopping(patience)]


class EarlyStopping(EarlyStoppingCallback):
    """That of transformers, which warns that nothing will bring the best weights back; here `BestWeights` does."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Checks nothing: the arguments were checked when they were read."""
