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
from transformers.utils.import_utils import is_tracing

# The dicts of hooks for all modules. Older releases of torch have no public function that checks all of them.
_GLOBAL_HOOKS = (_global_forward_hooks, _global_forward_pre_hooks, _global_backward_hooks, _global_backward_pre_hooks)


def is_eager_on_cpu(*tensors: torch.Tensor) -> bool:
    """Return whether all tensors are plain CPU tensors, and nothing but autograd records the operations on them."""
    return (
        not is_tracing(tensors[0])
        and all(type(tensor) in (torch.Tensor, nn.Parameter) and tensor.device.type == "cpu" for tensor in tensors)
        and not torch._C._are_functorch_transforms_active()
        # Batched gradients (`is_grads_batched`) use these tensors.
        and not any(torch._C._functorch.is_legacy_batchedtensor(tensor) for tensor in tensors)
        and forward_ad._current_level < 0
    )


def is_unhooked(module: nn.Module) -> bool:
    """Return whether a module has no hooks and the `forward` of its class, which Accelerate replaces."""
    own = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    hooks = (*own, *_GLOBAL_HOOKS)
    return not any(hooks) and "forward" not in module.__dict__
