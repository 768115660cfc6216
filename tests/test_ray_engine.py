"""`embed --engine ray`: two workers, one of which is killed, write what one process writes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from sequence_encoder.command_line import UsageError
from sequence_encoder.tests.adaptation_runs import save_encoder
from sequence_encoder.tests.corpus_runs import embed, rows_of, shards_in, table_of, write_rows

pytest.importorskip("ray", reason="needs the extra ray, with which `make ray` runs this")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "tiny", cls_token_id=2, sep_token_id=3)


def workers() -> Iterator[int]:
    """Yield the processes of the workers. Ray gives them the names of their tasks."""
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if place.read_bytes().startswith(b"ray::worker "):
                yield int(place.parent.name)


def kill_a_worker(output: Path, killed: list[int]) -> None:
    """Kill a worker once there is a shard."""
    while not killed:
        time.sleep(0.05)
        if output.is_dir() and shards_in(output):
            for process in workers():
                os.kill(process, signal.SIGKILL)
                killed.append(process)
                break


def test_a_killed_worker_loses_nothing(model: Path, tmp_path: Path) -> None:
    corpus = write_rows(tmp_path / "rows.parquet", rows_of(4000))
    counts = embed(model, corpus, tmp_path / "whole")
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(tmp_path / "ray", killed), daemon=True)
    killer.start()
    assert embed(model, corpus, tmp_path / "ray", engine="ray", workers=2) == counts
    assert killed
    tables = [table_of(tmp_path / name) for name in ("whole", "ray")]
    assert tables[0].column("id").equals(tables[1].column("id"))
    vectors = [np.array(table.column("embedding").drop_null().to_pylist()) for table in tables]
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-5)
    # It is finished, so that nothing is computed again.
    assert embed(model, corpus, tmp_path / "ray") == counts


def test_what_ray_cannot_do_is_refused(model: Path, tmp_path: Path) -> None:
    corpus = write_rows(tmp_path / "rows.parquet", rows_of())
    with pytest.raises(UsageError, match="--format lance is written by one process; leave out --engine ray"):
        embed(model, corpus, tmp_path / "out", engine="ray", format="lance")
    with pytest.raises(UsageError, match=r"--workers must be at most \d+, the \w+ of the cluster, got 100000"):
        embed(model, corpus, tmp_path / "out", engine="ray", workers=100_000)
    with pytest.raises(UsageError, match=r"^--columns titel is not a column"):
        embed(model, corpus, tmp_path / "out", engine="ray", workers=2, columns=["titel"])
