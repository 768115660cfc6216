"""Evaluation mode for a while, for several threads that share a model."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from torch import nn


@dataclass
class _Use:
    """How many blocks are using a model, and which of its modules were in training mode before."""

    blocks: int = 0
    trained: list[nn.Module] = field(default_factory=list)


# Not in the models themselves, which can be copied and pickled while they are in use.
_USES: WeakKeyDictionary[nn.Module, _Use] = WeakKeyDictionary()
_LOCK = threading.Lock()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Puts a model into evaluation mode; the last of the blocks that overlap puts each module back into its mode."""
    with _LOCK:
        use = _USES.setdefault(model, _Use())
        use.blocks += 1
        trained = [module for module in model.modules() if module.training]
        if trained:
            use.trained += trained
            model.eval()
    try:
        yield
    finally:
        with _LOCK:
            use.blocks -= 1
            if not use.blocks:
                for module in use.trained:
                    module.training = True
                del _USES[model]
