"""Decides when the package's CPU implementations may replace torch's.

They compute the same results, but only in eager mode. They do not support hooks, adapters, compilers, function
transforms and other ways to intercept a layer. If any of these is active, torch's implementation runs.
"""

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules.module import (
    _global_backward_hooks,
    _global_backward_pre_hooks,
    _global_forward_hooks,
    _global_forward_pre_hooks,
)
from transformers.activations import ACT2FN

from ..hooks import hooks_of
from .shapes import has_onednn

_PLAIN = (torch.Tensor, nn.Parameter)
# Batched gradients (`is_grads_batched`) use these tensors.
_is_batched = torch._C._functorch.is_legacy_batchedtensor
# The dicts of hooks for all modules. Older releases of torch have no public function that checks all of them.
_GLOBAL_HOOKS = (_global_forward_hooks, _global_forward_pre_hooks, _global_backward_hooks, _global_backward_pre_hooks)

# oneDNN's names for an activation and its algorithm, by the class of the activation. ReLU is missing, because oneDNN's
# maps NaN to zero, which would hide that a model diverged.
_ACTIVATIONS = {
    type(ACT2FN["gelu"]): ("gelu", "none"),
    type(ACT2FN["gelu_new"]): ("gelu", "tanh"),
    type(ACT2FN["gelu_pytorch_tanh"]): ("gelu", "tanh"),
    type(ACT2FN["silu"]): ("swish", ""),
}
NO_ACTIVATION = ("none", "")


def is_eager_on_cpu(*tensors: torch.Tensor) -> bool:
    """Return whether all tensors are plain CPU tensors, and nothing but autograd records the operations on them."""
    # Every linear layer asks this. `is_tracing` of transformers would take longer than the product of a short text.
    if is_recorded() or _is_transforming():
        return False
    for tensor in tensors:
        # Tensors of other tracers have their own types.
        if type(tensor) not in _PLAIN or tensor.device.type != "cpu" or _is_batched(tensor):
            return False
    return True


def is_recorded() -> bool:
    """Return whether a compiler or `torch.jit.trace` records the operations, and adds guards on sizes."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def _is_transforming() -> bool:
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_unhooked(module: nn.Module) -> bool:
    """Return whether a module has no hooks and the `forward` of its class, which Accelerate replaces."""
    return not any((*hooks_of(module), *_GLOBAL_HOOKS)) and "forward" not in module.__dict__


def onednn_activation(act: nn.Module | None) -> tuple[str, str] | None:
    """Return oneDNN's names for an activation and its algorithm, or None if oneDNN cannot compute it."""
    if act is None or type(act) not in _ACTIVATIONS or not is_unhooked(act):
        return None
    return _ACTIVATIONS[type(act)]


def can_fuse(linear: nn.Linear, hidden_states: torch.Tensor) -> bool:
    """Return whether oneDNN can compute a layer in place of its `forward`."""
    weight, bias, dtype = linear.weight, linear.bias, hidden_states.dtype
    return bool(
        (is_eager_on_cpu(hidden_states, weight) if bias is None else is_eager_on_cpu(hidden_states, weight, bias))
        and is_plain_linear(linear, hidden_states.shape[-1])
        and weight.dtype == dtype
        and (bias is None or bias.dtype == dtype)
        and has_onednn(dtype)
        and not torch.is_autocast_enabled("cpu")
    )


def is_plain_linear(linear: nn.Linear, channels: int) -> bool:
    """Return whether a layer only multiplies inputs of so many channels by its weight and adds its bias."""
    if type(linear) is not nn.Linear:
        return False
    weight, bias = linear.weight, linear.bias
    return bool(
        is_unhooked(linear)
        and weight.dim() == 2
        and weight.shape[1] == channels
        # oneDNN ignores the strides of a bias.
        and (bias is None or (bias.shape == weight.shape[:1] and bias.is_contiguous()))
    )


def onednn_product(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, act: nn.Module | None
) -> torch.Tensor:
    """Compute act(xWᵀ + b) by oneDNN, for x of shape (rows, in); `act` may be None."""
    name, algorithm = onednn_activation(act) or NO_ACTIVATION
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], algorithm)
