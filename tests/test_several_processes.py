"""Pretraining in two processes has the losses of one, however the model is divided, and goes on in any number."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from sequence_encoder.tests.forked_python import forked_python
from sequence_encoder.tests.pretraining_runs import command, go_back, losses, run_here, write_corpus

ROOT = Path(__file__).parent.parent
STEPS = 20
several_go_on = pytest.mark.since("transformers", "5.18", "goes on in several processes of a CPU")
# A file of `examples` for each way.
divides = pytest.mark.since("accelerate", "1.10", "divides models by FSDP2 and `parallelism_config`")
WAYS = ["ddp", pytest.param("fsdp2", marks=divides), pytest.param("tensor_parallel", marks=divides)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def train(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`train(processes, way, output, **options)`: two packs a step in any number of processes; the output folder."""
    tokenizer = tmp_path_factory.mktemp("tokenizer")
    run_here(corpus, tokenizer, max_steps=1)

    def run(processes: int, way: str, output: Path | None = None, **options: Any) -> Path:
        output = output or tmp_path_factory.mktemp(f"{way}-{processes}")
        # One process divides nothing, and goes on from what several left.
        way = "ddp" if way == "tensor_parallel" and processes == 1 else way
        options = {"tokenizer": tokenizer, "max_steps": STEPS, "save_steps": STEPS // 2, "eval_documents": 3, **options}
        # Larger rates magnify the rounding of sums in another order.
        apart = 1 if way == "tensor_parallel" else processes
        options |= {"gradient_accumulation_steps": 2 // apart, "learning_rate": 2e-3}
        arguments = command(corpus, output, **options, resume=True)
        launcher = [
            forked_python(),
            "-m",
            "accelerate.commands.launch",
            "--config_file",
            str(ROOT / f"examples/{way}.yaml"),
        ]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            launcher += ["--main_process_port", str(free.getsockname()[1])]
        launcher += ["--num_processes", str(processes), "--mixed_precision", "bf16" if options.get("bf16") else "no"]
        script = [str(ROOT / "tests/fsdp_on_cpus.py")] if way != "ddp" else ["-m", "sequence_encoder", "pretrain"]
        finished = subprocess.run(
            [*launcher, *script, *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return output

    return run


@pytest.fixture(scope="module")
def one(corpus: Path, train: Callable[..., Path]) -> Path:
    return train(1, "ddp")


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def two(way: str, train: Callable[..., Path]) -> Path:
    return train(2, way)


LOSSES, ACCURACIES = ("loss", "mlm_loss", "sop_loss"), ("mlm_accuracy", "sop_accuracy")


def assert_same_losses(
    folder: Path, other: Path, atol: float = 1e-4, names: tuple[str, ...] = LOSSES + ACCURACIES
) -> None:
    ours, theirs = losses(folder), losses(other)
    assert len(ours) == len(theirs) == STEPS
    for entry, expected in zip(ours, theirs, strict=True):
        for name in names:
            assert entry.get(name) == pytest.approx(expected.get(name), abs=atol), (entry["step"], name)


def go_on(train: Callable[..., Path], processes: int, way: str, output: Path, **options: Any) -> Path:
    """Train on from the checkpoint half way."""
    state = output / f"checkpoint-{STEPS // 2}" / "trainer_state.json"
    before = state.read_bytes()
    train(processes, way, output, **options)
    # A run that started over would have written it again, with other times.
    assert state.read_bytes() == before
    return output


def test_two_processes_have_the_losses_of_one(one: Path, two: Path) -> None:
    assert_same_losses(two, one)


def test_what_two_processes_save_is_the_model_of_one(one: Path, two: Path) -> None:
    expected = AutoModelForMaskedLM.from_pretrained(one)
    model = AutoModelForMaskedLM.from_pretrained(two)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, expected(ids).logits, atol=0.02, rtol=0)
    assert {weight.dtype for weight in load_file(two / "model.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=several_go_on)])
def test_a_checkpoint_goes_on_in_another_number_of_processes(
    one: Path, way: str, two: Path, train: Callable[..., Path], tmp_path: Path, processes: int
) -> None:
    before = two if processes == 1 else train(1, way)
    output = tmp_path / "out"
    shutil.copytree(before, output)
    go_back(output, STEPS // 2)
    assert_same_losses(go_on(train, processes, way, output), one)


@divides
def test_shards_of_an_average_and_less_memory_change_no_loss(train: Callable[..., Path], tmp_path: Path) -> None:
    settings = yaml.safe_load((ROOT / "examples/fsdp2.yaml").read_text())
    assert settings["fsdp_config"]["fsdp_activation_checkpointing"]
    averaged = {"ema_decay": 0.9}
    whole, sharded = train(1, "ddp", **averaged), train(2, "fsdp2", **averaged)
    assert_same_losses(sharded, whole)
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, sharded))
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=5e-3, rtol=0)
    # Half way, an average of shards goes on in one process.
    output = tmp_path / "out"
    shutil.copytree(sharded, output)
    go_back(output, STEPS // 2)
    go_on(train, 1, "fsdp2", output, **averaged)
    for name, weight in load_file(output / "model.safetensors").items():
        torch.testing.assert_close(weight, found[name], atol=5e-3, rtol=0)


@divides
def test_bfloat16_divides_losses_by_exact_counts(train: Callable[..., Path]) -> None:
    plain, sharded = train(1, "ddp", bf16=True), train(2, "fsdp2", bf16=True)
    # A count of a thousand labels, rounded to bfloat16, would move the loss by as much as this.
    # Accuracies of the few pairs of a step are not held to that: one near 1/2 falls either way.
    assert_same_losses(sharded, plain, atol=0.02, names=LOSSES)
