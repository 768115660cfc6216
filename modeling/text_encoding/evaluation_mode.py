"""Temporary evaluation mode for models that several threads share."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from torch import nn


@dataclass
class _Use:
    """The number of active blocks for a model, and its modules that were in training mode before."""

    blocks: int = 0
    trained: list[nn.Module] = field(default_factory=list)


# Not stored in the models, which may be copied or pickled in the meantime.
_USES: WeakKeyDictionary[nn.Module, _Use] = WeakKeyDictionary()
_LOCK = threading.Lock()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode. The last of several overlapping blocks restores the mode of each module."""
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
