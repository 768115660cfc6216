"""Whether the modules of a model are those that its configuration describes, and whether they are still the same.

Libraries and users change models in place: they add adapters, remove layers, replace activations or observe modules
with hooks. An encoder that is linked to the model would ignore such changes, so they must be found.
"""

from __future__ import annotations

import copy
import inspect
import operator
import weakref
from collections.abc import Iterator
from typing import Any, cast

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from ...modeling.hooks import hooks_of


def check_class(model: PreTrainedModel) -> None:
    """Raise if a model is of another class than that of transformers with the same name, as some remote code is.

    Raises:
        ValueError: If its `forward` is another one.
    """
    name = type(model).__name__
    theirs = getattr(transformers, name, type(model))
    if inspect.unwrap(type(model).forward) is not inspect.unwrap(theirs.forward):
        raise ValueError(f"this {name} has another forward than that of transformers")


def described_structure(model: PreTrainedModel) -> Structure:
    """Return the structure of a model that has the modules of a new model of its class with its configuration.

    Raises:
        ValueError: If it has others. The message names the first module that differs.
    """
    try:
        with torch.device("meta"):
            new = cast(nn.Module, type(model)(copy.deepcopy(model.config)))
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"no {type(model).__name__} can be made without weights to compare it with: {error}"
        ) from error
    found, expected = dict(_described(cast(nn.Module, model))), dict(_described(new))
    for path in {**expected, **found}:
        top = path.partition(".")[0]
        # The forward of the class does not know other attributes, and the model may have been made without a pooler.
        known = new._modules.get(top) is not None and getattr(model, top, None) is not None
        if known and found.get(path) != expected.get(path):
            raise ValueError(f"{path} is not as the configuration describes it; it was changed")
    return Structure(model, {name: module.p for name, module in new.named_modules() if isinstance(module, nn.Dropout)})


def _described(model: nn.Module) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield the path of each module in a model, and its class and constants, such as the epsilon of a norm."""
    for path, module in model.named_modules(remove_duplicate=False):
        if module is not model:
            constants = {name: value for name, value in vars(module).items() if isinstance(value, float)}
            # The probability matters in training alone.
            yield path, (type(module), tuple(module._parameters), {} if isinstance(module, nn.Dropout) else constants)


class Structure:
    """The modules and parameters of a model at the time of the call. Keeps no reference to the model itself.

    Args:
        model: The model.
        dropouts: The probabilities of its dropouts, by path, that its configuration describes.
    """

    def __init__(self, model: PreTrainedModel, dropouts: dict[str, float]) -> None:
        self._model, self._fields = weakref.ref(model), _fields(model)
        self._modules = [module for module in model.modules() if module is not model]
        dicts = [each for module in model.modules() for each in (module._modules, module._parameters)]
        self._parts = [(each, tuple(each.values())) for each in dicts if each]
        modules = cast(nn.Module, model).named_modules()
        self._dropouts = [(module, dropouts[path]) for path, module in modules if path in dropouts]

    def is_that_of(self, model: PreTrainedModel) -> bool:
        """Return whether a model is the same one, not a replica, and consists of the same modules and parameters."""
        if self._model() is not model or self._fields != _fields(model):
            return False
        for present, former in self._parts:
            if len(present) != len(former) or not all(map(operator.is_, present.values(), former)):
                return False
        return True

    def obstacle(self, training: bool) -> str | None:
        """Return why only the modules themselves can compute what the model computes now; None if nothing says so.

        Args:
            training: Whether the model is in training mode.
        """
        for module in self._modules:
            own = module.__dict__
            if "forward" in own or (any(hooks_of(module)) and not _only_requires_gradients(module)):
                return f"a hook or another forward is on its {type(module).__name__}"
            if own["training"] is not training:
                return f"its {type(module).__name__} is in {'training' if own['training'] else 'evaluation'} mode alone"
        if training and any(dropout.p != probability for dropout, probability in self._dropouts):
            return "the probability of a dropout was changed"
        return None


def _fields(model: PreTrainedModel) -> tuple[Any, ...]:
    """Return the fields of a configuration that can change without another module, as the vocabulary is resized."""
    return model.config.vocab_size, getattr(model.config, "is_decoder", False)


def _only_requires_gradients(module: nn.Module) -> bool:
    """Return whether the hooks of a module do no more than require gradients of outputs that require them anyway.

    Gradient checkpointing adds such a hook to the embeddings, which is needed if they are frozen.
    """
    if torch.is_grad_enabled() and not all(parameter.requires_grad for parameter in module.parameters()):
        return False
    names = {getattr(hook, "__qualname__", "") for hooks in hooks_of(module) for hook in hooks.values()}
    return names == {"PreTrainedModel.enable_input_require_grads.<locals>.make_inputs_require_grads"}
