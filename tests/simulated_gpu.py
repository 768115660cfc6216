"""Simulates a GPU: a device whose tensors the CPU computes, and which refuses what a real GPU refuses.

An operation on tensors of both devices fails, as on a GPU. `synchronizations` lists the operations for which the host
would wait for the device. torch's kernel for attention over packed sequences, which needs a GPU, is replaced by a
reference that checks what the kernel requires. Everything around the kernel is torch's own: the public function, its
checks and its gradients.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _get_current_dispatch_mode,
    return_and_correct_aliasing,
)

from sequence_encoder.modeling.attention import dispatch

NAME = "simulated_gpu"
HALF = (torch.float16, torch.bfloat16)
PACKAGE = f"{Path(dispatch.__file__).parents[2]}/"
TESTS = f"{Path(__file__).parent}/"
_setup = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
_aten = torch.ops.aten
_libraries: list[torch.library.Library] = []
# The host needs their results, or the sizes of their results.
_WAITING = {
    _aten._local_scalar_dense.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten.equal.default,
    _aten.is_nonzero.default,
    _aten._unique2.default,
    _aten.bincount.default,
}
_INDEXING = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}
_MAY_WAIT = {*_WAITING, *_INDEXING, _aten.repeat_interleave.Tensor}
_TAKES_BOTH = {*_INDEXING, _aten.copy_.default, _aten._to_copy.default}


class SimulatedTensor(torch.Tensor):
    """A tensor on the simulated GPU. Its numbers are in a tensor on the CPU."""

    def __new__(cls, numbers: torch.Tensor) -> SimulatedTensor:
        """Wrap a tensor of the CPU."""
        layout = {"strides": numbers.stride(), "storage_offset": numbers.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=numbers.dtype, device=device(), **layout)
        made.numbers = numbers
        return made

    def __repr__(self, **_: Any) -> str:
        return f"SimulatedTensor({self.numbers})"

    def tolist(self) -> Any:
        """Copy the tensor to the host."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute an operation outside `simulated_gpu`, such as a comparison of results."""
        return _compute(func, args, kwargs or {})


class SimulatedGPU(TorchDispatchMode):
    """Computes all operations on the simulated GPU.

    Attributes:
        synchronizations: The operations that the host had to wait for, with the line of the package that asked.
        kernel_calls: The dtypes of the calls of the attention kernel.
    """

    def __init__(self, kernel_dtypes: tuple[torch.dtype, ...]) -> None:
        super().__init__()
        self.kernel_dtypes = kernel_dtypes
        self.synchronizations: list[str] = []
        self.kernel_calls: list[torch.dtype] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute an operation, and note whether the host has to wait for it."""
        kwargs = kwargs or {}
        if _waits(func, args, kwargs):
            self.synchronizations.append(f"{func} {_line_of_the_package()}")
        if func is torch.ops.torch_attn._varlen_attn.default:
            assert args[0].dtype in self.kernel_dtypes, f"The kernel does not take {args[0].dtype}."
            self.kernel_calls.append(args[0].dtype)
        return _compute(func, args, kwargs)


def device() -> torch.device:
    """Return the device of the simulated GPU."""
    return torch.device(NAME, 0)


@contextmanager
def simulated_gpu(*kernel_dtypes: torch.dtype) -> Iterator[SimulatedGPU]:
    """Let this process have a simulated GPU in this block.

    Args:
        *kernel_dtypes: The dtypes that the attention kernel takes; by default those of the real one. A test with exact
            numbers can add float32.
    """
    if _setup is None or "window_size" not in dispatch._varlen_parameters():
        pytest.skip("this release of torch has no devices written in Python, or its attention has no windows")
    import torch.nn.attention.varlen  # Defines the operations of the kernel.

    _register()
    dtypes = kernel_dtypes or HALF

    only_cpu = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(…, device=…)` is otherwise not seen by modes.
    try:
        with (
            SimulatedGPU(dtypes) as gpu,
            mock.patch.object(dispatch, "_VARLEN_DTYPES", dtypes),
            mock.patch.object(dispatch, "_runs_varlen_kernel", lambda device: device.type == NAME),
            torch.autograd.set_multithreading_enabled(False),
        ):
            yield gpu
    finally:
        torch._C._set_only_lift_cpu_tensors(only_cpu)


def has_simulated_gpu() -> bool:
    """Return whether the block of `simulated_gpu` runs."""
    return isinstance(_get_current_dispatch_mode(), SimulatedGPU)


def to_simulated_gpu(model: Any) -> Any:
    """Move a model to the simulated GPU."""
    model.to(device())
    model.tie_weights()  # `to` replaces parameters there, instead of their data.
    return model


def on_simulated_gpu(model: Any) -> Any:
    """Move a model to the simulated GPU. It takes inputs of the CPU, and its outputs are on the CPU."""
    forward = model.forward

    def moving(*args: Any, **kwargs: Any) -> Any:
        output = forward(*_moved(args, device()), **_moved(kwargs, device()))
        for name, value in output.items():
            output[name] = _moved(value, torch.device("cpu"))
        return output

    model.forward = moving  # Not hooks, which change what the model computes.
    return to_simulated_gpu(model)


def _moved(tree: Any, where: torch.device) -> Any:
    if isinstance(tree, dict):
        return {name: _moved(each, where) for name, each in tree.items()}
    return _each(lambda tensor: tensor.to(where, non_blocking=True), torch.Tensor, tree)


def _register() -> None:
    """Register the device, once in a process."""
    if hasattr(torch, NAME):
        return
    # Engines start a thread for each device that exists in the first backward pass, and such processes cannot fork.
    torch.zeros((), requires_grad=True).backward()

    class Module:
        """The functions that torch expects of a device."""

        is_initialized = staticmethod(lambda: True)
        is_available = staticmethod(lambda: False)  # Not to be chosen by default.
        current_device = staticmethod(lambda: 0)
        device_count = staticmethod(lambda: 1)
        _is_in_bad_fork = staticmethod(lambda: False)
        manual_seed_all = staticmethod(lambda seed: None)
        get_amp_supported_dtype = staticmethod(lambda: [*HALF])

    class Hook(torch._C._acc.PrivateUse1Hooks):
        """The functions of C++ that torch expects of a device."""

        def is_available(self) -> bool:
            return False

        def has_primary_context(self, index: int) -> bool:
            return True

        def is_built(self) -> bool:
            return True

    _setup(NAME, Module(), Hook())
    _libraries.append(library := torch.library.Library("_", "IMPL"))
    library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    _libraries.append(library := torch.library.Library("aten", "IMPL"))
    for name in ("linear", "matmul", "scaled_dot_product_attention"):
        library.impl(name, partial(_in_half, getattr(_aten, name)), "AutocastPrivateUse1")


def _in_half(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Compute an operation in the dtype of autocast, as on a GPU."""
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
        dtype = torch.get_autocast_dtype(NAME)
        return operation(*_each(lambda tensor: tensor.to(dtype), torch.Tensor, args), **kwargs)


def _waits(func: Any, args: Any, kwargs: Any) -> bool:
    """Return whether the host waits for the device."""
    if func is _aten._to_copy.default:
        to = kwargs.get("device") or args[0].device
        return torch.device(to).type != args[0].device.type and not kwargs.get("non_blocking")
    if func is _aten.copy_.default:
        return args[1].dim() > 0 and args[0].device != args[1].device
    if func not in _MAY_WAIT or not any(isinstance(each, SimulatedTensor) for each in _tensors(args)):
        return False
    if func is _aten.repeat_interleave.Tensor:
        return kwargs.get("output_size") is None
    if func in _INDEXING:
        indices = [index for index in args[1] if index is not None]
        one_value = len(args) > 2 and len(indices) == 1 and args[2].numel() == 1  # This is `masked_fill`.
        return any(
            not isinstance(index, SimulatedTensor) or (index.dtype in (torch.bool, torch.uint8) and not one_value)
            for index in indices
        )
    return True


def _line_of_the_package() -> str:
    """Return the line of the package that asked for an operation; "?" if the test or torch did."""
    frame = sys._getframe()
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PACKAGE) and not name.startswith(TESTS):
            return f"{name[len(PACKAGE) :]}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    """Return the tensors among the arguments of an operation, which may be in lists."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _each(function: Callable[[Any], Any], kind: type, value: Any) -> Any:
    """Apply a function to a value of a kind, or to those in a list. This is much faster than `torch.utils._pytree`."""
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, list | tuple):
        return type(value)([_each(function, kind, each) for each in value])
    return value


@cache
def _aliases(func: Any) -> bool:
    """Return whether the results of an operation share memory with its arguments."""
    return any(result.alias_info is not None for result in func._schema.returns)


def _compute(func: Any, args: Any, kwargs: Any) -> Any:
    """Compute an operation on the CPU, with the result on the device where a GPU would have it."""
    tensors = list(_tensors((*args, *kwargs.values())))
    here = any(isinstance(tensor, SimulatedTensor) for tensor in tensors)
    if here and func not in _TAKES_BOTH:
        for tensor in tensors:
            assert isinstance(tensor, SimulatedTensor) or tensor.dim() == 0, (
                f"{func} got tensors of the GPU and of the CPU: {_line_of_the_package()}"
            )
    if func is _aten._fused_sdp_choice.default:
        return 0  # No fused kernel.
    numbers, options = args, kwargs
    if here:
        numbers = _each(lambda tensor: tensor.numbers, SimulatedTensor, args)
        options = {name: _each(lambda tensor: tensor.numbers, SimulatedTensor, each) for name, each in kwargs.items()}
    result_here = here
    if kwargs.get("device") is not None:
        result_here = torch.device(kwargs["device"]).type == NAME
        options = {**options, "device": torch.device("cpu")}
        options.pop("pin_memory", None)
    if func is torch.ops.torch_attn._varlen_attn.default:
        result = _reference(*numbers)
    elif func is torch.ops.torch_attn._varlen_attn_backward.default:
        result = _reference_gradients(*numbers)
    else:
        result = func(*numbers, **options)
    if func is _aten.copy_.default:
        return args[0]
    if not result_here:
        return result
    result = _each(SimulatedTensor, torch.Tensor, result)
    return return_and_correct_aliasing(func, args, kwargs, result) if here and _aliases(func) else result


def _reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    is_causal: bool = False,
    scale: float | None = None,
    window_size: list[int] | None = None,
    *others: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute attention within each sequence, and check what the kernel requires."""
    _check_lengths(cu_seq_q, cu_seq_k, max_q, max_k, len(query))
    for tensor in (query, key, value):
        assert tensor.dim() == 3, "(tokens, heads, channels) are required"
        assert tensor.dtype == query.dtype
        assert tensor.stride(-1) == 1, "the channels of a token must be contiguous"
        assert tensor.shape[2] % 8 == 0, "the channels of a head must be a multiple of 8"
        assert tensor.shape[2] <= 256, "heads have at most 256 channels"
        assert (len(tensor), tensor.shape[2]) == (len(query), query.shape[2])
    assert key.shape == value.shape
    assert query.shape[1] % key.shape[1] == 0
    assert not is_causal
    assert isinstance(max_q, int)
    assert isinstance(max_k, int)
    assert isinstance(scale, float)
    assert window_size is not None
    assert all(type(reach) is int for reach in window_size)
    outputs = [query.new_empty(0, *query.shape[1:])]
    for start, end in pairwise(cu_seq_q.tolist()):
        q, k, v = (x[start:end] for x in (query, key, value))
        repeated = v.float().repeat_interleave(query.shape[1] // key.shape[1], 1)
        outputs.append(torch.einsum("hqk,khc->qhc", _weights(q, k, scale, window_size)[0], repeated).to(q.dtype))
    output = torch.cat(outputs)
    return output, query.new_zeros(query.shape[1], len(query), dtype=torch.float32), torch.zeros(2, dtype=torch.uint64)


def _check_lengths(cu_seq_q: torch.Tensor, cu_seq_k: torch.Tensor, max_q: int, max_k: int, tokens: int) -> None:
    offsets = cu_seq_q.tolist()
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32, "the kernel takes int32"
    assert cu_seq_q.dim() == 1
    assert cu_seq_q.is_contiguous()
    assert cu_seq_k.tolist() == offsets
    assert offsets[0] == 0
    assert offsets[-1] == tokens
    lengths = [end - start for start, end in pairwise(offsets)]
    assert min(lengths) >= 0
    assert max_q == max_k == max(lengths)


def _weights(
    query: torch.Tensor, key: torch.Tensor, scale: float, window_size: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the attention weights of one sequence, (H, L, L) in float32 as inside the kernel, and repeated keys."""
    before, after = window_size
    index = torch.arange(len(query))
    distance = index - index[:, None]
    hidden = ((distance > after) & (after >= 0)) | ((distance < -before) & (before >= 0))
    keys = key.float().repeat_interleave(query.shape[1] // key.shape[1], 1)
    scores = torch.einsum("qhc,khc->hqk", query.float(), keys) * scale
    return scores.masked_fill(hidden, -torch.inf).softmax(-1), keys


def _reference_gradients(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    lse: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    is_causal: bool,
    state: torch.Tensor,
    scale: float,
    window_size: list[int],
) -> tuple[torch.Tensor, ...]:
    """Return the gradients of `_reference`."""
    _check_lengths(cu_seq_q, cu_seq_k, max_q, max_k, len(query))
    assert gradient.dtype == query.dtype
    found: tuple[list[torch.Tensor], ...] = ([], [], [])
    for start, end in pairwise(cu_seq_q.tolist()):
        q, k, v, of_output = (x[start:end] for x in (query, key, value, gradient.float()))
        weights, keys = _weights(q, k, scale, window_size)
        values = v.float().repeat_interleave(query.shape[1] // key.shape[1], 1)
        of_weights = torch.einsum("qhc,khc->hqk", of_output, values)
        of_scores = weights * (of_weights - (weights * of_weights).sum(-1, keepdim=True)) * scale
        found[0].append(torch.einsum("hqk,khc->qhc", of_scores, keys))
        # The gradients of a key and a value are the sums over their queries' heads.
        for into, of_head in (
            (found[1], torch.einsum("hqk,qhc->khc", of_scores, q.float())),
            (found[2], torch.einsum("hqk,qhc->khc", weights, of_output)),
        ):
            into.append(of_head.unflatten(1, (key.shape[1], -1)).sum(2))
    return tuple(torch.cat(parts).to(query.dtype) for parts in found)
