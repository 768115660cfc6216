"""Lets a model use copies of its weights in the layout of oneDNN's kernels."""

from typing import Any, cast

from torch import nn

from .cpu.prepacked import prepack


class PrepackingMixin:
    """Mixin that gives a model the method `prepack_weights`."""

    def prepack_weights(self: Any, enabled: bool = True) -> None:
        """Make inference on a CPU faster with copies of the layers' weights in the layout that oneDNN reads.

        The first forward pass makes the copies, and makes them again after an optimizer, `load_state_dict` or another
        operation has changed the weights. After changes in place through `.data`, as when peft merges an adapter, call
        this method again. The copies take as much memory as the layers' weights, and results differ by rounding.
        Training, compiled models, models made in inference mode and other devices do not use them. In float32, short
        texts do not either. `encode` makes its own copies while it encodes many texts.

        Args:
            enabled: Whether to use copies; False frees them.
        """
        prepack(cast(nn.Module, self.base_model.layers), enabled)
