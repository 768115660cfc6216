"""Weights in the layout of oneDNN's kernels, for inference on a CPU.

In every product, oneDNN otherwise rearranges parts of a weight or reads them in the layout of `nn.Linear`.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from .eligibility import can_fuse, onednn_product
from .shapes import suits_onednn

# Packing a weight takes as long as what it saves for about this many tokens, times four.
_LEAST_TOKENS = 20_000
# oneDNN chooses the layout for a number of rows; that for large batches also serves small ones.
_ROWS = 2048
# The model rounds larger numbers of rows itself.
_PADDED_BELOW, _ROW_STEP = 256, 8


class PrepackedWeight:
    """The copy of a weight in oneDNN's layout, made for the first product and again after the weight has changed.

    A layer with a `prepacked` attribute of this class uses the copy in inference. Copies of the layer make their own.

    Args:
        temporary: Whether copies of the layer have no prepacked weight.
    """

    def __init__(self, temporary: bool = False) -> None:
        self._temporary = temporary
        self._parts: dict[int, tuple[torch.Tensor, tuple[int, int], tuple[torch.Tensor, ...]]] = {}
        # The input, the weight and the bias, what `_changes` said, and the output.
        self._output: tuple[torch.Tensor, tuple[torch.Tensor | None, ...], tuple[Any, ...], torch.Tensor] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "PrepackedWeight | None":
        return None if self._temporary else PrepackedWeight()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(None) if self._temporary else PrepackedWeight, ()

    def parts(self, weight: torch.Tensor, number: int) -> tuple[torch.Tensor, ...]:
        """Return equal parts of a weight (out, in), each in oneDNN's layout."""
        changes = (weight._version, _steps.count)
        source, at, parts = self._parts.get(number, (None, None, ()))
        if source is None or at != changes or not weight.is_set_to(source):
            # The entry keeps the memory of the weight, which another weight could otherwise be given.
            source = weight.detach()
            parts = tuple(torch.ops.mkldnn._reorder_linear_weight(x.contiguous(), _ROWS) for x in source.chunk(number))
            # Another thread may do the same. Both copies are right.
            self._parts[number] = (source, changes, parts)
        return parts

    def output(
        self, linear: nn.Linear, x: torch.Tensor, compute: Callable[[nn.Linear, torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Return the last output of a layer if its input, weight and bias have the same values as then.

        Args:
            linear: The layer.
            x: Its input.
            compute: Computes the output otherwise.
        """
        kept = self._output
        if kept is not None:
            former, parameters, changes, output = kept
            same = all(map(_is_same, (linear.weight, linear.bias), parameters))
            if same and changes == _changes(linear, former) and x.dtype == output.dtype and torch.equal(x, former):
                return output
        output = compute(linear, x)
        parameters = (linear.weight.detach(), None if linear.bias is None else linear.bias.detach())
        self._output = (x, parameters, _changes(linear, x), output)
        return output

    def clear(self) -> None:
        """Free the copies."""
        self._parts.clear()
        self._output = None


class _Steps:
    """Counts the steps of all optimizers, because fused ones change weights without raising their version."""

    def __init__(self) -> None:
        self.count = 0
        register_optimizer_step_post_hook(self._add)

    def _add(self, *_: Any) -> None:
        self.count += 1


_steps = _Steps()


def number_of_steps() -> int:
    """Return how many steps all optimizers have made, some of which do not raise the version of the weights."""
    return _steps.count


def _changes(linear: nn.Linear, x: Any) -> tuple[Any, ...]:
    """Return what differs after the parameters of a layer or a tensor were changed in place."""
    tensors = (linear.weight, linear.bias, x)
    return _steps.count, *(None if each is None or each.is_inference() else each._version for each in tensors)


def _is_same(tensor: torch.Tensor | None, former: torch.Tensor | None) -> bool:
    return tensor is former is None or (tensor is not None and former is not None and tensor.is_set_to(former))


def is_prepacked(linear: nn.Linear) -> bool:
    """Return whether a layer has a prepacked weight."""
    return linear.__dict__.get("prepacked") is not None


def prepacked_parts(linear: nn.Linear, x: torch.Tensor, number: int = 1) -> tuple[torch.Tensor, ...] | None:
    """Return equal parts of the weight of a layer in oneDNN's layout, or None if the layer must use its weight.

    Args:
        linear: The layer.
        x: Its input, (..., in).
        number: The number of parts.
    """
    prepacked = linear.__dict__.get("prepacked")
    if prepacked is None:
        return None
    # Activation checkpointing runs a layer without gradients first, then with gradients, and expects the same result.
    if torch.is_grad_enabled() or linear.training:
        prepacked.clear()
        return None
    # In float32, torch's own product of few rows is faster. Tensors of inference mode do not count their changes.
    rows = x.numel() // x.shape[-1]
    if not can_fuse(linear, x) or not suits_onednn(rows, x.dtype) or linear.weight.is_inference():
        return None
    return prepacked.parts(linear.weight, number)


def kept_output(
    linear: nn.Linear, x: torch.Tensor, compute: Callable[[nn.Linear, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Return the output of a layer for an input that hardly ever changes, computed once if the layer is prepacked.

    Args:
        linear: The layer.
        x: Its input, (..., in).
        compute: Computes the output.
    """
    prepacked = linear.__dict__.get("prepacked")
    if prepacked is None:
        return compute(linear, x)
    if torch.is_grad_enabled() or linear.training:
        prepacked.clear()
        return compute(linear, x)
    if not can_fuse(linear, x) or linear.weight.is_inference():
        return compute(linear, x)
    output: torch.Tensor = prepacked.output(linear, x, compute)
    return output


def prepacked_product(linear: nn.Linear, x: torch.Tensor, act: nn.Module | None) -> torch.Tensor | None:
    """Compute act(linear(x)) with a prepacked weight, from (..., in) to (..., out); None without such a weight."""
    if not (parts := prepacked_parts(linear, x)):
        return None
    rows = x.reshape(-1, x.shape[-1])
    output = onednn_product(pad_rows(rows), parts[0], linear.bias, act)[: len(rows)]
    return output.view(*x.shape[:-1], output.shape[-1])


def pad_rows(x: torch.Tensor) -> torch.Tensor:
    """Pad the rows of (rows, in) to a multiple of eight if they are few, so that short texts need few kernels."""
    missing = -len(x) % _ROW_STEP
    return nn.functional.pad(x, (0, 0, 0, missing)) if missing and len(x) < _PADDED_BELOW else x


def prepack(modules: nn.Module, enabled: bool) -> None:
    """Let all linear layers use prepacked weights, or free those weights.

    A module whose class has an attribute `prepacked` gets one, too, so that it knows whether its layers use copies.
    """
    for module in modules.modules():
        module.__dict__.pop("prepacked", None)
        if enabled and (type(module) is nn.Linear or hasattr(type(module), "prepacked")):
            module.__dict__["prepacked"] = PrepackedWeight()


def prepacked_for(modules: nn.Module, tokens: int) -> AbstractContextManager[None]:
    """Prepack the weights of all linear layers within a block that computes so many tokens, if it saves time.

    Layers that are prepacked already are left alone.
    """
    if tokens >= _LEAST_TOKENS:
        return _prepacked(modules)
    return nullcontext()


@contextmanager
def _prepacked(modules: nn.Module) -> Iterator[None]:
    linears = [module for module in modules.modules() if type(module) is nn.Linear and not is_prepacked(module)]
    own = [(linear, PrepackedWeight(temporary=True)) for linear in linears]
    for linear, prepacked in own:
        linear.__dict__["prepacked"] = prepacked
    try:
        yield
    finally:
        for linear, prepacked in own:
            if linear.__dict__.get("prepacked") is prepacked:
                del linear.__dict__["prepacked"]


class PrepackingMixin:
    """Mixin that gives a model the method `prepack_weights`."""

    def prepack_weights(self, enabled: bool = True) -> None:
        """Make inference on a CPU faster with copies of the layers' weights in the layout that oneDNN reads.

        The first forward pass makes the copies, and makes them again after an optimizer, `load_state_dict` or
        another operation has changed the weights. After changes in place through `.data`, as when peft merges an
        adapter, call this method again. The copies take as much memory as the layers' weights, and results differ
        by rounding. The layers of a DeBERTa also keep their projections of the distances. Training, compiled
        models, models made in inference mode and other devices do not use them. In float32, short texts do not
        use the copies either. `encode` makes its own copies while it encodes many texts.

        Args:
            enabled: Whether to use copies; False frees them.
        """
        for name in ("layers", "position_bias"):
            if (module := getattr(cast(Any, self).base_model, name, None)) is not None:
                prepack(module, enabled)
