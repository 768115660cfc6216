"""A `Trainer` for span extraction: a higher learning rate for the head, and spans instead of logits in evaluations."""

from __future__ import annotations

from typing import Any

import torch

from .hub_trainer import HubTrainer

# The factor of the learning rate of the head.
_HEAD_RATE = 2.0
# Spans with a lower probability are left out of evaluations.
_LEAST_PROBABILITY = 0.05


class ExtractionTrainer(HubTrainer):
    """See the module."""

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Create the optimizer, with own groups for the weights of the head."""
        optimizer: Any = super().create_optimizer(*args, **kwargs)
        model: Any = self.accelerator.unwrap_model(self.model)
        encoder = {id(weight) for weight in model.base_model.parameters()}
        for group in list(optimizer.param_groups):
            head = [weight for weight in group["params"] if id(weight) not in encoder]
            if head and len(head) < len(group["params"]):
                group["params"] = [weight for weight in group["params"] if id(weight) in encoder]
                optimizer.add_param_group({**group, "params": head, "lr": _HEAD_RATE * group["lr"]})
            elif head:
                group["lr"] *= _HEAD_RATE
        return optimizer

    def prediction_step(self, *args: Any, **kwargs: Any) -> tuple[Any, Any, Any]:
        """Return the loss, the most probable spans of each text (B, M, 4), and the labels."""
        loss, logits, labels = super().prediction_step(*args, **kwargs)
        return loss, None if logits is None else self._spans(logits), labels

    def _spans(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the first word, the last word, the label and the probability of at most one span a word."""
        scorer = self.accelerator.unwrap_model(self.model).scorer
        most = logits.shape[1]
        found = []
        for scores in logits.float().sigmoid():
            least = max(_LEAST_PROBABILITY, float(scores.flatten().topk(min(most, scores.numel())).values[-1]) - 1e-6)
            spans = scorer.spans(scores, least if scores.dim() == 3 and scores.shape[-1] != 3 else _LEAST_PROBABILITY)
            found.append(sorted(spans, key=lambda span: -span[3])[:most])
        padded = [[*spans, *[(-100, -100, -100, -100.0)] * (most - len(spans))] for spans in found]
        return torch.tensor(padded, dtype=torch.float32, device=logits.device)
