"""Attention over packed sequences on a CPU: a few padded groups, each computed with matrix products.

Short sequences cost more in calls than in arithmetic, and a training step makes several times as many calls as
inference. Sequences of similar lengths are therefore grouped and padded, only for the attention, and all groups are a
single autograd node. torch's fused kernel is not used: on a CPU it has no dropout, and its backward pass is slow in
bfloat16. In inference, only disentangled attention uses groups, because it computes more products.

Shapes: T packed tokens, P positions of all groups including padding, H heads, G heads of keys and values, R = H / G, C
channels of a head, N sequences of a group, L length of a group: of its longest sequence, possibly rounded up.
"""

from typing import Any

import torch
from torch import nn

from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ..cpu.dropout_masks import draw_kept, drop
from ..cpu.eligibility import is_eager_on_cpu
from ..cpu.shapes import parts_of_batch
from .banded import BandedAttention
from .groups import GroupPlan, Run, batched_product
from .heads import QKV, Rotation, join_heads, rotate_rows
from .packed import Attention, split

# The longest sequences to group in training and in inference without dropout. For longer ones, the fused kernel is
# faster and does not keep the attention weights. It has no dropout, so there is no limit with dropout.
LONGEST_TRAINED, LONGEST = 256, 128


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

    def from_heads(
        self,
        module: nn.Module,
        attention: Attention,
        heads: torch.Tensor,
        rotation: Rotation | None,
        window: int | None,
        *bias: torch.Tensor,
        **kwargs: Any,
    ) -> torch.Tensor:
        """See `PackedAttention.from_heads`. The groups rotate their own queries and keys, in training."""
        # `dense` has the same conditions, for a part of the sequences.
        dropout = kwargs["dropout"]
        trains = module.training or dropout
        short = (dropout or self.max_length <= LONGEST_TRAINED) and self.is_near(self.max_length, window)
        if not (trains and short) or kwargs.get("is_causal") or not is_eager_on_cpu(heads):
            return super().from_heads(module, attention, heads, rotation, window, *bias, **kwargs)
        plan = self._plan(self.runs, heads.shape[2] * (heads.shape[3] - 2), heads)
        # All layers with the same window have the same rotation.
        turned = rotation and self.once(
            ("rotation", window, heads.dtype), lambda: plan.rotations(rotation, heads.dtype)
        )
        options = (bias[0] if bias else None, turned, plan, window, kwargs["scaling"], dropout)
        output: torch.Tensor = _GroupedAttentionFunction.apply(heads.squeeze(0), *options)
        return output[None]

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
        options = (bias, self._plan(short, qkv[0].shape[1], qkv[0]), window, scaling, dropout)
        if tokens == len(qkv[0]):
            return self.groups(attention, qkv, *options)
        first, rest = split(qkv, [tokens, len(qkv[0]) - tokens])
        grouped = self.groups(attention, first, *options)
        return torch.cat([grouped, super().dense(module, attention, rest, runs[len(short) :], window, bias, **kwargs)])

    def _plan(self, runs: list[Run], heads: int, like: torch.Tensor) -> GroupPlan:
        plan: GroupPlan = self.once(("plan", len(runs)), lambda: GroupPlan(runs, heads, like))
        return plan

    def groups(
        self,
        attention: Attention,
        qkv: QKV,
        bias: torch.Tensor | None,
        plan: GroupPlan,
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
        return _GroupedAttentionFunction.apply(join_heads(*qkv), bias, None, plan, window, *options)


class _GroupedAttentionFunction(torch.autograd.Function):
    """The function softmax(QKᵀ · scaling + bias + mask) V with dropout of the weights.

    It takes the queries, keys and values of all heads in one tensor, (T, G, R + 2, C), and rotates queries and keys by
    the cosines and sines of the groups, (N, 1, L, C) each. The bias is (H, L, L) for the longest sequence. The output
    is (T, H, C).

    It is differentiable once, like torch's fused kernel. Gradients of gradients need `attn_implementation="eager"`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        heads: torch.Tensor,
        bias: torch.Tensor | None,
        rotations: list[Rotation] | None,
        plan: GroupPlan,
        window: int | None,
        scaling: float,
        dropout: float,
    ) -> torch.Tensor:
        ctx.plan, ctx.rotations, ctx.scaling, ctx.shape = plan, rotations, scaling, heads.shape[1:]
        ctx.bias_shape = bias if bias is None else bias.shape
        key_heads, repeats, channels = heads.shape[1], heads.shape[2] - 2, heads.shape[3]
        rows = plan.head_rows(key_heads, repeats)
        # Three tensors, because the backward pass needs the values, but not the queries and keys before their rotation.
        queries, keys, values = rows.spread(heads)
        placed = heads.new_empty(len(rows.queries), channels)
        saved: list[torch.Tensor | None] = []
        parts = zip(*map(plan.split, (queries, keys, values, placed)), plan.masks_of(window, heads), strict=True)
        for index, (query, key, value, output, mask) in enumerate(parts):
            count, length = plan.shapes[index]
            shape = (count, -1, length, channels)
            if rotations is not None:
                query, key = (rotate_rows(x.view(shape), *rotations[index]) for x in (query, key))
            query, key, value = (x.view(count * key_heads, -1, channels) for x in (query, key, value))
            sizes = [part * key_heads for part in parts_of_batch(count, heads.dtype)]
            weights = batched_product(query, key.mT, sizes, scaling)
            of_heads = weights.view(count, -1, length, length)
            if bias is not None:
                of_heads.add_(bias[:, :length, :length])
            if mask is not None:
                of_heads.add_(mask)
            weights = torch.softmax(weights, -1)
            used, kept = weights, None
            if dropout:
                kept, ctx.factor = draw_kept(weights.shape, dropout)
                used = drop(weights, kept, ctx.factor)
            batched_product(used, value, sizes, into=output.view_as(query))
            saved += [query, key, value, weights, kept]
        ctx.save_for_backward(*saved)
        return placed.index_select(0, rows.outputs).view(len(heads), -1, channels)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        plan, saved, (key_heads, members, channels) = ctx.plan, ctx.saved_tensors, ctx.shape
        rows = plan.head_rows(key_heads, members - 2)
        gradients = gradient.reshape(-1, channels).index_select(0, rows.queries)
        gradients.index_fill_(0, rows.padding, 0)
        of_bias = (
            gradient.new_zeros(ctx.bias_shape, dtype=torch.promote_types(gradient.dtype, torch.float32))
            if ctx.bias_shape
            else None
        )
        placed = gradient.new_empty(len(rows.taken), channels)
        parts = zip(*map(plan.split, (gradients, *rows.split(placed))), strict=True)
        for index, (grad, of_query, of_key, of_value) in enumerate(parts):
            count, length = plan.shapes[index]
            query, key, value, weights, kept = saved[5 * index : 5 * index + 5]
            used = weights if kept is None else drop(weights, kept, ctx.factor)
            grad = grad.view_as(query)
            sizes = [part * key_heads for part in parts_of_batch(count, grad.dtype)]
            batched_product(used.mT, grad, sizes, into=of_value.view_as(value))
            of_used = batched_product(grad, value.mT, sizes)
            if kept is not None:
                of_used = drop(of_used, kept, ctx.factor)
            of_scores = torch._softmax_backward_data(of_used, weights, -1, weights.dtype)
            if of_bias is not None:
                of_heads = of_scores.view(count, -1, length, length)
                of_bias[:, :length, :length] += of_heads.sum(0, dtype=of_bias.dtype)
            for into, scores, other in ((of_query, of_scores, key), (of_key, of_scores.mT, query)):
                shape = (len(scores), -1, channels)
                if ctx.rotations is None:
                    batched_product(scores, other, sizes, ctx.scaling, into=into.view(shape))
                else:
                    turned = batched_product(scores, other, sizes, ctx.scaling).view(count, -1, length, channels)
                    cos, sin = ctx.rotations[index]
                    rotate_rows(turned, cos, sin, direction=-1, into=into.view_as(turned))
        of_packed = placed.index_select(0, rows.places).view(-1, *ctx.shape)
        return of_packed, of_bias, None, None, None, None, None
