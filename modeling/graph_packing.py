"""Lets graphs of an encoder leave padding out."""

from collections.abc import Iterator
from contextlib import contextmanager


class GraphPackingMixin:
    """Mixin that gives the encoder the method `packed_in_graphs`."""

    _packs_in_graphs = False

    @contextmanager
    def packed_in_graphs(self) -> Iterator[None]:
        """Let graphs that are traced in this block leave padding out, except in attention.

        Their sizes depend on values, which not all uses of `torch.export` and `torch.compile` support.
        """
        before, self._packs_in_graphs = self._packs_in_graphs, True
        try:
            yield
        finally:
            self._packs_in_graphs = before
