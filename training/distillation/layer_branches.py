"""Runs the layers of an encoder one by one, and records what their attention and feed-forward networks compute.

Shapes: B batch, S sequence, T tokens of a batch, D hidden, I inputs of the last matrix of a branch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from ...modeling.feed_forward import GatedMLP
from ...modeling.layers import PreNormLayer


@dataclass(frozen=True)
class Branch:
    """The attention or the feed-forward network of a layer, which adds its output to the hidden states.

    Attributes:
        norm: The norm before the branch or, with `norm_is_last`, after the addition.
        network: The branch.
        first: Its first matrix.
        last: Its last matrix.
        norm_is_last: Whether the norm comes after the addition.
        is_attention: Whether the branch is the attention.
    """

    norm: Any
    network: nn.Module
    first: nn.Linear
    last: nn.Linear
    norm_is_last: bool
    is_attention: bool


def branches_of(layer: Any) -> tuple[Branch, Branch]:
    """Return the attention and the feed-forward network of a layer."""
    attention, mlp, norm_is_last = layer.self_attn, layer.mlp, not isinstance(layer, PreNormLayer)
    first = mlp.gate_up_proj if isinstance(mlp, GatedMLP) else mlp.up_proj
    return (
        Branch(layer.attn_norm, attention, attention.qkv_proj, attention.o_proj, norm_is_last, True),
        Branch(layer.mlp_norm, mlp, first, mlp.down_proj, norm_is_last, False),
    )


class Seen:
    """What a branch computes for a batch.

    Attributes:
        given: (T, D) the inputs of the first matrix.
        inner: (T, I) the inputs of the last matrix.
        residual: (T, D) what the outputs are added to.
        total: (T, D) the sum.
        after: (T, D) what comes after the sum: its norm, or the sum itself.
    """

    given: torch.Tensor
    inner: torch.Tensor
    residual: torch.Tensor
    total: torch.Tensor
    after: torch.Tensor

    def __init__(self, branch: Branch) -> None:
        self._norm_is_last = branch.norm_is_last
        self._handles = [
            branch.network.register_forward_pre_hook(self._see_network),
            branch.norm.register_forward_hook(self._see_norm),
            branch.last.register_forward_hook(self._see_last),
        ]

    def __enter__(self) -> Seen:
        return self

    def __exit__(self, error: object, *details: object) -> None:
        for handle in self._handles:
            handle.remove()
        if error is not None:
            return
        if self._norm_is_last:
            self.residual, self.total, self.after = self._normed - self._output, self._normed, self._norm
        else:
            self.total = self.after = self._normed + self._output
            self.residual = self._normed

    def _see_network(self, module: Any, given: tuple[torch.Tensor, ...]) -> None:
        self.given = _rows(given[0])

    def _see_norm(self, module: Any, given: tuple[torch.Tensor], output: torch.Tensor) -> None:
        self._normed, self._norm = _rows(given[0]), _rows(output)

    def _see_last(self, module: Any, given: tuple[torch.Tensor], output: torch.Tensor) -> None:
        self.inner, self._output = _rows(given[0]), _rows(output)


def _rows(states: torch.Tensor) -> torch.Tensor:
    return states.flatten(0, -2).float()


class Pass:
    """A batch on its way through the layers of an encoder.

    Args:
        encoder: The encoder.
        layers: Its layers, in their order.
        batch: (B, S) its inputs.
        bf16: Whether to run the layers in bfloat16.

    Attributes:
        place: The index of the next layer.
        states: Its input.
    """

    def __init__(
        self, encoder: Any, layers: Sequence[Any], batch: Mapping[str, torch.Tensor], bf16: bool = False
    ) -> None:
        self.place, self._device, self._bf16 = 0, encoder.device.type, bf16
        self._calls: list[Callable[..., torch.Tensor]] = []
        # Only the input of the first layer is kept, since those of all layers take much memory.
        first: list[torch.Tensor] = []

        def see(layer: Any, given: tuple[torch.Tensor, ...], options: dict[str, Any]) -> None:
            hidden_states, *shared = given
            if not first:
                first.append(hidden_states)
            self._calls.append(lambda states: cast(torch.Tensor, layer(states, *shared, **options)))

        with ExitStack() as stack, self._autocast():
            # Layers can share their weights, which are one module then.
            for layer in dict.fromkeys(layers):
                stack.callback(layer.register_forward_pre_hook(see, with_kwargs=True).remove)
            encoder(**batch)
        self.states = first[0]

    def run(self, *branches: Branch) -> tuple[torch.Tensor, list[Seen]]:
        """Run the next layer, and return its output and what some of its branches compute."""
        with ExitStack() as stack, self._autocast():
            seen = [stack.enter_context(Seen(branch)) for branch in branches]
            states = self._calls[self.place](self.states)
        return states, seen

    def move(self, *branches: Branch) -> list[Seen]:
        """Run the next layer, go on to the one after it, and return what some of its branches compute."""
        self.states, seen = self.run(*branches)
        self.place += 1
        return seen

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device, torch.bfloat16, enabled=self._bf16)
