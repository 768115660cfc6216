"""Fits the layers of a student by least squares to what its teacher computes, before the student learns.

A kept layer must also do what the layers after it did, if these are left out. The last matrix of its feed-forward
network is fitted to that, without gradients: Shopkhoev et al. (2025, arXiv 2505.02819) fit one matrix for all layers
that are left out, and merge it into the same place. A layer without such a gap is fitted to its new inputs.

A narrower student has only some channels of the hidden states. The first matrix of each of its branches is the
teacher's, composed with a linear map that estimates all channels from the student's. The last matrices of both branches
and the norms after them are fitted to the channels that the student has.

Shapes: B batch, S sequence, T tokens of a batch, D hidden, d hidden of the student, I inputs and O outputs of a matrix.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional as F

from ...modeling import SequenceEncoderPreTrainedModel
from ...modeling.layers import PreNormLayer
from .layer_branches import Branch, Pass, Seen, branches_of
from .student import copy_weights

# The penalty for changing a weight, as a share of the mean square of its input over all tokens. It counts at least so
# many tokens for each input of a matrix, and for a norm, because a few short texts say little.
_RIDGE, _TOKENS_AN_INPUT, _TOKENS_OF_NORM = 0.1, 8, 1000
# How long a fit takes, in passes of the teacher. The teacher runs twice, and a narrower student eight times.
_PASSES, _PASSES_IF_NARROWER = 4, 9


@torch.no_grad()
def fit_layers(
    teacher: SequenceEncoderPreTrainedModel,
    student: SequenceEncoderPreTrainedModel,
    chosen: Sequence[int],
    batches: Sequence[Mapping[str, torch.Tensor]],
    channels: torch.Tensor | None = None,
    bf16: bool = False,
    seconds: float = math.inf,
) -> None:
    """Fit the layers of a student, one after the other.

    Layers that share their weights stay as they are, and so does a layer with a convolution beside it before a gap.

    Args:
        teacher: The teacher.
        student: A copy of it with some of its layers, which changes.
        chosen: The indices of the layers that the student has.
        batches: The inputs (B, S) of some texts, in random order.
        channels: (d,) the channels of the hidden states that a narrower student keeps.
        bf16: Whether to run the models in bfloat16.
        seconds: About how long the fit may take; only as many batches are used as there is time for.
    """
    encoder, smaller = cast(Any, teacher.base_model).eval(), cast(Any, student.base_model).eval()
    layers, own = encoder._layers_in_order(), smaller._layers_in_order()
    if len(set(own)) < len(own):
        return
    passes = _PASSES if channels is None else _PASSES_IF_NARROWER
    started, theirs = time.perf_counter(), []
    for batch in batches:
        theirs.append(Pass(encoder, layers, batch, bf16))
        if passes * (time.perf_counter() - started) > seconds:
            break
    ours = [Pass(smaller, own, batch, bf16) for batch in batches[: len(theirs)]]
    for layer, start, after in zip(own, chosen, [*chosen[1:], len(layers)], strict=True):
        end = layers[after - 1]
        wanted = [_wanted(each, layers, start, after, channels) for each in theirs]
        norm_is_first = isinstance(layer, PreNormLayer)
        if norm_is_first or type(layer) is type(end):
            if not norm_is_first:
                copy_weights(end.mlp_norm, layer.mlp_norm, channels)
            fitted = zip(_fitted_branches(layer, channels), _fitted_branches(layers[start], channels), strict=True)
            for index, (branch, original) in enumerate(fitted):
                rows = [(each, of_branches[index]) for each, of_branches in zip(ours, wanted, strict=True)]
                _fit_branch(branch, original, rows, channels)
        for each in ours:
            each.move()
    if channels is not None and isinstance(own[-1], PreNormLayer):
        pairs = zip(ours, theirs, strict=True)
        _fit_norm(smaller.norm, ((our.states, encoder.norm(their.states)[..., channels]) for our, their in pairs))


def _fitted_branches(layer: Any, channels: torch.Tensor | None) -> Sequence[Branch]:
    """Return the branches of a layer that are fitted: with all channels, the attention stays that of the teacher."""
    return branches_of(layer) if channels is not None else branches_of(layer)[1:]


class _Wanted(NamedTuple):
    """What a branch of a student should compute for a batch.

    Attributes:
        given: (T, D) what the first matrix of the teacher's branch sees.
        power: (I,) the mean squares of what its last matrix sees.
        total: (T, d) the sum of the output and what it is added to.
        after: (T, d) what comes after the sum.
    """

    given: torch.Tensor
    power: torch.Tensor
    total: torch.Tensor
    after: torch.Tensor


def _wanted(each: Pass, layers: Sequence[Any], start: int, after: int, channels: torch.Tensor | None) -> list[_Wanted]:
    """Move a batch of the teacher on to the layer `after`, and return what the student's branches should compute."""
    while each.place < start:
        each.move()
    seen = each.move(*_fitted_branches(layers[start], channels))
    reached = list(seen)
    while each.place < after:
        reached[-1:] = each.move(branches_of(layers[each.place])[1])
    kept = slice(None) if channels is None else channels
    parts = []
    for here, there in zip(seen, reached, strict=True):
        # In bfloat16, they take half of the memory.
        given, total, following = (x.bfloat16() for x in (here.given, there.total[:, kept], there.after[:, kept]))
        parts.append(_Wanted(given, here.inner.square().mean(0), total, following))
    return parts


def _fit_branch(
    branch: Branch, original: Branch, rows: Sequence[tuple[Pass, _Wanted]], channels: torch.Tensor | None
) -> None:
    """Fit a branch of a student to what it should compute for each batch.

    With all channels, the first matrix and the norm stay those of the teacher.
    """

    def runs() -> Iterable[tuple[Seen, _Wanted]]:
        for each, wanted in rows:
            yield each.run(branch)[1][0], wanted

    if channels is not None:
        # The queries, keys and values of the first heads.
        kept = torch.arange(branch.first.out_features, device=channels.device)
        if not branch.is_attention:
            power = torch.stack([wanted.power for _, wanted in rows]).mean(0)
            reach = original.last.weight[channels].square().sum(0)
            inner = (power * reach).topk(branch.last.in_features).indices.sort().values
            branch.last.weight.copy_(original.last.weight[channels][:, inner])
            # The gates come before what they multiply.
            halves = original.first.out_features // original.last.in_features
            kept = torch.cat([inner + half * original.last.in_features for half in range(halves)])
        _fit_first(branch.first, original.first, kept, runs(), channels)
    _fit_last(branch.last, runs())
    if channels is not None and branch.norm_is_last:
        _fit_norm(branch.norm, ((ours.total, wanted.after) for ours, wanted in runs()))


def _fit_first(
    matrix: nn.Linear,
    source: nn.Linear,
    kept: torch.Tensor,
    runs: Iterable[tuple[Seen, _Wanted]],
    channels: torch.Tensor,
) -> None:
    """Compose the `kept` outputs of the teacher's first matrix, `source`, with an estimate of its inputs."""
    copied = torch.zeros(len(channels), source.in_features, device=channels.device)
    copied[torch.arange(len(channels)), channels] = 1
    squares = _LeastSquares(copied, None if matrix.bias is None else copied.new_zeros(source.in_features))
    for ours, wanted in runs:
        squares.add(ours.given, wanted.given.float())
    estimate, offset = squares.solve()
    matrix.weight.copy_(source.weight[kept] @ estimate.T)
    if offset is not None:
        matrix.bias.copy_(source.bias[kept] + source.weight[kept] @ offset)


def _fit_last(matrix: nn.Linear, runs: Iterable[tuple[Seen, _Wanted]]) -> None:
    """Fit the last matrix of a branch to the sums that the branch should reach."""
    squares = _LeastSquares(matrix.weight.T, matrix.bias)
    for ours, wanted in runs:
        squares.add(ours.inner, wanted.total.float() - ours.residual)
    weight, bias = squares.solve()
    matrix.weight.copy_(weight.T)
    if bias is not None:
        matrix.bias.copy_(bias)


def _fit_norm(norm: Any, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Fit the weight and the bias of a norm for each channel, because it now averages over fewer channels.

    Args:
        norm: The norm.
        batches: The inputs and the outputs (..., d) of each batch.
    """
    plain, has_bias, tokens = copy.deepcopy(norm), getattr(norm, "bias", None) is not None, 0
    before = torch.stack([norm.weight, norm.bias] if has_bias else [norm.weight], 1)
    plain.weight.fill_(1)
    if has_bias:
        plain.bias.zero_()
    moments, products = before.new_zeros(*before.shape, before.shape[1]), torch.zeros_like(before)
    for given, wanted in batches:
        inputs = plain(given.float()).flatten(0, -2)[..., None]
        inputs = F.pad(inputs, (0, 1), value=1.0) if has_bias else inputs
        tokens += len(inputs)
        moments += torch.einsum("tdi,tdj->dij", inputs, inputs)
        products += torch.einsum("tdi,td->di", inputs, wanted.float().flatten(0, -2))
    counted = _RIDGE * max(tokens, _TOKENS_OF_NORM)
    penalty = before.new_tensor([counted, counted - _RIDGE * tokens][: before.shape[1]])
    found = torch.linalg.solve(moments + penalty.diag(), products + penalty * before)
    norm.weight.copy_(found[:, 0])
    if has_bias:
        norm.bias.copy_(found[:, 1])


class _LeastSquares:
    """Ridge regression that accumulates batches and penalises changes of the weights.

    Args:
        weight: (I, O) the weights to start from.
        bias: (O,) the bias to start from, or None for none.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        # The last row is the bias, whose input is 1.
        self.inputs, self.has_bias, self.tokens = len(weight), bias is not None, 0
        self.before = weight.clone() if bias is None else torch.cat([weight, bias[None]])
        self.moments = weight.new_zeros(len(self.before), len(self.before))
        self.products = torch.zeros_like(self.before)

    def add(self, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        """Add the inputs (T, I) and the outputs (T, O) of some tokens."""
        inputs = F.pad(inputs, (0, 1), value=1.0) if self.has_bias else inputs
        self.tokens += len(inputs)
        self.moments += inputs.T @ inputs
        self.products += inputs.T @ outputs

    def solve(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the fitted weights and bias, or those to start from if all inputs are zero."""
        counted = _RIDGE * max(self.tokens, _TOKENS_AN_INPUT * self.inputs)
        penalty = torch.full_like(
            self.moments.diagonal(), counted * float(self.moments.diagonal()[: self.inputs].mean()) / self.tokens
        )
        penalty[self.inputs :] = counted - _RIDGE * self.tokens
        root, info = torch.linalg.cholesky_ex(self.moments + penalty.diag())
        found = self.before if info else torch.cholesky_solve(self.products + penalty[:, None] * self.before, root)
        return found[: self.inputs], found[-1] if self.has_bias else None
