"""The best weights of a training, kept in memory: nothing is written while it trains."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback


class BestWeights(TrainerCallback):
    """Keeps the trained weights of the best evaluation, and puts them back at the end of the training.

    What is best is `metric_for_best_model` and `greater_is_better` of the `TrainingArguments`. Each process keeps its
    own part where weights are sharded.
    """

    def __init__(self) -> None:
        self.best: float | None = None
        self.weights: dict[str, torch.Tensor] = {}

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Keeps the weights if they are better than all before."""
        name = str(args.metric_for_best_model)
        value = (metrics or {}).get(name if name.startswith("eval_") else f"eval_{name}")
        if value is None or (not state.is_local_process_zero and value is None):
            return
        better = self.best is None or (value > self.best if args.greater_is_better else value < self.best)
        if better:
            self.best = value
            self.weights = {
                name: weight.detach().clone()
                for name, weight in kwargs["model"].named_parameters()
                if weight.requires_grad
            }

    @torch.no_grad()
    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Puts the best weights back."""
        for name, weight in kwargs["model"].named_parameters():
            if name in self.weights:
                weight.copy_(self.weights[name])
        self.weights = {}
