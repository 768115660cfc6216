"""When code written for a CPU and for eager mode may stand in the place of torch's own.

It computes the same, but knows nothing of hooks, adapters, compilers, function transforms and what else can take hold
of a layer: where there is any, torch's own is called as it is.
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

# Those of all modules, as dicts that torch fills. Its function that looks at all of them is missing in older releases.
_GLOBAL_HOOKS = (_global_forward_hooks, _global_forward_pre_hooks, _global_backward_hooks, _global_backward_pre_hooks)


def is_eager_on_cpu(*tensors: torch.Tensor) -> bool:
    """Whether tensors are plain ones on a CPU, and nothing but autograd looks at what is done with them."""
    return (
        not is_tracing(tensors[0])
        and all(type(tensor) in (torch.Tensor, nn.Parameter) and tensor.device.type == "cpu" for tensor in tensors)
        and not torch._C._are_functorch_transforms_active()
        # Many gradients at once (is_grads_batched) come as such.
        and not any(torch._C._functorch.is_legacy_batchedtensor(tensor) for tensor in tensors)
        and forward_ad._current_level < 0
    )


def is_unhooked(module: nn.Module) -> bool:
    """Whether nothing hangs on a module, and its `forward` is that of its class (Accelerate puts another there)."""
    own = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    hooks = (*own, *_GLOBAL_HOOKS)
    return not any(hooks) and "forward" not in module.__dict__
