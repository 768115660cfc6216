"""Linear layers for inference on a CPU: bias and activation in the same pass as the product.

oneDNN applies both while a tile of the product is still in the cache; torch's own product first writes the bias to all
rows, and the activation reads and writes them again. The operator is what torch's compiler uses. It knows nothing of
gradients, hooks and what else can stand in the place of a layer; where there is any, the layers are called as they are.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook
from transformers.activations import ACT2FN
from transformers.utils.import_utils import is_tracing

# By the class of the activation: the names that oneDNN has for it, and for the way to compute it. Not ReLU, which makes
# zero of NaN there, and would hide a model that diverged.
_ACTIVATIONS = {
    type(ACT2FN["gelu"]): ("gelu", "none"),
    type(ACT2FN["gelu_new"]): ("gelu", "tanh"),
    type(ACT2FN["gelu_pytorch_tanh"]): ("gelu", "tanh"),
    type(ACT2FN["silu"]): ("swish", ""),
}


def fused_linear(linear: nn.Linear, hidden_states: torch.Tensor) -> torch.Tensor:
    """linear(x); (..., in) to (..., out)."""
    if not _can_fuse(linear, hidden_states):
        return linear(hidden_states)
    return torch.ops.mkldnn._linear_pointwise(hidden_states, linear.weight, linear.bias, "none", [], "")


def fused_linear_activation(linear: nn.Linear, act: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
    """act(linear(x)); (..., in) to (..., out)."""
    if type(act) not in _ACTIVATIONS or not _is_untouched(act) or not _can_fuse(linear, hidden_states):
        return act(fused_linear(linear, hidden_states))
    name, algorithm = _ACTIVATIONS[type(act)]
    return torch.ops.mkldnn._linear_pointwise(hidden_states, linear.weight, linear.bias, name, [], algorithm)


def _can_fuse(linear: nn.Linear, hidden_states: torch.Tensor) -> bool:
    weight = linear.weight
    return bool(
        not torch.is_grad_enabled()
        # The first pass of a checkpointed layer has no gradients either, and the second must give the same.
        and not linear.training
        and type(linear) is nn.Linear
        and type(weight) is nn.Parameter
        and weight.device.type == hidden_states.device.type == "cpu"
        and weight.dtype == hidden_states.dtype
        and weight.shape[1] == hidden_states.shape[-1]
        and (weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and _HAS_BFLOAT16))
        and _is_untouched(linear)
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled("cpu")
        and not is_tracing(hidden_states)
        and forward_ad._current_level < 0
    )


def _is_untouched(module: nn.Module) -> bool:
    """Whether nothing hangs on a module, and its `forward` is that of its class (Accelerate puts another there)."""
    hooked = module._forward_hooks or module._forward_pre_hooks or _has_any_global_hook()
    return not hooked and "forward" not in module.__dict__


_HAS_BFLOAT16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
