"""Set up a run: make transformers' tests importable, go offline, use one thread per process, and clean up."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile

import pytest

# This must be set before torch is imported. The workers and the ranks of distributed tests share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
_IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if not _IS_WORKER:
    # Some tests of transformers leave folders behind. Workers and ranks inherit the path.
    os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="conformance-")
    os.environ["HF_HOME"] = os.path.join(tempfile.tempdir, "huggingface")

from transformers_tests import make_importable  # noqa: E402

make_importable()


def pytest_configure(config: pytest.Config) -> None:
    """Register the report in the main process, for the results of all workers."""
    if not _IS_WORKER:
        from report import Report

        config.pluginmanager.register(Report())


def pytest_collection_finish() -> None:
    """Exclude imported objects from garbage collection, which `Trainer` and transformers' tests start often."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Remove what the tests left behind."""
    if not _IS_WORKER:
        shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)
