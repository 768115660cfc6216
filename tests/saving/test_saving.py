"""Saving over an older model replaces all of its files or none, and does not touch other files."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from sequence_encoder import SequenceEncoderConfig, SequenceEncoderModel, SequenceEncoderTokenizer
from sequence_encoder.saving.staged_files import staged
from sequence_encoder.tests.fixtures.forked_python import forked_python

Build = Callable[..., Any]


@pytest.fixture
def old(tiny_config: Build, randomize: Build) -> SequenceEncoderModel:
    return randomize(SequenceEncoderModel(tiny_config("bert")), seed=1)


@pytest.fixture
def new(tiny_config: Build, randomize: Build) -> SequenceEncoderModel:
    return randomize(SequenceEncoderModel(tiny_config("bert")), seed=2)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_weights(folder: Path, model: SequenceEncoderModel, **options: Any) -> None:
    loaded, report = SequenceEncoderModel.from_pretrained(folder, output_loading_info=True, **options)
    assert {kind: list(keys) for kind, keys in report.items() if keys} == {}
    torch.testing.assert_close(dict(loaded.state_dict()), dict(model.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("before", ["50GB", "20KB"])
@pytest.mark.parametrize("after", ["50GB", "20KB", "30KB"])
def test_single_and_sharded_weights_replace_each_other(
    old: SequenceEncoderModel, new: SequenceEncoderModel, tmp_path: Path, before: str, after: str
) -> None:
    old.save_pretrained(tmp_path / "model", max_shard_size=before)
    new.save_pretrained(tmp_path / "model", max_shard_size=after)
    assert_same_weights(tmp_path / "model", new)
    new.save_pretrained(tmp_path / "fresh", max_shard_size=after)
    assert contents(tmp_path / "model").keys() == contents(tmp_path / "fresh").keys()


def test_concurrent_saves_into_one_folder_all_finish(tmp_path: Path) -> None:
    def save(version: str) -> None:
        for _ in range(50):
            with staged(tmp_path, lambda name, new: name not in new) as written:
                for name in "abcdef":
                    (written / name).write_text(version)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(save, "123"))
    assert set(contents(tmp_path)) == set("abcdef")


def test_other_files_in_the_folder_are_kept(new: SequenceEncoderModel, tmp_path: Path) -> None:
    others = {
        "losses.py": b"mine",
        "layers.py": b"mine",
        "notes.txt": b"mine",
        "checkpoint-1/model.safetensors": b"kept",
        "adapter_model.safetensors": b"kept",
    }
    for name, content in others.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    new.save_pretrained(tmp_path)
    assert others.items() <= contents(tmp_path).items()
    assert_same_weights(tmp_path, new)


FAIL = """
import resource, signal, sys
import sequence_encoder
from transformers import AutoTokenizer
if sys.argv[3] == "killed":
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
model = sequence_encoder.SequenceEncoderModel.from_pretrained(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))
model.save_pretrained(sys.argv[2])
"""


@pytest.mark.parametrize("end", ["error", "killed"])
def test_a_failed_save_changes_nothing(tiny_config: Build, randomize: Build, tmp_path: Path, end: str) -> None:
    """A limit on the file size lets the code be written, but makes writing the larger weights fail halfway."""
    for seed, name in enumerate(("old", "new")):
        randomize(SequenceEncoderModel(tiny_config("bert", vocab_size=5000)), seed=seed).save_pretrained(
            tmp_path / name
        )
    before = contents(tmp_path / "old")
    limit = max(len(content) for name, content in before.items() if name != "model.safetensors") + 1000
    assert len(before["model.safetensors"]) > limit
    finished = subprocess.run(
        [forked_python(), "-c", FAIL, str(tmp_path / "new"), str(tmp_path / "old"), end, str(limit)],
        capture_output=True,
        check=False,
    )
    assert finished.returncode == (-signal.SIGXFSZ if end == "killed" else 1), finished.stderr
    after = contents(tmp_path / "old")
    if end == "killed":
        after = {name: content for name, content in after.items() if not name.startswith("_saving-")}
    assert after == before


def test_a_failure_while_moving_files_is_rolled_back(tmp_path: Path) -> None:
    for name in ("a.txt", "left.txt", "sub"):
        (tmp_path / name).write_text("old")
    before = contents(tmp_path)

    def save() -> None:
        with staged(tmp_path, lambda name, _: name == "left.txt") as written:
            (written / "a.txt").write_text("new")
            (written / "sub").mkdir()
            (written / "sub" / "b.txt").write_text("new")

    with pytest.raises(OSError, match="sub"):
        save()
    assert contents(tmp_path) == before


def test_a_folder_in_place_of_a_file_is_rejected_before_anything_is_moved(
    new: SequenceEncoderModel, tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(FileExistsError, match=r"model\.safetensors is a folder"):
        new.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("kind", ["model", "configuration", "tokenizer"])
def test_a_file_in_place_of_the_folder_is_rejected(
    new: SequenceEncoderModel, tokenizer: SequenceEncoderTokenizer, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "taken").write_text("mine")
    saved = {"model": new, "configuration": new.config, "tokenizer": tokenizer}[kind]
    with pytest.raises(FileExistsError, match="taken is a file; save_pretrained needs a folder"):
        saved.save_pretrained(tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize("kind", ["model", "configuration", "tokenizer"])
def test_a_path_where_no_folder_can_be_created_is_rejected(
    new: SequenceEncoderModel, tokenizer: SequenceEncoderTokenizer, tmp_path: Path, kind: str
) -> None:
    saved = {"model": new, "configuration": new.config, "tokenizer": tokenizer}[kind]
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match=r"dangling is a link to .*nowhere, which does not exist"):
        saved.save_pretrained(tmp_path / "dangling")
    for path in ("file/model", "file/deep/model", "dangling/model"):
        with pytest.raises(NotADirectoryError, match=f"{path} cannot be written: .* is not a folder"):
            saved.save_pretrained(tmp_path / path)
    if Path("/proc").is_dir():
        with pytest.raises(OSError, match="Cannot create this folder"):
            saved.save_pretrained("/proc/model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file"]


@pytest.fixture
def tokenizer() -> SequenceEncoderTokenizer:
    return SequenceEncoderTokenizer.train_from_iterator(["a text", "another text"], vocab_size=60, show_progress=False)


def test_saving_leaves_a_complete_configuration_and_no_temporary_files(
    new: SequenceEncoderModel, tokenizer: SequenceEncoderTokenizer, tmp_path: Path
) -> None:
    for saved in (new, new.config, tokenizer):
        saved.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(("_saving", "."))] == []
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == SequenceEncoderConfig.model_type
