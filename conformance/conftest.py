"""The surroundings of a run: transformers' tests, no network, one thread a process, and nothing left behind."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile

import pytest

# Before torch is imported. Those who run the tests and the ranks of distributed ones share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
_IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if not _IS_WORKER:
    # Some tests of transformers leave folders; the workers and the ranks inherit where.
    os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="conformance-")
    os.environ["HF_HOME"] = os.path.join(tempfile.tempdir, "huggingface")

from transformers_tests import make_importable  # noqa: E402

make_importable()


def pytest_configure(config: pytest.Config) -> None:
    """Reports once, of all that the workers did."""
    if not _IS_WORKER:
        from report import Report

        config.pluginmanager.register(Report())


def pytest_collection_finish() -> None:
    """Leave what has been imported out of garbage collections, which `Trainer` and transformers' tests start often."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Removes what was left."""
    if not _IS_WORKER:
        shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)
