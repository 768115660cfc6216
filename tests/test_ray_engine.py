"""`embed --engine ray`: workers of a Ray cluster, some of which are killed, write what one process writes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sequence_encoder.bulk.arguments import EMBED, arguments_of
from sequence_encoder.bulk.models import load_encoder
from sequence_encoder.bulk.ray_engine import ray_engine
from sequence_encoder.bulk.results import Tokens
from sequence_encoder.bulk.rows import Chunk, CorpusRows
from sequence_encoder.bulk.run import Run
from sequence_encoder.bulk.vectors import Vectors
from sequence_encoder.command_line import UsageError
from sequence_encoder.tests.adaptation_runs import save_encoder
from sequence_encoder.tests.corpus_runs import SHARD_ROWS, embed, options_of, rows_of, shards_in, table_of, write_rows

ray: Any = pytest.importorskip("ray", reason="needs the extra ray, with which `make ray` runs this")

CPUS = 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "tiny", cls_token_id=2, sep_token_id=3)


@pytest.fixture
def cluster() -> Iterator[None]:
    """A cluster that the user has started, with the CPUs that the tests need."""
    ray.init(num_cpus=CPUS, logging_level="ERROR")
    yield
    ray.shutdown()


def workers() -> Iterator[int]:
    """Yield the processes of the workers. Ray gives them the names of their tasks."""
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if b"_Worker" in place.read_bytes():
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
    # The cluster was started for the run alone.
    assert not ray.is_initialized()
    tables = [table_of(tmp_path / name) for name in ("whole", "ray")]
    assert tables[0].column("id").equals(tables[1].column("id"))
    vectors = [np.array(table.column("embedding").drop_null().to_pylist()) for table in tables]
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-5)
    # It is finished, so that nothing is computed again.
    assert embed(model, corpus, tmp_path / "ray") == counts


@pytest.mark.parametrize("options", [{"precision": "int8"}, {"format": "npy"}], ids=str)
@pytest.mark.usefixtures("cluster")
def test_all_formats_are_those_of_one_process(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str]
) -> None:
    write_rows(tmp_path / "rows.parquet", rows_of())
    # The workers have another working folder.
    monkeypatch.chdir(tmp_path)
    outputs = [Path("local"), Path("ray")]
    embed(model, Path("rows.parquet"), outputs[0], **options)
    embed(model, Path("rows.parquet"), outputs[1], engine="ray", **options)
    assert ray.is_initialized()
    names = [file.name for file in shards_in(outputs[0])]
    assert names == [file.name for file in shards_in(outputs[1])]
    for name in names:
        first, second = (output / name for output in outputs)
        if first.suffix == ".npy":
            np.testing.assert_allclose(np.load(first), np.load(second), atol=1e-6)
    tables = [table_of(output) for output in outputs]
    assert tables[0].equals(tables[1])


class Deadly(Vectors):
    """Vectors of texts that end their process in the third shard."""

    def compute(self, chunk: Chunk, tokens: Tokens, progress: Any) -> list[Any]:
        if chunk.first == 2 * SHARD_ROWS:
            os._exit(1)
        return super().compute(chunk, tokens, progress)


def deadly(model: Any, options: Any) -> tuple[Vectors, str]:
    encoder, tokenizer, sentence = load_encoder(model.model, "cpu", "float32")
    return Deadly(encoder, tokenizer, model, options), sentence


@pytest.mark.usefixtures("cluster")
def test_rows_that_end_each_worker_are_given_up(model: Path, tmp_path: Path) -> None:
    corpus = write_rows(tmp_path / "rows.parquet", rows_of())
    values = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in options_of(model, corpus, tmp_path / "out").items()
    }
    *parts, _ = arguments_of(EMBED, values)
    run = Run(
        "embed",
        tuple(parts),
        str(model),
        tmp_path / "out",
        CorpusRows(parts[1], parts[3]),
        "parquet",
        partial(deadly, parts[0], parts[2]),
        partial(ray_engine, workers=1, device="cpu"),
    )
    with pytest.raises(UsageError, match=r"5 workers died .* the rows of the corpus from 16\. .* fewer --workers"):
        run()
    assert len(shards_in(tmp_path / "out")) == 2
    # The rest can be computed.
    assert embed(model, corpus, tmp_path / "out") == embed(model, corpus, tmp_path / "whole")


@pytest.mark.usefixtures("cluster")
def test_mistakes_are_told_without_the_stacks_of_workers(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_rows(tmp_path / "rows.parquet", rows_of())
    on_ray = {"engine": "ray", "workers": CPUS}
    with pytest.raises(UsageError, match=r"--workers must be at most 2, the CPUs of the cluster, got 100000\."):
        embed(model, corpus, tmp_path / "out", engine="ray", workers=100_000)
    with pytest.raises(UsageError, match=r"^--columns titel is not a column"):
        embed(model, corpus, tmp_path / "out", **on_ray, columns=["titel"])
    # The model knows it, in a worker.
    with pytest.raises(ValueError, match=r"prompt_name.*'title'"):
        embed(model, corpus, tmp_path / "out", **on_ray, prompt_name="title")
    # The reader finds it.
    with pytest.raises(UsageError, match=r"^row 3 of --corpus .*: its text is null"):
        embed(model, corpus, tmp_path / "out", **on_ray, strict=True)
    # No worker is left that keeps the CPUs.
    assert embed(model, corpus, tmp_path / "out", **on_ray).rows == 30
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="--engine ray starts the workers itself; run the command without a launcher"):
        embed(model, corpus, tmp_path / "other", **on_ray)
