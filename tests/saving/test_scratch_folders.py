"""The next save removes what killed processes left, but nothing that is still in use."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

from sequence_encoder.saving import scratch_folders
from sequence_encoder.saving.scratch_folders import scratch_folder
from sequence_encoder.saving.staged_files import staged
from sequence_encoder.saving.whole_folders import atomic_folder

Save = Callable[[Path], AbstractContextManager[Path]]


@contextmanager
def another_process(save: Save, output: Path) -> Iterator[int]:
    """Run a process that is in the middle of a save, and kill it at the end."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        with save(output) as written:
            (written / "half.txt").write_text("half")
            os.write(writes, b".")
            signal.pause()
    assert os.read(reads, 1) == b"."
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reads)
        os.close(writes)


def stage(output: Path) -> AbstractContextManager[Path]:
    return staged(output, lambda name, new: False)


def replace(output: Path) -> AbstractContextManager[Path]:
    return atomic_folder(output, True, "--overwrite")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("save", [stage, replace])
def test_the_next_save_removes_the_folders_of_killed_saves(tmp_path: Path, save: Save) -> None:
    output = tmp_path / "model"
    for _ in range(3):
        with another_process(save, output):
            pass
    left = names(output if save is stage else tmp_path)
    assert len(left) == 1
    with save(output) as written:
        (written / "whole.txt").write_text("whole")
    assert names(tmp_path) == {"model"}
    assert names(output) == {"whole.txt"}


@pytest.mark.parametrize("save", [stage, replace])
def test_the_folder_of_a_running_save_is_kept(tmp_path: Path, save: Save) -> None:
    output = tmp_path / "model"
    with another_process(save, output):
        before = {path for path in tmp_path.rglob("*") if path.name == "half.txt"}
        with save(output) as written:
            (written / "config.json").write_text('{"model_type": "bert"}')
        assert set(tmp_path.rglob("half.txt")) == before != set()


@pytest.mark.parametrize("save", [stage, replace])
def test_two_saves_move_their_files_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Save
) -> None:
    output, barrier, move = tmp_path / "model", threading.Barrier(2), Path.replace
    output.mkdir()
    (output / "config.json").write_text('{"model_type": "sequence_encoder"}')

    def wait_for_the_other(path: Path, target: Path) -> Path:
        # If both move files at once, the barrier opens.
        with suppress(threading.BrokenBarrierError):
            barrier.wait(timeout=0.1)
        return move(path, target)

    def run(number: int) -> None:
        with save(output) as written:
            (written / "config.json").write_text(json.dumps({"model_type": "sequence_encoder", "saved_by": number}))

    monkeypatch.setattr(Path, "replace", wait_for_the_other)
    with ThreadPoolExecutor() as threads:
        list(threads.map(run, range(2)))
    assert barrier.broken
    assert names(tmp_path) == {"model"}


@pytest.mark.parametrize("killed_at", ["before the lock", "while removing"])
def test_folders_without_a_lock_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: str) -> None:
    def kill(*given: object, **named: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        if killed_at == "before the lock":
            monkeypatch.setattr(Path, "open", kill)
        else:
            monkeypatch.setattr(scratch_folders.shutil, "rmtree", kill)
        with scratch_folder(tmp_path, "_saving-") as folder:
            (folder / "model").mkdir()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(names(tmp_path)) == 1
    with scratch_folder(tmp_path, "_saving-"):
        assert len(names(tmp_path)) == 1
    assert names(tmp_path) == set()
