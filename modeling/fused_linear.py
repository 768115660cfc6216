"""Linear layers for inference on a CPU: bias and activation in the same pass as the product.

oneDNN applies both while a tile of the product is still in the cache; torch's own product first writes the bias to all
rows, and the activation reads and writes them again. The operator is what torch's compiler uses. It has no gradient, so
wherever it does not apply, the layers are called as they are.
"""

from __future__ import annotations

import torch
from torch import nn

# By `hidden_act`: the names that oneDNN has for an activation, and for the way to compute it.
_ACTIVATIONS = {
    "gelu": ("gelu", "none"),
    "gelu_new": ("gelu", "tanh"),
    "gelu_pytorch_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
    "silu": ("swish", ""),
}


def fused_linear(linear: nn.Linear, hidden_states: torch.Tensor) -> torch.Tensor:
    """linear(x); (..., in) to (..., out)."""
    if not (_is_plain(linear) and _is_inference(hidden_states)):
        return linear(hidden_states)
    return torch.ops.mkldnn._linear_pointwise(hidden_states, linear.weight, linear.bias, "none", [], "")


def fused_linear_activation(
    linear: nn.Linear, act: nn.Module, hidden_act: str, hidden_states: torch.Tensor
) -> torch.Tensor:
    """act(linear(x)), where `hidden_act` is the name of act; (..., in) to (..., out)."""
    if hidden_act not in _ACTIVATIONS or not (_is_plain(linear) and _is_inference(hidden_states)):
        return act(linear(hidden_states))
    name, algorithm = _ACTIVATIONS[hidden_act]
    return torch.ops.mkldnn._linear_pointwise(hidden_states, linear.weight, linear.bias, name, [], algorithm)


def _is_plain(linear: nn.Linear) -> bool:
    """Whether nothing hangs on a layer or stands in its place, such as an adapter, a hook or a quantised weight."""
    hooked = linear._forward_hooks or linear._forward_pre_hooks
    return type(linear) is nn.Linear and type(linear.weight) is nn.Parameter and not hooked


def _is_inference(hidden_states: torch.Tensor) -> bool:
    if hidden_states.device.type != "cpu" or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    if torch.compiler.is_compiling() or not torch.backends.mkldnn.is_available():
        return False
    return hidden_states.dtype == torch.float32 or (hidden_states.dtype == torch.bfloat16 and _HAS_BFLOAT16)


_HAS_BFLOAT16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
