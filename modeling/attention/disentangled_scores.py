"""The products of tokens with distances that disentangled attention adds to the scores (He et al., 2021).

The score of query i and key j is (qᵢ·kⱼ + qᵢ·K(i - j) + kⱼ·Q(i - j)) / √(3C), where K and Q project the embedding of a
distance. The products of a query with K at all distances are a row. Its scores are a part of this row, which moves by
one place from query to query. They are therefore a view, and need no index of the size of the scores.

Shapes: N sequences, H heads, L length of the longest sequence, S length of the sequences at hand, C channels of a head.
"""

from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.utils.import_utils import is_tracing

from .heads import QKV
from .packed import Attention
from .position_bias import biased_mask

# Number of products with distances to compute at a time, so that they stay in the cache.
PRODUCTS_AT_ONCE = 1 << 18


class Tables(NamedTuple):
    """What a layer multiplies with tokens, scaled like the scores, (H, 2L, C) each, or None if it has no such product.

    Attributes:
        keys: K for the distances from L - 1 down to -L, which queries attend to.
        queries: Q for the distances from 1 - L to L, which attend to keys.
    """

    keys: torch.Tensor | None
    queries: torch.Tensor | None


class WithDistances:
    """An attention function that adds products with distances to the scores, a few sequences and heads at a time."""

    def __init__(self, attention: Attention, tables: Tables) -> None:
        self.attention, self.tables = attention, tables

    def __call__(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compute attention from query, key and value, (N, H, S, C) each.

        Args:
            module: The attention module, the first argument of the function.
            query: The queries.
            key: The keys.
            value: The values.
            mask: A mask of the padding, (N or 1, H or 1, S, S); None if it hides nothing.
            **kwargs: The keyword arguments of the function.

        Returns:
            The output (N, S, H, C), and the attention weights if the function returns them.
        """
        sequences, heads, length, _ = query.shape
        per_head = 2 * length * length
        if is_tracing(query) or sequences * heads * per_head <= PRODUCTS_AT_ONCE:
            return self._part(module, (query, key, value), mask, slice(None), **kwargs)
        outputs, weights = [], []
        rows = max(1, PRODUCTS_AT_ONCE // (heads * per_head))
        columns = heads if rows > 1 else max(1, PRODUCTS_AT_ONCE // per_head)
        for first in range(0, sequences, rows):
            some = slice(first, first + rows)
            parts = []
            for head in range(0, heads, columns):
                chosen = slice(head, head + columns)
                qkv = (query[some, chosen], key[some, chosen], value[some, chosen])
                parts.append(self._part(module, qkv, _chosen(mask, some, chosen), chosen, **kwargs))
            outputs.append(torch.cat([output for output, _ in parts], 2))
            if given := [weight for _, weight in parts if weight is not None]:
                weights.append(torch.cat(given, 1))
        return torch.cat(outputs), torch.cat(weights) if weights else None

    def _part(
        self, module: nn.Module, qkv: QKV, mask: torch.Tensor | None, heads: slice, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query, key, value = qkv
        tables = Tables(*(None if table is None else table[heads] for table in self.tables))
        bias = distance_scores(query.transpose(0, 1), key.transpose(0, 1), tables).transpose(0, 1)
        mask = bias if mask is None else biased_mask(mask, bias)
        return self.attention(module, query, key, value, mask, **kwargs)


def _chosen(mask: torch.Tensor | None, sequences: slice, heads: slice) -> torch.Tensor | None:
    if mask is None:
        return None
    mask = mask if mask.shape[0] == 1 else mask[sequences]
    return mask if mask.shape[1] == 1 else mask[:, heads]


def distance_scores(query: torch.Tensor, key: torch.Tensor, tables: Tables) -> torch.Tensor:
    """Return the scaled products with distances, from query and key (H, N, S, C) to (H, N, S, S)."""
    rows = table_rows(tables, query.shape[2])
    scores = None if tables.keys is None else moving(torch.matmul(query.flatten(1, 2), tables.keys[:, rows].mT), query)
    if tables.queries is None:
        assert scores is not None
        return scores
    products = torch.matmul(key.flatten(1, 2), tables.queries[:, rows].mT)
    turned = moving(products, key).mT
    return turned if scores is None else scores + turned


def table_rows(tables: Tables, length: int) -> slice:
    """Return the 2S rows of tables for the longest sequence that belong to a sequence of length S."""
    longest = next(table for table in tables if table is not None).shape[1] // 2
    return slice(longest - length, longest + length)


def moving(products: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return a view of the scores in products with distances, (H, N * S, 2S) to (H, N, S, S).

    Token i uses the columns from S - 1 - i on. In the flattened products, these are 2S - 1 places after those of the
    token before it.

    Args:
        products: The products.
        like: A tensor of shape (H, N, S, C).
    """
    length = like.shape[2]
    flat = products.view(*like.shape[:2], 2 * length * length)
    part = flat[..., length - 1 : length - 1 + length * (2 * length - 1)]
    return part.unflatten(-1, (length, 2 * length - 1))[..., :length]
