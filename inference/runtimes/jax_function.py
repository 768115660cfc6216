"""Turns models into pure functions on JAX arrays. Torchax runs the model's own forward pass on them."""

from __future__ import annotations

import copy
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ...command_line.extras import MissingLibraryError, require
from ...modeling import SequenceEncoderPreTrainedModel, TaskAdapter

if TYPE_CHECKING:
    import jax


def to_jax(
    model: SequenceEncoderPreTrainedModel | TaskAdapter,
) -> tuple[Callable[..., dict[str, Any]], dict[str, jax.Array]]:
    """Return a model as a pure JAX function, with its parameters.

    The function is `function(parameters, **inputs)`. It takes the inputs of the model as arrays of JAX or NumPy, and
    returns the outputs that are not None by name, without dropout. It works in `jax.jit`, `jax.grad` and the other
    transformations of JAX. JAX compiles it for each shape of the inputs, and it computes padding, unlike the model.

    The values of inputs are not checked. Rows of several documents have a `pooler_output`, which mixes them.

    Args:
        model: The model. The function keeps a copy without its weights.

    Returns:
        The function, and the parameters by their names in `model.state_dict()`. A weight that two layers share is one
        parameter, under the first of its names.

    Raises:
        MissingLibraryError: If a library is missing or too old. This is checked first.
        ValueError: If the model is not one of this package.
    """
    environment = _environment()
    if not isinstance(model, SequenceEncoderPreTrainedModel | TaskAdapter):
        raise ValueError(f"model must be a SequenceEncoder, got a {type(model).__name__}; convert it with `convert`.")
    import jax

    # Clones, because JAX may share the memory of the tensor, and torch's optimizers change weights in place.
    parameters, buffers = (
        {name: environment.t2j_copy(tensor.detach().clone()) for name, tensor in named}
        for named in (model.named_parameters(), model.named_buffers())
    )
    shapes = {name: array.shape for name, array in parameters.items()}
    module = _without_weights(model)
    lock = threading.Lock()

    def compute(parameters: dict[str, jax.Array], arrays: dict[str, Any], options: tuple[tuple[str, Any], ...]) -> Any:
        tensors, inputs = environment.j2t_iso(({**parameters, **buffers}, arrays))
        # One thread at a time, because the module holds the parameters in the meantime.
        with lock, _without_int64_warnings(), environment:
            inputs = {**inputs, **dict(options), "return_dict": True}
            return environment.t2j_iso(dict(torch.func.functional_call(module, tensors, (), inputs)))

    # Also outside the caller's `jit`: only while JAX traces it does the model keep padding and read no values.
    compiled = jax.jit(compute, static_argnums=2)

    def function(parameters: dict[str, jax.Array], **inputs: Any) -> dict[str, Any]:
        _check_shapes(parameters, shapes)
        arrays = {name: value for name, value in inputs.items() if isinstance(value, jax.Array | np.ndarray)}
        options = {name: value for name, value in inputs.items() if name not in arrays}
        for name, value in options.items():
            if not isinstance(value, bool | int | float | None):
                raise ValueError(
                    f"{name} must be an array of JAX or NumPy, a number, a bool or None, got a {type(value).__name__}."
                )
        return compiled(parameters, arrays, tuple(sorted(options.items())))

    return function, parameters


def _environment() -> Any:
    """Return an environment of torchax, in which torch computes with JAX.

    Raises:
        MissingLibraryError: If a library is missing or too old.
    """
    if sys.version_info < (3, 11):
        raise MissingLibraryError(f"to_jax needs Python 3.11 or newer, got {sys.version.split()[0]}.")
    require("to_jax", "jax", "torchax", extra="jax")
    try:
        from jax.numpy import promote_types
        from torchax.ops.mappings import j2t_dtype, t2j_dtype
        from torchax.tensor import Environment

        environment = Environment()
    except (AttributeError, ImportError) as error:  # It uses operators of torch that later releases do not have.
        raise MissingLibraryError(
            f"to_jax needs versions of jax and torchax that support torch {torch.__version__}. Install with: "
            f"pip install 'sequence-encoder[jax]'. The installed ones fail: {error}"
        ) from error

    def promoted(one: torch.dtype, other: torch.dtype) -> torch.dtype:
        return j2t_dtype(promote_types(t2j_dtype(one), t2j_dtype(other)))

    # Torchax looks for an operation on tensors of this name, and raises an error.
    environment.override_op_definition(torch.promote_types, promoted)
    return environment


def _check_shapes(parameters: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check the names and the shapes of parameters, because torch ignores unknown names."""
    given = {name: np.shape(array) for name, array in parameters.items()}
    for name in sorted(shapes.keys() | given.keys()):
        expected, found = shapes.get(name, "none"), given.get(name, "none")
        if expected != found:
            raise ValueError(
                "parameters must have the names and shapes of those that `to_jax` returned: "
                f"the shape of {name} must be {expected}, got {found}."
            )


def _without_weights(model: nn.Module) -> Any:
    """Return a copy of a model in evaluation mode whose weights have shapes but no values."""
    # Each is copied once, so that layers that share a weight still do.
    shapes = {id(tensor): _shape_of(tensor) for tensor in (*model.parameters(), *model.buffers())}
    module: Any = copy.deepcopy(model, shapes).eval()
    # Torchax's scaled_dot_product_attention has NaN gradients if padding may not attend to any token.
    module.set_attn_implementation("eager")
    return module


def _shape_of(tensor: torch.Tensor) -> torch.Tensor:
    meta = tensor.detach().to("meta")
    return nn.Parameter(meta, requires_grad=False) if isinstance(tensor, nn.Parameter) else meta


@contextmanager
def _without_int64_warnings() -> Iterator[None]:
    """Ignore the warnings that JAX uses 32-bit integers in place of 64-bit ones, which token ids do not need."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Explicitly requested dtype")
        yield
