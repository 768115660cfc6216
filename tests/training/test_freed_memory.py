"""Training keeps the memory of its steps, instead of returning it to the system and getting it back page by page."""

from __future__ import annotations

import os
import platform

import pytest
import torch

from sequence_encoder.training.hardware import freed_memory_kept

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
_FLOATS, _TIMES = 2**24, 8
_PAGES_OF_ALL = _TIMES * 4 * _FLOATS // 4096


def _page_faults(floats: int = _FLOATS) -> int:
    """Return how many pages the system maps while blocks, of 64 MiB by default, are allocated and freed."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(_TIMES):
        torch.zeros(floats)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_freed_memory_is_used_again_until_the_training_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (name for name in list(os.environ) if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))):
        monkeypatch.delenv(name)
    with freed_memory_kept():
        assert _page_faults() < 1.5 * _PAGES_OF_ALL / _TIMES
    assert _page_faults() > 0.9 * _PAGES_OF_ALL
    # Smaller blocks are kept, as glibc does by itself.
    assert _page_faults(_FLOATS // 8) < 0.3 * _PAGES_OF_ALL / 8


def test_a_configured_allocator_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    with freed_memory_kept():
        assert _page_faults() > 0.9 * _PAGES_OF_ALL
