"""`embed --engine ray`: workers of a Ray cluster, some of which are killed, write what one process writes."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sequence_encoder.command_line import UsageError
from sequence_encoder.conversion.source import Source
from sequence_encoder.inference.corpora.arguments import EMBED, arguments_of
from sequence_encoder.inference.corpora.messages import packed, unpacked
from sequence_encoder.inference.corpora.models import load_encoder
from sequence_encoder.inference.corpora.ray_engine import ray_engine
from sequence_encoder.inference.corpora.ray_workers import Share, share_of
from sequence_encoder.inference.corpora.results import Tokens
from sequence_encoder.inference.corpora.rows import Chunk, CorpusRows
from sequence_encoder.inference.corpora.run import Run
from sequence_encoder.inference.corpora.vectors import Vectors
from sequence_encoder.tests.fixtures.adaptation_runs import save_encoder
from sequence_encoder.tests.fixtures.corpus_runs import (
    SHARD_ROWS,
    embed,
    options_of,
    rows_of,
    shards_in,
    table_of,
    write_rows,
)

ray: Any = pytest.importorskip("ray", reason="needs the extra ray, with which `make ray` runs this")
pytest.importorskip("ray.data")

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
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    write_rows(tmp_path / "rows.parquet", rows_of())
    # The workers have another working folder.
    monkeypatch.chdir(tmp_path)
    outputs = [Path("local"), Path("ray")]
    options = {**options, "columns": ["key", "number", "text"]}
    embed(model, Path("*.parquet"), outputs[0], **options)
    level = logging.getLogger("ray.data").level
    embed(model, Path("*.parquet"), outputs[1], engine="ray", **options)
    # The cluster of the user is as it was.
    assert ray.is_initialized()
    assert logging.getLogger("ray.data").level == level
    names = [file.name for file in shards_in(outputs[0])]
    assert names == [file.name for file in shards_in(outputs[1])]
    for name in names:
        first, second = (output / name for output in outputs)
        if first.suffix == ".npy":
            np.testing.assert_allclose(np.load(first), np.load(second), atol=1e-6)
    tables = [table_of(output) for output in outputs]
    assert tables[0].equals(tables[1])


class Deadly(Vectors):
    """Vectors of texts that end their process in the third shard, or that have a fault there."""

    fault = False

    def compute(self, chunk: Chunk, tokens: Tokens, progress: Any) -> list[Any]:
        if chunk.first == 2 * SHARD_ROWS:
            if self.fault:
                raise RuntimeError("a fault")
            os._exit(1)
        return super().compute(chunk, tokens, progress)


def deadly(model: Any, options: Any, fault: bool) -> tuple[Vectors, str]:
    encoder, tokenizer, sentence = load_encoder(Source(model.model), "cpu", "float32")
    found = Deadly(encoder, tokenizer, model, options)
    found.fault = fault
    return found, sentence


def run_deadly(model: Path, corpus: Path, output: Path, fault: bool = False) -> None:
    given = options_of(model, corpus, output).items()
    *parts, _ = arguments_of(EMBED, {name: str(value) if isinstance(value, Path) else value for name, value in given})
    Run(
        "embed",
        tuple(parts),
        Source(model),
        output,
        CorpusRows(parts[1], parts[3]),
        "parquet",
        partial(deadly, parts[0], parts[2], fault),
        partial(ray_engine, workers=1, device="cpu"),
    )()


@pytest.mark.usefixtures("cluster")
def test_rows_that_end_each_worker_are_given_up(model: Path, tmp_path: Path) -> None:
    corpus = write_rows(tmp_path / "rows.parquet", rows_of())
    with pytest.raises(UsageError, match=r"5 workers died .* the rows of the corpus from 16, .* fewer --workers"):
        run_deadly(model, corpus, tmp_path / "out")
    assert len(shards_in(tmp_path / "out")) == 2
    with pytest.raises(ray.exceptions.RayTaskError, match="a fault") as fault:
        run_deadly(model, corpus, tmp_path / "out", fault=True)
    # No worker keeps the CPUs, even if someone keeps the error.
    assert fault.value
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU", 0) < CPUS and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == CPUS
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


def test_a_message_carries_only_its_rows() -> None:
    corpus = pa.table({"text": ["a rather long text of this file"] * 100_000, "key": [{"a": [1]}, None] * 50_000})
    columns = pa.concat_tables([corpus.slice(first, 256) for first in range(512, 1024, 256)])
    texts = [columns["text"].to_pylist()[1:], ["\ud800"] * 511]
    chunk = Chunk(3, 512, True, columns, np.arange(512) > 0, texts, Counter({"null": 1}))
    message = packed(chunk)
    assert message.nbytes < 4 * columns.nbytes
    (found,) = unpacked(message)
    assert isinstance(found, Chunk)
    assert found.columns.equals(columns)
    assert found.good.tolist() == chunk.good.tolist()
    assert (found.shard, found.first, found.ends_shard, found.texts, found.bad) == (3, 512, True, texts, chunk.bad)


@pytest.mark.parametrize(
    ("machines", "workers", "device", "expected"),
    [
        ([{"CPU": 8.0}], None, None, Share(1, 8, 0)),
        ([{"CPU": 8.0}], 3, None, Share(3, 2, 0)),
        # Machines of different sizes, and one that only manages the cluster.
        ([{"CPU": 4.0}, {"CPU": 16.0}, {}], None, None, Share(2, 8, 0)),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}], None, None, Share(2, 0, 1)),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}], None, "cpu", Share(2, 8, 0)),
    ],
    ids=str,
)
def test_workers_have_places_on_the_machines(
    machines: list[dict[str, float]], workers: int | None, device: str | None, expected: Share
) -> None:
    gone = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
    nodes = [gone, *({"Alive": True, "Resources": each} for each in machines)]
    assert share_of(nodes, workers, device) == expected
