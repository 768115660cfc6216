"""The command `embed` writes the vectors of `encode`, whole shards only, and continues where it was stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from filelock import FileLock
from pyarrow import parquet
from transformers import AutoTokenizer

import sequence_encoder
from sequence_encoder import SequenceEncoderModel, static_encoder
from sequence_encoder.command_line import UsageError
from sequence_encoder.command_line.extras import MissingLibraryError
from sequence_encoder.data import documentation
from sequence_encoder.inference.corpora.vectors import Vectors
from sequence_encoder.tests.fixtures.adaptation_runs import save_encoder
from sequence_encoder.tests.fixtures.corpus_runs import (
    LONG,
    NULL,
    arguments_of,
    assert_same_shards,
    embed,
    rows_of,
    shards_in,
    table_of,
    write_rows,
)
from sequence_encoder.tests.fixtures.forked_python import forked_python

pytestmark = pytest.mark.since("pyarrow", "26", "writes null vectors")
ROWS = rows_of()
GOOD = [number for number in range(len(ROWS)) if number not in (NULL, LONG)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "tiny", cls_token_id=2, sep_token_id=3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("corpus") / "rows.parquet", ROWS)


@pytest.fixture(scope="module")
def whole(model: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that was not interrupted."""
    output = tmp_path_factory.mktemp("whole")
    embed(model, corpus, output)
    return output


def encode(model: Path, texts: list[str], **options: Any) -> np.ndarray:
    return SequenceEncoderModel.from_pretrained(model).encode(texts, AutoTokenizer.from_pretrained(model), **options)


def vectors_of(folder: Path) -> np.ndarray:
    vectors = table_of(folder).column("embedding").to_pylist()
    return np.array([vectors[number] for number in GOOD])


def test_each_row_has_the_vector_of_encode_and_its_columns(model: Path, corpus: Path, tmp_path: Path) -> None:
    options = {"normalize": True, "pooling": "cls", "prompt": "the cat", "max_length": 10}
    counts = embed(model, corpus, tmp_path, columns=["key,number"], **options)
    table = table_of(tmp_path)
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 32)
    assert table.column("id").to_pylist() == list(range(len(ROWS)))
    for name in ("key", "number"):
        assert table.column(name).to_pylist() == [row[name] for row in ROWS]
    missing = np.flatnonzero(table.column("embedding").is_null())
    assert missing.tolist() == [NULL, LONG]
    options["normalize_embeddings"] = options.pop("normalize")
    expected = encode(model, [ROWS[number]["text"] for number in GOOD], **options)
    np.testing.assert_allclose(vectors_of(tmp_path), expected, rtol=1e-5, atol=1e-6)
    facts = json.loads(table.schema.metadata[b"sequence_encoder"])
    assert (facts["pooling"], facts["normalized"], facts["prompt"]) == (["cls"], True, "the cat")
    tokenizer = AutoTokenizer.from_pretrained(model)
    lengths = [len(tokenizer("the cat" + ROWS[number]["text"])["input_ids"]) for number in GOOD]
    assert counts.truncated == sum(length > 10 for length in lengths)
    assert counts.tokens == sum(min(length, 10) for length in lengths)
    assert (counts.rows, counts.bad) == (len(ROWS), {"null": 1, "too long": 1})


def test_an_older_pyarrow_is_refused_before_anything_is_computed(
    model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sequence_encoder.command_line.extras.version", lambda name: "25.0.1")
    with pytest.raises(ImportError, match=r"embed needs pyarrow 26 or newer, because .*, and 25\.0\.1 is installed"):
        embed(model, corpus, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_ids_can_come_from_a_column(model: Path, corpus: Path, tmp_path: Path) -> None:
    embed(model, corpus, tmp_path, id_column="key", columns=["text"])
    table = table_of(tmp_path)
    assert table.schema.names == ["id", "text", "embedding"]
    assert table.column("id").to_pylist() == [row["key"] for row in ROWS]
    assert table.column("text").to_pylist() == [row["text"] for row in ROWS]


def test_a_run_writes_only_missing_shards_and_those_are_the_same(
    model: Path, corpus: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embed(model, corpus, tmp_path)
    assert_same_shards(tmp_path, whole)
    for number in (0, 2):
        (tmp_path / f"shard-{number:06d}.parquet").unlink()
    kept = {file.name: file.stat().st_mtime_ns for file in shards_in(tmp_path)}
    capsys.readouterr()
    counts = embed(model, corpus, tmp_path)
    said = capsys.readouterr().out
    assert f"The run continues: 2 complete shards are in {tmp_path} already." in said
    assert "This process has computed 16 rows" in said
    assert_same_shards(tmp_path, whole)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in kept} == kept
    assert embed(model, corpus, tmp_path) == counts
    assert capsys.readouterr().out.startswith("Already finished. 30 rows of ")


def test_tokenizing_ahead_gives_the_same_shards_and_errors(
    model: Path, corpus: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a GPU.
    monkeypatch.setattr("sequence_encoder.inference.corpora.engine.tokenizes_ahead", lambda device_type: True)
    embed(model, corpus, tmp_path / "out")
    assert_same_shards(tmp_path / "out", whole)
    with pytest.raises(UsageError, match=f"row {LONG - NULL - 1} of --corpus"):
        embed(model, write_rows(tmp_path / "rows.parquet", ROWS[NULL + 1 :]), tmp_path / "strict", strict=True)
    assert {thread.name for thread in threading.enumerate()}.isdisjoint({"read_ahead"})


@pytest.mark.parametrize(("chunks", "kept"), [(0, "0 complete shards stay"), (3, "[123] complete shards? stays?")])
def test_ctrl_c_says_what_is_kept(
    model: Path, corpus: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunks: int, kept: str
) -> None:
    computed: list[int] = []
    original = Vectors.compute

    def interrupted(self: Vectors, chunk: Any, *others: Any) -> Any:
        if len(computed) == chunks:
            raise KeyboardInterrupt
        computed.append(chunk.first)
        return original(self, chunk, *others)

    monkeypatch.setattr(Vectors, "compute", interrupted)
    with pytest.raises(KeyboardInterrupt, match=f"^Interrupted; {kept} in .* again"):
        embed(model, corpus, tmp_path)
    monkeypatch.undo()
    embed(model, corpus, tmp_path)
    assert_same_shards(tmp_path, whole)


def test_a_killed_run_continues_without_loss(model: Path, tmp_path: Path) -> None:
    corpus = write_rows(tmp_path / "rows.parquet", rows_of(60))
    embed(model, corpus, tmp_path / "whole", shard_rows=1)
    command = [forked_python(), "-m", "sequence_encoder", "embed"]
    killed = tmp_path / "killed"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    arguments = arguments_of(model, corpus, killed, shard_rows=1)
    process = subprocess.Popen([*command, *arguments], env=environment, stdout=subprocess.PIPE)
    while len(shards_in(killed)) < 3 and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    # The output ends when the fork has ended.
    process.communicate()
    assert 3 <= len(shards_in(killed)) < 60
    embed(model, corpus, killed, shard_rows=1)
    assert_same_shards(killed, tmp_path / "whole")
    assert table_of(killed).column("id").to_pylist() == list(range(60))


def test_two_processes_write_the_same_shards_as_one(
    model: Path, corpus: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        embed(model, corpus, tmp_path)
        assert len(shards_in(tmp_path)) == (2 if rank == "0" else 4)
    assert_same_shards(tmp_path, whole)
    assert embed(model, corpus, tmp_path).rows == len(ROWS)


@pytest.mark.parametrize("change", ["option", "corpus", "model"])
def test_a_folder_with_results_of_other_settings_is_kept(
    model: Path, tmp_path: Path, randomize: Callable[..., Any], change: str
) -> None:
    corpus, output = write_rows(tmp_path / "rows.parquet", ROWS), tmp_path / "out"
    embed(model, corpus, output)
    (output / "shard-000001.parquet").unlink()
    before = [file.read_bytes() for file in shards_in(output)]
    options: dict[str, Any] = {}
    message = {
        "option": "truncate_dim was None and is 8",
        "corpus": rf"{corpus} has changed",
        "model": "the files of the model have changed",
    }[change]
    if change == "option":
        options["truncate_dim"] = 8
    elif change == "corpus":
        write_rows(corpus, [*ROWS, *ROWS])
    else:
        loaded = randomize(SequenceEncoderModel.from_pretrained(model))
        loaded.save_pretrained(tmp_path / "other")
        AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "other")
    with pytest.raises(UsageError, match=f"{output} contains results of other settings: {message}"):
        embed(tmp_path / "other" if change == "model" else model, corpus, output, **options)
    assert [file.read_bytes() for file in shards_in(output)] == before


def test_a_folder_that_something_else_wrote_or_writes_is_kept(model: Path, corpus: Path, tmp_path: Path) -> None:
    notes = tmp_path / "mine" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    with pytest.raises(FileExistsError, match=f"{notes.parent} contains files that embed did not write"):
        embed(model, corpus, notes.parent)
    predicted = notes.parent.parent / ".sequence-encoder"
    predicted.mkdir()
    (predicted / "settings.json").write_text('{"command": "predict"}')
    with pytest.raises(UsageError, match="contains results of `predict`; choose another --output_dir"):
        embed(model, corpus, predicted.parent)
    with pytest.raises(UsageError, match="is a file; choose a folder"):
        embed(model, corpus, notes)
    with pytest.raises(UsageError, match="overlap"):
        embed(model, corpus, corpus.parent)
    assert notes.read_text() == "mine"
    assert list(notes.parent.iterdir()) == [notes]
    state = tmp_path / "busy" / ".sequence-encoder"
    state.mkdir(parents=True)
    with FileLock(state / "lock"), pytest.raises(FileExistsError, match="Another run is writing to"):
        embed(model, corpus, state.parent)


def test_a_run_that_fails_at_once_leaves_no_folder(model: Path, corpus: Path, tmp_path: Path) -> None:
    for message, options in (
        ("--text_column title is not a column of .*; choose one of text, key, number", {"text_column": "title"}),
        ("--text_column must name a column of texts, and number has the type double", {"text_column": "number"}),
        ("--columns url is not a column of", {"columns": ["url"]}),
        ("prompt_name must be one of", {"prompt_name": "none"}),
        ("truncate_dim must be from 1 to 32", {"truncate_dim": 33}),
        ("--device nowhere: ", {"device": "nowhere"}),
        ("format must be one of 'parquet', 'npy', 'lance', got 'csv'", {"format": "csv"}),
        ("several columns named id; pass it as --id_column instead", {"columns": ["id"]}),
        ("there is no option colums", {"colums": ["key"]}),
    ):
        with pytest.raises(ValueError, match=message):
            embed(model, corpus, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("number", "kind"), [(NULL, "null"), (LONG, r"too long \(--max_characters 400\)")])
def test_a_bad_row_is_an_error_on_request(model: Path, tmp_path: Path, number: int, kind: str) -> None:
    rows = [row for index, row in enumerate(ROWS) if index == number or index in GOOD]
    corpus, place = write_rows(tmp_path / "rows.parquet", rows), number - (number == LONG)
    with pytest.raises(UsageError, match=rf"row {place} of --corpus {corpus}: its text is {kind}\."):
        embed(model, corpus, tmp_path / "out", strict=True)
    assert len(shards_in(tmp_path / "out")) == place // 8


def test_damaged_texts_are_bad_rows(model: Path, tmp_path: Path) -> None:
    content = pa.array([b"the cat", b"\xff\xfe", b"a dog"], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), 3, content.buffers())
    parquet.write_table(pa.table({"text": texts}), tmp_path / "damaged.parquet")
    counts = embed(model, tmp_path / "damaged.parquet", tmp_path / "out")
    assert counts.bad == {"not valid UTF-8": 1}
    assert table_of(tmp_path / "out").column("embedding").is_null().to_pylist() == [False, True, False]


@pytest.mark.parametrize("kind", ["transformer", "static"])
def test_many_unknown_tokens_are_reported(
    kind: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read, special = model, 2
    if kind == "static":
        read, special = tmp_path / "static", 0
        tokenizer = AutoTokenizer.from_pretrained(model)
        static_encoder(torch.randn(len(tokenizer), 8)).save_pretrained(read)
        tokenizer.save_pretrained(read)
    corpus = write_rows(tmp_path / "rows.parquet", [{"text": "the cat 猫 是"}, {"text": "the cat"}])
    for _ in range(2):  # The second run finds the counts in the shards.
        counts = embed(read, corpus, tmp_path / "vectors")
        assert (counts.unknown, counts.tokens) == (2, 6 + 2 * special)
        assert f"{2 / counts.tokens:.0%} of the tokens are unknown to the tokenizer." in capsys.readouterr().out


@pytest.mark.parametrize("name", ["rows.txt", "rows.csv", "documentation"])
def test_every_corpus_of_pretrain_can_be_embedded(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "rows.txt").write_text("the cat\na dog\n")
    (tmp_path / "rows.csv").write_text("text,n\nthe cat,1\na dog,\n")
    texts = ["the cat", "a dog"]
    if name == "documentation":
        docs = [documentation.Docstring("file.py", "library", text, text) for text in texts]
        monkeypatch.setattr("sequence_encoder.data.corpus.read_documentation", lambda: docs)
    corpus = Path(name) if name == "documentation" else tmp_path / name
    embed(model, corpus, tmp_path / "out")
    found = table_of(tmp_path / "out").column("embedding").to_pylist()
    np.testing.assert_allclose(found, encode(model, texts), rtol=1e-5, atol=1e-6)


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name, extra in (("embed_corpus", "embed"), ("SearchIndex", "search")):
        with pytest.raises(MissingLibraryError, match=rf"{name} needs pyarrow.*sequence-encoder\[{extra}\]"):
            getattr(sequence_encoder, name)
