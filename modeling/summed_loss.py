"""The sum that all losses of classes divide: the cross entropy of all labels.

Shapes: n labels, V classes.
"""

import torch
from torch.nn import functional as F


def summed_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, ignore_index: int, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the sum of -log softmax(logits)[label] over all labels except `ignore_index`.

    It is computed in float32, or in float64 if the logits are.

    Args:
        logits: (n, V).
        labels: (n,).
        ignore_index: The label to ignore.
        weights: (n,) factors of the terms of the sum, in float32.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if weights is None:
        return F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="sum")
    return (F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none") * weights).sum()
