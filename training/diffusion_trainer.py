"""A `Trainer` for masked diffusion, and the sums from which the bound of its evaluations is computed.

Shapes: B texts of a batch, L tokens of a text, n masks, V vocabulary.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from transformers import PreTrainedTokenizerBase

from ..modeling.heads.losses import cross_entropy_per_label
from ..modeling.heads.pretraining_heads import SequenceEncoderForMaskedLM
from ..modeling.label_checks import IGNORED
from .hub_trainer import HubTrainer

# The sums over a text that evaluations return, in this order.
SUMS = ("weighted_nats", "nats", "right", "masked")


def masked_sums(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, empty: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum the losses of the masked tokens of each text.

    Positions that stay empty count in the weighted loss only: they are easy, and any number of them may be.

    Args:
        logits: (n, V) logits of the masked tokens, text by text.
        labels: (B, L) labels of all tokens.
        weights: (B, L) weights of the labels, above 0 at masked tokens only.
        empty: The label of a position that stays empty.

    Returns:
        (B, 4) sums in the order of `SUMS`, and (B,) numbers of labels.
    """
    masked = weights > 0
    wanted = labels[masked]
    nats = cross_entropy_per_label(logits, wanted)
    text = (wanted != empty).to(nats)
    right = (logits.argmax(-1) == wanted) * text
    found = torch.stack([nats * weights[masked], nats * text, right, text], dim=1)
    sums = torch.zeros(len(labels), len(SUMS), dtype=found.dtype, device=found.device)
    counts = ((labels != IGNORED) & (labels != empty)).sum(dim=1)
    return sums.index_add(0, masked.nonzero()[:, 0], found), counts


class DiffusionTrainer(HubTrainer):
    """A `Trainer` whose evaluations only predict masked tokens, and return the results of `masked_sums`."""

    def __init__(self, model: Any = None, args: Any = None, **kwargs: Any) -> None:
        # `Trainer` removes other columns that are not named arguments of the model.
        args.label_names = ["labels", "label_weights"]
        super().__init__(model, args, **kwargs)

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Evaluate a batch, and return the loss and the results of `masked_sums`."""
        inputs = self._prepare_inputs(inputs)
        inner = next(part for part in model.modules() if isinstance(part, SequenceEncoderForMaskedLM))
        inner.predicts_labels_only = True
        try:
            with torch.no_grad(), self.compute_loss_context_manager():
                outputs = model(**inputs)
        finally:
            inner.predicts_labels_only = False
        if prediction_loss_only:
            return outputs.loss, None, None
        weights, tokenizer = inputs["label_weights"], cast("PreTrainedTokenizerBase", self.processing_class)
        # A compiled model predicts all tokens.
        logits = outputs.logits if outputs.logits.ndim == 2 else outputs.logits[weights > 0]
        found = masked_sums(logits, inputs["labels"], weights, tokenizer.pad_token_id)
        return outputs.loss, *found
