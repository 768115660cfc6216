"""Fits the layers of a student by least squares to what its teacher computes, before the student learns.

A kept layer must also do what the layers after it did, if these are left out. The last matrix of its feed-forward
network is fitted to that, without gradients: Shopkhoev et al. (2025, arXiv 2505.02819) fit one matrix for all layers
that are left out, and merge it into the same place. A layer without such a gap is fitted to its new inputs.

Shapes: B batch, S sequence, T tokens of a batch, D hidden, I inputs of the last matrix.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

import torch
from torch.nn import functional as F

from ...modeling import SequenceEncoderPreTrainedModel
from ...modeling.layers import PreNormLayer
from .student import copy_weights

# Draws the weights towards those of the teacher, as a share of the mean square of the inputs, and counts at least as
# many tokens for each input: a few short texts say little about a matrix.
_RIDGE, _TOKENS_AN_INPUT = 0.1, 8
# The time of a fit in passes of the teacher.
_PASSES = 4


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

    Layers that share their weights stay as they are, and so does a layer of another class than the last layer of the
    gap after it.

    Args:
        teacher: The teacher.
        student: A copy of it with some of its layers, which changes.
        chosen: The indices of the layers that the student has.
        batches: The inputs (B, S) of some texts, in random order.
        channels: (d,) the channels of the hidden states that a narrower student keeps.
        bf16: Whether to run the models in bfloat16.
        seconds: The time after which no more batches are read.
    """
    encoder, smaller = cast(Any, teacher.base_model).eval(), cast(Any, student.base_model).eval()
    layers, own = encoder._layers_in_order(), smaller._layers_in_order()
    if len(set(own)) < len(own):
        return
    replaced = [layers[index] for index in (*(after - 1 for after in chosen[1:]), len(layers) - 1)]
    device = encoder.device.type
    # A cache would keep the weights as they were before they are fitted.
    with torch.autocast(device, torch.bfloat16, enabled=bf16, cache_enabled=False):
        started, wanted = time.perf_counter(), []
        for batch in batches:
            wanted.append(_totals_of(encoder, replaced, batch, channels))
            if _PASSES * (time.perf_counter() - started) > seconds:
                break
        runs = [_calls_of(smaller, own, batch) for batch in batches[: len(wanted)]]
        states, calls = [given for given, _ in runs], [of_batch for _, of_batch in runs]
        for place, (layer, end) in enumerate(zip(own, replaced, strict=True)):
            here = [partial(of_batch[place], given) for of_batch, given in zip(calls, states, strict=True)]
            if type(layer) is type(end):
                if not isinstance(layer, PreNormLayer):
                    copy_weights(end.mlp_norm, layer.mlp_norm, channels)
                _fit(layer, here, [totals[place] for totals in wanted])
            if layer is not own[-1]:
                states = [run() for run in here]


class _Watch:
    """What a layer adds up after its feed-forward network, in its last call.

    Attributes:
        inputs: (T, I) the inputs of the last matrix of the network.
        output: (T, D) its outputs.
    """

    def __init__(self, layer: Any) -> None:
        self.norm_is_first = isinstance(layer, PreNormLayer)
        self.handles = [
            layer.mlp_norm.register_forward_pre_hook(self._see_norm),
            layer.mlp.down_proj.register_forward_hook(self._see_matrix),
        ]

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:
            handle.remove()

    @property
    def residual(self) -> torch.Tensor:
        """(T, D) what the outputs are added to."""
        return self.normed if self.norm_is_first else self.normed - self.output

    @property
    def total(self) -> torch.Tensor:
        """(T, D) the sum."""
        return self.normed + self.output if self.norm_is_first else self.normed

    def _see_norm(self, module: Any, given: tuple[torch.Tensor]) -> None:
        self.normed = _rows(given[0])

    def _see_matrix(self, module: Any, given: tuple[torch.Tensor], output: torch.Tensor) -> None:
        self.inputs, self.output = _rows(given[0]), _rows(output)


def _rows(states: torch.Tensor) -> torch.Tensor:
    return states.flatten(0, -2).float()


def _totals_of(
    encoder: Any, layers: Sequence[Any], batch: Mapping[str, torch.Tensor], channels: torch.Tensor | None
) -> list[torch.Tensor]:
    """Return what layers add up for a batch, in as much memory as a half takes."""
    with ExitStack() as stack:
        watches = [stack.enter_context(_Watch(layer)) for layer in layers]
        encoder(**batch)
        totals = [watch.total if channels is None else watch.total[:, channels] for watch in watches]
    return [total.to(torch.bfloat16) for total in totals]


def _calls_of(
    encoder: Any, layers: Sequence[Any], batch: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, list[Callable[..., torch.Tensor]]]:
    """Return the input of the first layer for a batch, and functions that call each layer with other hidden states."""
    first: list[torch.Tensor] = []  # The hidden states of all other layers are computed anew.
    calls: list[Callable[..., torch.Tensor]] = []

    def see(layer: Any, given: tuple[torch.Tensor, ...], options: dict[str, Any]) -> None:
        hidden_states, *shared = given
        if not calls:
            first.append(hidden_states)
        calls.append(lambda states: cast(torch.Tensor, layer(states, *shared, **options)))

    handles = [layer.register_forward_pre_hook(see, with_kwargs=True) for layer in layers]
    encoder(**batch)
    for handle in handles:
        handle.remove()
    return first[0], calls


def _fit(layer: Any, runs: Sequence[Callable[[], Any]], totals: Sequence[torch.Tensor]) -> None:
    """Fit the last matrix of a layer by ridge regression.

    Args:
        layer: The layer.
        runs: A function for each batch, which calls the layer.
        totals: (T, D) what the layer should add up for each batch.
    """
    matrix = layer.mlp.down_proj
    parts = [matrix.weight.T] if matrix.bias is None else [matrix.weight.T, matrix.bias[None]]
    # The last row is the bias, whose input is 1.
    before = torch.cat(parts)
    moments, products = before.new_zeros(len(before), len(before)), torch.zeros_like(before)
    tokens = 0
    with _Watch(layer) as seen:
        for run, total in zip(runs, totals, strict=True):
            run()
            inputs = seen.inputs if matrix.bias is None else F.pad(seen.inputs, (0, 1), value=1.0)
            tokens += len(inputs)
            with torch.autocast(inputs.device.type, enabled=False):
                moments += inputs.T @ inputs
                products += inputs.T @ (total.float() - seen.residual)
    counted = _RIDGE * max(tokens, _TOKENS_AN_INPUT * matrix.in_features)
    penalty = torch.full_like(
        moments.diagonal(), counted * float(moments.diagonal()[: matrix.in_features].mean()) / tokens
    )
    penalty[matrix.in_features :] = counted - _RIDGE * tokens
    root, info = torch.linalg.cholesky_ex(moments + penalty.diag())
    if info:  # All inputs are zero.
        return
    found = torch.cholesky_solve(products + penalty[:, None] * before, root)
    matrix.weight.copy_(found[: matrix.in_features].T)
    if matrix.bias is not None:
        matrix.bias.copy_(found[-1])
