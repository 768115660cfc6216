"""Bags of words: in pretraining, the mean states of texts predict which tokens these have (Ma et al., 2024).

Shapes: B batch, S sequence.
"""

from dataclasses import dataclass
from typing import Any

import torch

from ..checks import on_host
from ..forward_options import ForwardOptions
from ..label_checks import IGNORED, check_class_labels

# With these arguments, rows can have several texts, and so can they with a mask of four dimensions.
_PACKING = ("position_ids", "cu_seq_lens_q", "seq_idx")


class BagsOfWordsOptions(ForwardOptions, total=False):
    """Keyword arguments for bags of words, which both pretraining models take."""

    bow_tokens: torch.Tensor | None
    """(B, S) ids of the tokens that the mean state of each row, which has one text, should predict; -100 elsewhere."""
    bow_weight: float
    """The weight of the loss of this prediction, 1 by default. Evaluations leave it out.

    The loss is a mean over these texts. But with `num_items_in_batch`, which `Trainer` passes, each text counts by its
    share of all masked tokens, as for sentence order: if a quarter of the texts predict, the sum is a quarter.
    """


@dataclass(frozen=True)
class Bags:
    """The tokens that the vectors of some texts should predict (bag-of-words prediction, arXiv 2401.11248).

    Attributes:
        tokens: (B, S) token ids, -100 at those to ignore.
        texts: (B,) which texts predict their tokens, on the host.
        weight: The weight of the loss.
    """

    tokens: torch.Tensor
    texts: torch.Tensor
    weight: float

    def with_texts(self, needed: torch.Tensor | bool) -> torch.Tensor | bool:
        """Return the needed tokens and all tokens of these texts."""
        if needed is True:
            return True
        chosen = self.texts[:, None].expand(self.tokens.shape)
        return chosen if needed is False else needed | chosen


def take_bags(
    model: Any,
    shape: tuple[int, int] | None,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    kwargs: BagsOfWordsOptions,
) -> Bags | None:
    """Take the tokens that texts should predict out of the keyword arguments. Evaluations predict none.

    Args:
        model: The model.
        shape: (B, S), or None if the inputs are invalid.
        attention_mask: That of the batch.
        position_ids: Those of the batch.
        kwargs: The keyword arguments of the model.

    Raises:
        ValueError: If the tokens are outside the vocabulary or do not have the shape of the batch, or rows may have
            several texts.
    """
    tokens, weight = kwargs.pop("bow_tokens", None), kwargs.pop("bow_weight", 1.0)
    if tokens is None or shape is None:
        return None
    if attention_mask is not None and attention_mask.dim() != 2:
        raise ValueError(f"bow_tokens needs an attention_mask (B, S), got one with {attention_mask.dim()} dimensions.")
    packing = {**kwargs, "position_ids": position_ids}
    if given := [name for name in _PACKING if packing.get(name) is not None]:
        raise ValueError(f"bow_tokens needs rows with one text each; leave out {', '.join(given)}.")
    known = on_host(tokens)
    check_class_labels("bow_tokens", known, model.config.vocab_size, "vocab_size", shape)
    # Without any text, the head still computes an empty batch: sharded processes must make the same calls.
    texts = (known.long() != IGNORED).view(shape).any(dim=1)
    return Bags(tokens.view(shape), texts, weight) if model.training else None
