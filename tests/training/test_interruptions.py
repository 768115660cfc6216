"""Interrupted pretraining resumes from the last complete checkpoint, and ends with the same weights."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sequence_encoder.command_line import UsageError
from sequence_encoder.tests.fixtures.comparisons import assert_same_weights
from sequence_encoder.tests.fixtures.pretraining_runs import command, finish, rewind, run_here, start, write_corpus
from sequence_encoder.training.checkpoints import (
    MARKER,
    checkpoints_in,
    last_complete_checkpoint,
    remove_incomplete,
    step_of,
)
from sequence_encoder.training.pretraining.pretrain import run_pretraining
from sequence_encoder.training.pretraining.run import parse

STEPS, SAVED_EVERY = 16, 4
# All that has state: dropout, averaged weights, a mask schedule, gradient accumulation.
OPTIONS = {
    "preset": "bert",
    "ema_decay": 0.9,
    "mlm_schedule": "linear",
    "gradient_accumulation_steps": 2,
    "max_steps": STEPS,
    "save_steps": SAVED_EVERY,
    "muon": True,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def arguments(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """Return `arguments(output, **options)`, which returns the arguments of a run with a fixed tokenizer."""
    tokenizer = tmp_path_factory.mktemp("tokenizer")
    run_here(corpus, tokenizer, max_steps=1)
    return lambda output, **options: command(corpus, output, **{**OPTIONS, "tokenizer": tokenizer, **options})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def wait_for(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.001)


def newest_step(folder: Path) -> int:
    return max((int(path.name.split("-")[1]) for path in checkpoints_in(folder)), default=0)


@pytest.fixture(scope="module")
def uninterrupted(arguments: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run in this process, which iterates over sets in another order than the other runs."""
    output = tmp_path_factory.mktemp("uninterrupted")
    run_pretraining(parse(arguments(output)))
    return output


def test_a_killed_run_resumes_to_the_same_weights_bit_for_bit(
    arguments: Callable[..., list[str]], uninterrupted: Path, tmp_path: Path
) -> None:
    """The run is killed twice: while it writes a checkpoint, whose folder has just appeared, and between two."""
    for step, share in ((SAVED_EVERY, 0.0), (3 * SAVED_EVERY, 0.5)):
        process = start(arguments(tmp_path, resume=True))
        wait_for(lambda step=step: newest_step(tmp_path) >= step - SAVED_EVERY)
        before = time.monotonic()
        wait_for(lambda step=step, process=process: newest_step(tmp_path) >= step or process.poll() is not None)
        # A fast machine would finish the run in any fixed time.
        time.sleep(share * (time.monotonic() - before))
        process.kill()
        process.communicate()
    assert not (tmp_path / "config.json").exists()
    run_pretraining(parse(arguments(tmp_path, resume=True)))
    assert_same_weights(tmp_path, uninterrupted)


@pytest.mark.since("transformers", "5.18", "resumes runs of several CPU processes")
def test_a_run_in_two_processes_survives_the_death_of_one(
    arguments: Callable[..., list[str]], uninterrupted: Path, tmp_path: Path
) -> None:
    options = {"gradient_accumulation_steps": 1, "save_total_limit": 0, "resume": True}
    process = start(arguments(tmp_path, **options), processes=2)
    wait_for(lambda: newest_step(tmp_path) >= 2 * SAVED_EVERY)
    os.kill(workers_in(tmp_path)[1], signal.SIGKILL)
    status, output_text = finish(process)
    # The launcher ends the other one.
    assert status != 0, output_text
    last = last_complete_checkpoint(tmp_path)
    assert last is not None
    before = contents(last)
    status, output_text = finish(start(arguments(tmp_path, **options), processes=2))
    assert status == 0, output_text
    # A run that started over would have written this checkpoint again, with other times.
    assert contents(last) == before
    # Dropout is drawn in each process, so that only what was seen is the same as in one.
    assert steps_of(tmp_path) == steps_of(uninterrupted)


def workers_in(output: Path) -> list[int]:
    """Return the processes, without their launcher, whose command line ends with arguments for this folder."""
    commands = {int(file.parent.name): file.read_bytes().split(b"\0") for file in Path("/proc").glob("[0-9]*/cmdline")}
    return sorted(
        number for number, parts in commands.items() if bytes(output) in parts and b"torch.distributed.run" not in parts
    )


def steps_of(folder: Path) -> list[int]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["step"] for entry in history if "loss" in entry]


def test_a_full_disk_keeps_the_last_complete_checkpoint_and_names_the_remedy(
    arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    """A limit on the file size simulates the full disk: writing fails in the same way."""
    run_pretraining(parse(arguments(tmp_path, max_steps=SAVED_EVERY)))
    (tmp_path / "config.json").unlink()
    # In blocks of 1,024 bytes. The small files fit, but the state of the optimizer does not.
    largest = (tmp_path / f"checkpoint-{SAVED_EVERY}" / "optimizer.pt").stat().st_size
    limit, continued = f"ulimit -f {largest // 1024 - 10}", {"max_steps": 2 * SAVED_EVERY, "resume": True}
    status, output_text = finish(start(arguments(tmp_path, **continued), limit=limit))
    assert status == 1
    assert "a checkpoint could not be written" in output_text
    assert f"The last complete checkpoint is {tmp_path / f'checkpoint-{SAVED_EVERY}'}" in output_text
    assert "--resume" in output_text
    assert "Traceback" not in output_text
    assert [path.name for path in checkpoints_in(tmp_path)] == [f"checkpoint-{SAVED_EVERY}"]
    run_pretraining(parse(arguments(tmp_path, **continued)))


def test_a_nan_loss_stops_the_run_before_saving(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"became NaN or infinite.*--learning_rate"):
        run_here(corpus, tmp_path, learning_rate=1e30, warmup_steps=0, save_steps=1)
    for path in checkpoints_in(tmp_path):
        assert all(weight.isfinite().all() for weight in weights(path).values())


def test_a_new_learning_rate_replaces_that_of_the_checkpoint(corpus: Path, tmp_path: Path) -> None:
    run_here(corpus, tmp_path, lr_scheduler_type="constant", max_steps=8, save_steps=4)
    rewind(tmp_path, 4)
    run_here(corpus, tmp_path, lr_scheduler_type="constant", max_steps=8, save_steps=4, learning_rate=1e-4, resume=True)
    history = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    rates = {entry["step"]: entry["learning_rate"] for entry in history if "loss" in entry}
    assert [rates[step] for step in range(1, 9)] == [0.01] * 4 + [1e-4] * 4


def test_only_complete_checkpoints_count(tmp_path: Path) -> None:
    for step in (5, 10, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for other in ("checkpoint-x", "runs", "checkpoint-"):
        (tmp_path / other).mkdir()
    assert last_complete_checkpoint(tmp_path) is None
    for step in (5, 10):
        (tmp_path / f"checkpoint-{step}" / MARKER).touch()
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert remove_incomplete(tmp_path) == [tmp_path / "checkpoint-100"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoint-5",
        "checkpoint-10",
        "checkpoint-x",
        "runs",
        "checkpoint-",
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "options",
    [
        {"max_steps": None, "num_train_epochs": 1.1, "max_tokens": 1024, "gradient_accumulation_steps": 2},
        {"max_steps": 7, "gradient_accumulation_steps": 2, "ema_decay": 0.9},
        {"max_steps": 7, "streaming": True, "shuffle_buffer": 3},
    ],
)
def test_resuming_gives_the_same_weights_and_never_changes_a_finished_run(
    corpus: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    options = {"preset": "bert", "save_steps": 3, "save_total_limit": 0, "lr_scheduler_type": "constant", **options}
    run_here(corpus, tmp_path / "whole", **options)
    steps = [step_of(path) for path in checkpoints_in(tmp_path / "whole")]
    for step in steps:
        shutil.copytree(tmp_path / "whole", tmp_path / "out")
        rewind(tmp_path / "out", step)
        trainer = run_here(corpus, tmp_path / "out", **options, resume=True)
        assert trainer.state.global_step == steps[-1]
        assert_same_weights(tmp_path / "out", tmp_path / "whole")
        assert [step_of(path) for path in checkpoints_in(tmp_path / "out")] == steps
        before = contents(tmp_path / "out")
        trainer = run_here(corpus, tmp_path / "out", **options, resume=True)
        assert contents(tmp_path / "out") == before
        for name, weight in weights(tmp_path / "out").items():
            assert torch.equal(trainer.model.state_dict()[name], weight)
        shutil.rmtree(tmp_path / "out")


def test_save_total_limit_keeps_the_newest_complete_checkpoints(corpus: Path, tmp_path: Path) -> None:
    run_here(corpus, tmp_path, save_steps=2, max_steps=8, save_total_limit=2)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-6", "checkpoint-8"]
    assert all((path / MARKER).exists() for path in checkpoints_in(tmp_path))


def test_a_damaged_checkpoint_is_named(corpus: Path, tmp_path: Path) -> None:
    run_here(corpus, tmp_path, max_steps=8)
    damaged = tmp_path / "checkpoint-8"
    for file in ("model.safetensors", "optimizer.pt"):
        whole = (damaged / file).read_bytes()
        (damaged / file).write_bytes(whole[:1000])
        with pytest.raises(UsageError, match=f"{damaged} is damaged"):
            run_here(corpus, tmp_path, max_steps=12, resume=True)
        (damaged / file).write_bytes(whole)
    run_here(corpus, tmp_path, max_steps=12, resume=True)


def test_a_broken_stream_ends_the_run_with_the_error_of_its_reader(corpus: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    shutil.copy(corpus, shards / "0.jsonl")
    # The first rows of each file are checked before training. These have no token.
    (shards / "1.jsonl").write_text('{"text": ""}\n' * 300 + '{"text": "brok')
    run_here(corpus, tmp_path / "first", max_steps=1)
    with pytest.raises(UsageError, match="the stream cannot be read"):
        run_here(
            shards,
            tmp_path / "out",
            tokenizer=tmp_path / "first",
            streaming=True,
            shuffle_buffer=3,
            max_steps=100,
            save_steps=4,
        )
    assert last_complete_checkpoint(tmp_path / "out") is not None
