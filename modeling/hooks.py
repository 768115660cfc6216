"""Finds the hooks of a module."""

from typing import Any

from torch import nn


def hooks_of(module: nn.Module) -> tuple[dict[int, Any], ...]:
    """Return the hooks of a module by their kind: forward, forward-pre, backward and backward-pre."""
    return module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks


def is_observed(module: nn.Module) -> bool:
    """Return whether a module has forward hooks besides those that transformers leaves after recording outputs."""
    return any(not hook.__module__.startswith("transformers.") for hook in module._forward_hooks.values())
