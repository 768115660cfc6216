"""The metrics of pretraining: loss and accuracy of each objective, speed, and a stop when the loss is not finite.

Hooks and callbacks measure everything on an unmodified `Trainer`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainerControl, TrainerState

from ...command_line import UsageError
from ...modeling.heads.losses import cross_entropy_per_label
from ...modeling.label_checks import IGNORED

# The values that are summed over the rows of batches.
_SUMS = (
    *("mlm_loss", "mlm_right", "mlm_count"),
    *("sop_loss", "sop_right", "sop_count"),
    *("bound_loss", "bound_count"),
    # The masked tokens that have logits, of which `mlm_right` are right.
    *("tokens", "mlm_judged"),
    # The masked tokens of the texts that predict their tokens, which weight these texts.
    *("bow_loss", "bow_count"),
)


class ObjectiveMetrics(TrainerCallback):
    """Callback that adds the loss and accuracy of each objective and the tokens per second to a `Trainer`'s logs.

    Losses and accuracies are means over the masked tokens and the pairs of segments that all processes saw since the
    last log. A model that returns no logits in training has no accuracy of masked tokens. Call `watch` with the trainer
    before it trains.

    Args:
        operations_per_token: The floating-point operations of training per token. None disables the share of the peak.
        peak: The floating-point operations per second of all devices together.
    """

    def __init__(self, operations_per_token: float | None = None, peak: float | None = None) -> None:
        self.operations_per_token, self.peak = operations_per_token, peak
        self.trainer: Trainer | None = None
        self._reset()

    def watch(self, trainer: Trainer) -> None:
        """Register as the trainer's second callback: after the one that sets `control`, before those that read logs."""
        self.trainer = trainer
        trainer.callback_handler.callbacks.insert(1, self)

    def _reset(self) -> None:
        self.sums: torch.Tensor | None = None
        self.since = self.ended = time.perf_counter()
        self.waited = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Register a forward hook on the model."""
        assert self.trainer is not None
        # The hook is on the outermost module, because inner modules may be compiled.
        model = self.trainer.model_wrapped
        self.hook = model.register_forward_hook(self._accumulate, with_kwargs=True)
        self._reset()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remove the hook."""
        self.hook.remove()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the time since the last step as time spent waiting for batches."""
        self.waited += time.perf_counter() - self.ended

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the training before it saves weights that are not finite.

        Raises:
            UsageError: If a loss, or a weight that would be saved, is NaN or infinite.
        """
        self._check(state, control)
        self.ended = time.perf_counter()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check the loss and the weights as after a step."""
        self._check(state, control)

    def _check(self, state: TrainerState, control: TrainerControl) -> None:
        # The weights at the end of the training are always saved.
        saves = control.should_save or control.should_training_stop
        if not (control.should_log or saves):
            return
        assert self.trainer is not None
        # The sums are None if a log has just consumed them.
        sums = torch.zeros((), device=self.trainer.args.device) if self.sums is None else self.sums.clone()
        if saves:
            for weight in self.trainer.model_wrapped.parameters():
                local = weight.to_local() if isinstance(weight, DTensor) else weight
                sums += 0 * local.detach().sum()
        if not self._sum_over_processes(sums).isfinite().all():
            raise UsageError(
                f"The loss became NaN or infinite at step {state.global_step} or shortly before. Nothing has been "
                "saved since. Lower --learning_rate or --max_grad_norm, or warm up longer, and continue with --resume."
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Add the metrics since the last log of training."""
        if logs is None or "loss" not in logs or self.sums is None:
            return
        sums = self._sum_over_processes(self.sums)
        seconds = time.perf_counter() - self.since
        added = means(sums)
        added["tokens_per_second"] = float(sums[_SUMS.index("tokens")]) / seconds
        added["loader_share"] = self.waited / seconds
        if self.operations_per_token and self.peak:
            added["share_of_peak"] = added["tokens_per_second"] * self.operations_per_token / self.peak
        logs.update(added)
        state.log_history[-1].update(added)
        self._reset()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Exclude the time of the evaluation from the training time."""
        self._exclude_time()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Exclude the time of saving from the training time."""
        self._exclude_time()

    def _exclude_time(self) -> None:
        now = time.perf_counter()
        self.since += now - self.ended
        self.ended = now

    @torch.no_grad()
    def _accumulate(self, model: torch.nn.Module, args: Any, inputs: Mapping[str, Any], outputs: Any) -> None:
        if not model.training:
            return
        sums = sums_of(inputs, outputs)
        self.sums = sums if self.sums is None else self.sums + sums

    def _sum_over_processes(self, sums: torch.Tensor) -> torch.Tensor:
        assert self.trainer is not None
        # Processes that share a model by tensor parallelism see the same batch.
        return self.trainer.accelerator.reduce(sums.clone(), "sum") / self.trainer.get_tp_size()


def sums_of(inputs: Mapping[str, Any], outputs: Any) -> torch.Tensor:
    """Compute the sums of `_SUMS` over a batch, (12,), for a masked language model or a model with both heads."""
    labels, weights = inputs["labels"], inputs.get("label_weights")
    device = labels.device
    predicted = labels != IGNORED
    count = predicted.sum()
    if weights is not None:
        predicted = predicted & (weights != 0)
    mask = inputs.get("attention_mask")
    # MPS does not support float64.
    exact = torch.float32 if device.type == "mps" else torch.float64
    values = dict.fromkeys(_SUMS, torch.zeros((), device=device))
    values["tokens"] = torch.as_tensor(labels.numel(), device=device) if mask is None else mask.sum()
    both = "sop_logits" in outputs
    items = inputs.get("num_items_in_batch")
    if (bags := outputs.get("bow_loss")) is not None:
        values["bow_count"] = predicted[(inputs["bow_tokens"] != IGNORED).any(dim=1)].sum()
        values["bow_loss"] = bags.detach().to(exact) * (values["bow_count"] if items is None else items)
    if inputs.get("mlm_weight", 1.0):
        loss = outputs["mlm_loss" if both else "loss"]
        if not both and bags is not None:
            loss = loss - inputs["bow_weight"] * bags
        total = loss.detach().to(exact) * (count if items is None else items)
        if weights is None:
            values["mlm_loss"] = total
        else:
            values["bound_loss"], values["bound_count"] = total, count
        values["mlm_count"] = predicted.sum()
        if (logits := outputs.get("prediction_logits" if both else "logits")) is not None:
            logits = logits if logits.dim() == 2 else logits[predicted]
            # `max` takes two thirds of the time of `argmax` on a CPU.
            values["mlm_right"] = (logits.max(-1).indices == labels[predicted]).sum()
            values["mlm_judged"] = values["mlm_count"]
    order = inputs.get("sentence_order_label")
    if both and order is not None:
        sop = _loss_right_count(outputs["sop_logits"].detach(), order).sum(dim=0)
        values["sop_loss"], values["sop_right"], values["sop_count"] = sop
    return torch.stack([values[name].to(exact) for name in _SUMS])


def means(sums: torch.Tensor | np.ndarray) -> dict[str, float]:
    """Compute the loss and accuracy of the trained objectives from the result of `sums_of` or `compact_logits`.

    With weighted labels, the loss is the bound of masked diffusion, in nats for each label.
    """
    totals, found = dict(zip(_SUMS, sums.tolist(), strict=False)), {}
    bounded = totals.get("bound_count")
    if bounded:
        found["bound"] = totals["bound_loss"] / bounded
    for name in ("mlm", "sop"):
        count = totals[f"{name}_count"]
        if count and not bounded:
            found[f"{name}_loss"] = totals[f"{name}_loss"] / count
        if judged := totals.get(f"{name}_judged", count):
            found[f"{name}_accuracy"] = totals[f"{name}_right"] / judged
    if count := totals.get("bow_count"):
        found["bow_loss"] = totals["bow_loss"] / count
    return found


def compact_logits(logits: Any, labels: Any) -> torch.Tensor:
    """Reduce logits (B, S, V) to sums for each row, (B, 6), as `preprocess_logits_for_metrics` of a `Trainer`."""
    tokens, order = labels if isinstance(labels, tuple | list) else (labels, None)
    # A model with one head returns its logits without a tuple.
    alone = (logits, None) if order is None else (None, logits)
    predictions, scores = logits if isinstance(logits, tuple | list) else alone
    sums = torch.zeros(len(tokens), 3, device=tokens.device)
    if predictions is not None:
        masked = tokens != IGNORED
        per_token = _loss_right_count(predictions[masked], tokens[masked])
        sums = sums.index_add(0, masked.nonzero()[:, 0], per_token)
    order_sums = torch.zeros_like(sums) if scores is None or order is None else _loss_right_count(scores, order)
    return torch.cat([sums, order_sums], dim=1)


def _loss_right_count(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return (n, 3) for n predictions: the loss, whether it is right, and whether it counts."""
    counts = labels != IGNORED
    losses = cross_entropy_per_label(logits, labels).float()
    return torch.stack([losses, (logits.argmax(-1) == labels).float() * counts, counts.float()], dim=1)


def objective_means(prediction: EvalPrediction) -> dict[str, float]:
    """Compute loss and accuracy of each objective, as `compute_metrics` of a `Trainer` with `compact_logits`."""
    return means(np.asarray(prediction.predictions, dtype=np.float64).sum(axis=0))
