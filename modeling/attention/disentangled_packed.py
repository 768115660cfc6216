"""Disentangled attention over packed sequences, for inference, and for training on a CPU.

Shapes: T packed tokens, P positions of all groups including padding, N sequences of a group, H heads, L length of the
longest sequence of a group, M that of the batch, C channels of a head.
"""

from typing import Any, cast

import torch
from torch import nn

from ..cpu.dropout_masks import draw_kept, drop
from ..cpu.shapes import parts_of_batch
from .disentangled_scores import PRODUCTS_AT_ONCE, Tables, WithDistances, distance_scores, moving, table_rows
from .grouped import GroupedAttention
from .groups import GroupPlan, batched_product
from .heads import QKV
from .packed import Attention, PackedAttention
from .per_length import EqualLengthAttention


class DisentangledAttention(EqualLengthAttention):
    """Dense attention over each run of sequences of equal length, with products with distances."""

    def __call__(
        self, module: nn.Module, attention: Attention, qkv: QKV, window: int | None, *bias: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """See `PackedAttention`."""
        attention = cast(Any, module).distances.around(attention, module, *bias)
        return super().__call__(module, attention, qkv, window, **kwargs)


class GroupedDisentangledAttention(DisentangledAttention, GroupedAttention):
    """Like `DisentangledAttention`, but over groups of sequences of similar lengths, as in `GroupedAttention`."""

    # The tables of distances need queries, keys and values apart.
    from_heads = PackedAttention.from_heads

    def groups(
        self,
        attention: Attention,
        qkv: QKV,
        bias: torch.Tensor | None,
        plan: GroupPlan,
        window: int | None,
        *options: float,
    ) -> torch.Tensor:
        """See `GroupedAttention`. The products with distances replace the bias, and there is no window."""
        assert isinstance(attention, WithDistances)
        return _GroupedDisentangledFunction.apply(*qkv, *attention.tables, plan, *options)


def _heads_first(parts: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the groups, (N, L, H, C) each, as (H, N, L, C)."""
    return [part.permute(2, 0, 1, 3).contiguous() for part in parts]


def _packed(plan: GroupPlan, parts: list[torch.Tensor]) -> torch.Tensor:
    """Collect the packed tokens (T, H, C) from the groups, (H, N, L, C) each."""
    return plan.gather(torch.cat([part.permute(1, 2, 0, 3).flatten(0, 1) for part in parts]))


class _GroupedDisentangledFunction(torch.autograd.Function):
    """The function softmax(QKᵀ · scaling + products with distances + mask) V with dropout of the weights.

    Queries, keys and values are (T, H, C), and the tables of distances (H, 2M, C).

    It is differentiable once, like torch's fused kernel. Gradients of gradients need `attn_implementation="eager"`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        keys: torch.Tensor | None,
        queries: torch.Tensor | None,
        plan: GroupPlan,
        scaling: float,
        dropout: float,
    ) -> torch.Tensor:
        ctx.plan, ctx.scaling = plan, scaling
        saved: list[torch.Tensor | None] = [keys, queries]
        outputs = []
        groups = (_heads_first(plan.spread(x)) for x in (q, k, v))
        parts = zip(*groups, plan.masks_of(None, q), plan.shapes, strict=True)
        for query, key, value, mask, (count, length) in parts:
            weights = query.new_empty(*query.shape[:3], length)
            for heads in _few_heads(query):
                tables = Tables(*(None if table is None else table[heads] for table in (keys, queries)))
                weights[heads] = distance_scores(query[heads], key[heads], tables)
            sizes = parts_of_batch(query.shape[0] * count, query.dtype)
            scores = weights.flatten(0, 1)
            batched_product(query.flatten(0, 1), key.flatten(0, 1).mT, sizes, scaling, into=scores, beta=1)
            if mask is not None:
                weights.add_(mask.transpose(0, 1))
            scores = torch.softmax(scores, -1)
            used, kept = scores, None
            if dropout:
                kept, ctx.factor = draw_kept(scores.shape, dropout)
                used = drop(scores, kept, ctx.factor)
            outputs.append(batched_product(used, value.flatten(0, 1), sizes).unflatten(0, (-1, count)))
            saved += [query, key, value, scores, kept]
        ctx.save_for_backward(*saved)
        return _packed(plan, outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        plan, (keys, queries, *saved) = ctx.plan, ctx.saved_tensors
        wide = torch.promote_types(gradient.dtype, torch.float32)
        of_tables = [None if table is None else torch.zeros_like(table, dtype=wide) for table in (keys, queries)]
        gradients: tuple[list[torch.Tensor], ...] = ([], [], [])
        for index, grad in enumerate(_heads_first(plan.scatter(gradient))):
            query, key, value, weights, kept = saved[5 * index : 5 * index + 5]
            used = weights if kept is None else drop(weights, kept, ctx.factor)
            grad = grad.flatten(0, 1)
            sizes = parts_of_batch(len(grad), grad.dtype)
            of_value = batched_product(used.mT, grad, sizes)
            of_used = batched_product(grad, value.flatten(0, 1).mT, sizes)
            if kept is not None:
                of_used = drop(of_used, kept, ctx.factor)
            of_scores = torch._softmax_backward_data(of_used, weights, -1, weights.dtype)
            of_query = batched_product(of_scores, key.flatten(0, 1), sizes, ctx.scaling)
            of_key = batched_product(of_scores.mT, query.flatten(0, 1), sizes, ctx.scaling)
            of_query, of_key, of_value = (part.view_as(query) for part in (of_query, of_key, of_value))
            of_scores = of_scores.unflatten(0, query.shape[:2])
            for table, of_table, tokens, of_tokens, of_part in (
                (keys, of_tables[0], query, of_query, of_scores),
                (queries, of_tables[1], key, of_key, of_scores.mT),
            ):
                if table is not None:
                    _add_gradients(table, of_table, tokens, of_tokens, of_part)
            for whole, part in zip(gradients, (of_query, of_key, of_value), strict=True):
                whole.append(part)
        of_qkv = [_packed(plan, whole) for whole in gradients]
        return *of_qkv, *(None if of is None else of.to(gradient.dtype) for of in of_tables), None, None, None


def _add_gradients(
    table: torch.Tensor, of_table: Any, tokens: torch.Tensor, of_tokens: torch.Tensor, of_scores: torch.Tensor
) -> None:
    """Add the gradients of a table (H, 2M, C) and of the tokens (H, N, L, C) that it is multiplied with."""
    rows = table_rows(Tables(table, None), tokens.shape[2])
    for heads in _few_heads(tokens):
        some = tokens[heads]
        # The scores are a part of the products. The gradient of the rest is zero.
        of_products = some.new_zeros(len(some), some.shape[1] * some.shape[2], 2 * some.shape[2])
        moving(of_products, some).copy_(of_scores[heads])
        of_tokens[heads].flatten(1, 2).baddbmm_(of_products, table[heads, rows])
        of_table[heads, rows] += torch.bmm(of_products.mT, some.flatten(1, 2))


def _few_heads(tokens: torch.Tensor) -> list[slice]:
    """Return slices of heads whose products with distances fit the cache, for tokens (H, N, L, C)."""
    heads, count, length, _ = tokens.shape
    step = max(1, PRODUCTS_AT_ONCE // (2 * count * length * length))
    return [slice(first, first + step) for first in range(0, heads, step)]
