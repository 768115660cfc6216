"""Attention over packed sequences on a CPU: a few padded groups, each computed with matrix products.

Short sequences cost more in calls than in arithmetic, and a training step makes several times as many calls as
inference. Sequences of similar lengths are therefore grouped and padded, only for the attention, and all groups are a
single autograd node. torch's fused kernel is not used: on a CPU it has no dropout, and its backward pass is slow in
bfloat16. In inference, only disentangled attention uses groups, because it computes more products.

Shapes: T packed tokens, P positions of all groups including padding, H heads, G heads of keys and values, R = H / G, C
channels of a head, N sequences of a group, L length of a group: of its longest sequence, possibly rounded up.
"""

from itertools import accumulate
from typing import Any

import torch
from torch import nn

from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ..cpu.dropout_masks import draw_kept, drop
from ..cpu.eligibility import is_eager_on_cpu
from ..cpu.shapes import parts_of_batch, round_up_length
from .banded import BandedAttention
from .masks import additive_mask, within_window
from .packed import QKV, Attention, split

# The longest sequences to group in training and in inference without dropout. For longer ones, the fused kernel is
# faster and does not keep the attention weights. It has no dropout, so there is no limit with dropout.
LONGEST_TRAINED, LONGEST = 256, 128
# The cost of another group, as the number of attention weights that take equally long.
GROUP_COST = 40_000

Run = tuple[int, int]


def needs_groups(config: SequenceEncoderConfig, dtype: torch.dtype, dropout: float, training: bool) -> bool:
    """Return whether groups replace torch's fused kernel on a CPU.

    The kernel has no dropout, is slow in the backward pass in bfloat16, and gives a position bias no gradient.

    Args:
        config: The configuration of the model.
        dtype: The dtype of the attention.
        dropout: The dropout probability of the attention weights.
        training: Whether the model is in training mode.
    """
    slow = dtype == torch.bfloat16 and (training or config.position_bias == "disentangled")
    needed = bool(dropout) or slow or (training and config.position_bias is not None)
    return needed and config._attn_implementation == "sdpa"


class GroupedAttention(BandedAttention):
    """Like `BandedAttention`, but with dense attention over groups of sequences of similar lengths."""

    def dense(
        self,
        module: nn.Module,
        attention: Attention,
        qkv: QKV,
        runs: list[Run],
        window: int | None,
        bias: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """See `EqualLengthAttention.dense`."""
        scaling, dropout = kwargs["scaling"], kwargs["dropout"]
        longest = LONGEST_TRAINED if module.training else LONGEST
        short = [run for run in runs if dropout or run[1] <= longest]
        # In inference, a single run has nothing to group.
        few = len(short) < (1 if module.training or dropout else 2)
        # This layer may be on another device than the first one, for which this class was chosen.
        if few or kwargs.get("is_causal") or not is_eager_on_cpu(*qkv):
            return super().dense(module, attention, qkv, runs, window, bias, **kwargs)
        tokens = sum(count * length for count, length in short)
        plan = self.once(("plan", tokens), lambda: GroupPlan(short, qkv[0]))
        options = (bias, plan, window, scaling, dropout)
        if tokens == len(qkv[0]):
            return self.groups(attention, qkv, *options)
        first, rest = split(qkv, [tokens, len(qkv[0]) - tokens])
        grouped = self.groups(attention, first, *options)
        return torch.cat([grouped, super().dense(module, attention, rest, runs[len(short) :], window, bias, **kwargs)])

    def groups(
        self,
        attention: Attention,
        qkv: QKV,
        bias: torch.Tensor | None,
        plan: "GroupPlan",
        window: int | None,
        *options: float,
    ) -> torch.Tensor:
        """Compute attention within the groups of a plan, from (T, H, C) and (T, G, C) to (T, H, C).

        Args:
            attention: The function of the attention implementation.
            qkv: Query, key and value.
            bias: (H, L, L) position biases.
            plan: The plan.
            window: See `PackedAttention`.
            *options: The scaling of the scores and the dropout probability of the weights.
        """
        return _GroupedAttentionFunction.apply(*qkv, bias, plan, window, *options)


def group_runs(runs: list[Run], heads: int, dtype: torch.dtype) -> list[list[Run]]:
    """Group neighbouring runs at the least cost, which counts attention weights, with those of padding, and calls.

    Args:
        runs: The number of sequences and their length, for each run of sequences of equal length.
        heads: The number of attention heads.
        dtype: The dtype of the attention.
    """
    best: list[tuple[float, int]] = [(0.0, 0)]  # The least cost of the first runs, and where their last group starts.
    for end in range(1, len(runs) + 1):
        options, count, longest = [], 0, runs[end - 1][1]
        # The loop below runs for each pair of runs.
        rounds = padded_length(longest, 0, dtype) > longest
        for start in reversed(range(end)):
            count += runs[start][0]
            length = padded_length(longest, heads * count, dtype) if rounds else longest
            options.append((best[start][0] + GROUP_COST + heads * count * length**2, start))
        best.append(min(options))
    groups, end = [], len(runs)
    while end:
        start = best[end][1]
        groups.append(runs[start:end])
        end = start
    return groups[::-1]


def padded_length(longest: int, rows: int, dtype: torch.dtype) -> int:
    """Return the length of a group, given its longest sequence and its number of matrices of attention weights."""
    return round_up_length(longest, rows, dtype, torch.device("cpu"))


def batched_product(
    a: torch.Tensor, b: torch.Tensor, parts: list[int], scaling: float = 1.0, onto: torch.Tensor | None = None
) -> torch.Tensor:
    """Return scaling · ab for batches of matrices, computed in parts of the batch.

    Args:
        a: (n, i, j).
        b: (n, j, k).
        parts: The numbers of matrices in the parts.
        scaling: The factor.
        onto: (n, i, k), to which the product is added in place.
    """
    output = a.new_empty(len(a), a.shape[1], b.shape[2]) if onto is None else onto
    for x, y, into in zip(a.split(parts), b.split(parts), output.split(parts), strict=True):
        torch.baddbmm(into, x, y, beta=0 if onto is None else 1, alpha=scaling, out=into)
    return output


class GroupPlan:
    """The groups of sequences, and the positions of tokens in them.

    Attributes:
        shapes: (N, L) for each group.
        tokens: (P,) the token at each position, and an arbitrary token at padding. None if there is no padding.
        places: (T,) the position of each token. None if there is no padding.
    """

    def __init__(self, runs: list[Run], like: torch.Tensor) -> None:
        groups = group_runs(runs, like.shape[1], like.dtype)
        self.lengths = [
            torch.cat([torch.full((count,), length, device=like.device) for count, length in group]) for group in groups
        ]
        self.shapes = [
            (len(lengths), padded_length(int(lengths[-1]), like.shape[1] * len(lengths), like.dtype))
            for lengths in self.lengths
        ]
        self.masks: dict[tuple[int | None, torch.dtype], list[torch.Tensor | None]] = {}
        token_mask = [self._token_mask(*group) for group in zip(self.lengths, self.shapes, strict=True)]
        self.tokens = self.places = None
        if not all(bool(part.all()) for part in token_mask):
            everywhere = torch.cat([part.flatten() for part in token_mask])
            self.places = everywhere.nonzero().squeeze(1)
            self.tokens = everywhere.cumsum(0) - 1

    @staticmethod
    def _token_mask(lengths: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        return torch.arange(shape[1], device=lengths.device) < lengths[:, None]

    def masks_of(self, window: int | None, like: torch.Tensor) -> list[torch.Tensor | None]:
        """Return the additive mask of each group, (N or 1, 1, 1 or L, L); None if it hides nothing."""
        key = (window, like.dtype)
        if key not in self.masks:
            groups = zip(self.lengths, self.shapes, strict=True)
            self.masks[key] = [self._mask(*group, window, like) for group in groups]
        return self.masks[key]

    def _mask(
        self, lengths: torch.Tensor, shape: tuple[int, int], window: int | None, like: torch.Tensor
    ) -> torch.Tensor | None:
        allowed = []
        if bool(lengths[0] < shape[1]):
            allowed.append(self._token_mask(lengths, shape)[:, None, None])
        if window is not None and window < shape[1] - 1:
            index = torch.arange(shape[1], device=lengths.device)
            allowed.append(within_window(index[:, None], index, window)[None, None])
        if not allowed:
            return None
        return additive_mask(allowed[0] if len(allowed) == 1 else allowed[0] & allowed[1], like.dtype)

    def spread(self, packed: torch.Tensor) -> list[torch.Tensor]:
        """Distribute packed tokens (T, H, C) to the groups, (N * H, L, C) each."""
        return self.rows(packed if self.tokens is None else packed.index_select(0, self.tokens))

    def rows(self, placed: torch.Tensor) -> list[torch.Tensor]:
        """Split all positions (P, H, C) into the groups, (N * H, L, C) each."""
        return [
            part.unflatten(0, shape).transpose(1, 2).reshape(-1, shape[1], placed.shape[-1])
            for part, shape in zip(placed.split([n * length for n, length in self.shapes]), self.shapes, strict=True)
        ]

    def gather(self, rows: list[torch.Tensor], heads: int) -> torch.Tensor:
        """Collect the packed tokens (T, H, C) from the groups, (N * H, L, C) each."""
        channels = rows[0].shape[-1]
        ends = list(accumulate(n * length for n, length in self.shapes))
        placed = rows[0].new_empty(ends[-1], heads, channels)
        for part, shape, end in zip(rows, self.shapes, ends, strict=True):
            into = placed[end - shape[0] * shape[1] : end].unflatten(0, shape)
            into.copy_(part.unflatten(0, (shape[0], heads)).transpose(1, 2))
        return placed if self.places is None else placed.index_select(0, self.places)


class _GroupedAttentionFunction(torch.autograd.Function):
    """The function softmax(QKᵀ · scaling + bias + mask) V with dropout of the weights.

    The queries are (T, H, C), the keys and values (T, G, C), and the bias is (H, L, L) for the longest sequence.

    It is differentiable once, like torch's fused kernel. Gradients of gradients need `attn_implementation="eager"`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        bias: torch.Tensor | None,
        plan: GroupPlan,
        window: int | None,
        scaling: float,
        dropout: float,
    ) -> torch.Tensor:
        ctx.plan, ctx.scaling, ctx.heads, ctx.groups = plan, scaling, q.shape[1], k.shape[1]
        ctx.bias = bias if bias is None else bias.shape
        saved: list[torch.Tensor | None] = []
        outputs = []
        parts = zip(*(plan.spread(x) for x in (q, k, v)), plan.masks_of(window, q), plan.shapes, strict=True)
        for query, key, value, mask, shape in parts:
            query = query.reshape(len(key), -1, query.shape[-1])  # (N * G, R * L, C)
            sizes = [count * k.shape[1] for count in parts_of_batch(shape[0], q.dtype)]
            weights = batched_product(query, key.transpose(1, 2), sizes, scaling)
            of_heads = weights.view(shape[0], -1, shape[1], shape[1])  # (N, H, L, L)
            if bias is not None:
                of_heads.add_(bias[:, : shape[1], : shape[1]])
            if mask is not None:
                of_heads.add_(mask)
            weights = torch.softmax(weights, -1)
            used, kept = weights, None
            if dropout:
                kept, ctx.factor = draw_kept(weights.shape, dropout)
                used = drop(weights, kept, ctx.factor)
            outputs.append(batched_product(used, value, sizes).view(-1, shape[1], value.shape[-1]))
            saved += [query, key, value, weights, kept]
        ctx.save_for_backward(*saved)
        return plan.gather(outputs, ctx.heads)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        plan, saved = ctx.plan, ctx.saved_tensors
        if plan.places is not None:
            placed = gradient.new_zeros(len(plan.tokens), *gradient.shape[1:])
            gradient = placed.index_copy_(0, plan.places, gradient)
        gradients: tuple[list[torch.Tensor], ...] = ([], [], [])
        of_bias = (
            gradient.new_zeros(ctx.bias, dtype=torch.promote_types(gradient.dtype, torch.float32)) if ctx.bias else None
        )
        for index, (grad, shape) in enumerate(zip(plan.rows(gradient), plan.shapes, strict=True)):
            query, key, value, weights, kept = saved[5 * index : 5 * index + 5]
            used = weights if kept is None else drop(weights, kept, ctx.factor)
            grad = grad.reshape(query.shape)
            sizes = [count * ctx.groups for count in parts_of_batch(shape[0], grad.dtype)]
            of_value = batched_product(used.transpose(1, 2), grad, sizes)
            of_used = batched_product(grad, value.transpose(1, 2), sizes)
            if kept is not None:
                of_used = drop(of_used, kept, ctx.factor)
            of_scores = torch._softmax_backward_data(of_used, weights, -1, weights.dtype)
            of_query = batched_product(of_scores, key, sizes, ctx.scaling).view(-1, shape[1], key.shape[-1])
            of_key = batched_product(of_scores.transpose(1, 2), query, sizes, ctx.scaling)
            if of_bias is not None:
                of_heads = of_scores.view(shape[0], -1, shape[1], shape[1])
                of_bias[:, : shape[1], : shape[1]] += of_heads.sum(0, dtype=of_bias.dtype)
            for whole, part in zip(gradients, (of_query, of_key, of_value), strict=True):
                whole.append(part)
        heads = (ctx.heads, ctx.groups, ctx.groups)
        of_qkv = [plan.gather(whole, count) for whole, count in zip(gradients, heads, strict=True)]
        return *of_qkv, of_bias, None, None, None, None
