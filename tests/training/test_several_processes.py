"""Pretraining in two processes has the losses of one, with each parallelism, and resumes in any number of processes."""

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

from sequence_encoder.tests.fixtures.forked_python import forked_python
from sequence_encoder.tests.fixtures.pretraining_runs import command, losses, rewind, run_here, write_corpus

ROOT = Path(__file__).parents[2]
STEPS = 8
# Each has a file in `examples`.
shards_models = pytest.mark.since("accelerate", "1.10", "shards models with FSDP2 and `parallelism_config`")
trains_sharded = pytest.mark.since("transformers", "5.21", "trains with tensor parallelism")
# A separate test trains with FSDP2.
PARALLELISMS = ["ddp", pytest.param("tensor_parallel", marks=[shards_models, trains_sharded])]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def pretrained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model with a tokenizer."""
    folder = tmp_path_factory.mktemp("pretrained")
    run_here(corpus, folder, max_steps=1)
    return folder


@pytest.fixture(scope="module")
def train(corpus: Path, pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return `train(processes, parallelism, output, **options)`, which trains on two packs per step.

    One process without sharding is this one, and a launcher starts others.
    """

    def run(processes: int, parallelism: str, output: Path | None = None, **options: Any) -> Path:
        output = output or tmp_path_factory.mktemp(f"{parallelism}-{processes}")
        # One process has nothing to shard, but resumes the checkpoints of several.
        parallelism = "ddp" if parallelism == "tensor_parallel" and processes == 1 else parallelism
        planned = {"max_steps": STEPS, "save_steps": STEPS // 2, "eval_documents": 3}
        options = {"tokenizer": pretrained, **planned, **options}
        # Larger rates amplify the rounding of sums in another order.
        apart = 1 if parallelism == "tensor_parallel" else processes
        options |= {"gradient_accumulation_steps": 2 // apart, "learning_rate": 2e-3}
        if processes == 1 and parallelism == "ddp":
            run_here(corpus, output, **options, resume=True)
            return output
        arguments = command(corpus, output, **options, resume=True)
        launcher = [
            forked_python(),
            "-m",
            "accelerate.commands.launch",
            "--config_file",
            str(ROOT / f"examples/{parallelism}.yaml"),
        ]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            launcher += ["--main_process_port", str(free.getsockname()[1])]
        launcher += ["--num_processes", str(processes), "--mixed_precision", "bf16" if options.get("bf16") else "no"]
        script = (
            [str(ROOT / "tests/fixtures/fsdp_on_cpus.py")]
            if parallelism != "ddp"
            else ["-m", "sequence_encoder", "pretrain"]
        )
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


@pytest.fixture(scope="module", params=PARALLELISMS)
def parallelism(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def two(parallelism: str, train: Callable[..., Path]) -> Path:
    return train(2, parallelism)


LOSSES, ACCURACIES = ("loss", "mlm_loss", "sop_loss"), ("sop_accuracy",)


def assert_same_losses(
    folder: Path, other: Path, atol: float = 1e-4, names: tuple[str, ...] = LOSSES + ACCURACIES
) -> None:
    ours, theirs = losses(folder), losses(other)
    assert len(ours) == len(theirs) == STEPS
    for entry, expected in zip(ours, theirs, strict=True):
        for name in names:
            assert entry.get(name) == pytest.approx(expected.get(name), abs=atol), (entry["step"], name)


def resumed(train: Callable[..., Path], processes: int, parallelism: str, output: Path, **options: Any) -> Path:
    """Train on from the checkpoint half way."""
    state = output / f"checkpoint-{STEPS // 2}" / "trainer_state.json"
    before = state.read_bytes()
    train(processes, parallelism, output, **options)
    # A run that started over would have written it again, with other times.
    assert state.read_bytes() == before
    return output


def test_two_processes_have_the_losses_of_one(one: Path, two: Path) -> None:
    assert_same_losses(two, one)


def test_two_processes_save_the_model_of_one(one: Path, two: Path) -> None:
    expected = AutoModelForMaskedLM.from_pretrained(one)
    model = AutoModelForMaskedLM.from_pretrained(two)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, expected(ids).logits, atol=0.02, rtol=0)
    assert {weight.dtype for weight in load_file(two / "model.safetensors").values()} == {torch.float32}


def test_a_checkpoint_of_two_processes_resumes_in_one(
    one: Path, parallelism: str, two: Path, train: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.copytree(two, tmp_path / "out")
    rewind(tmp_path / "out", STEPS // 2)
    assert_same_losses(resumed(train, 1, parallelism, tmp_path / "out"), one)


@pytest.mark.since("transformers", "5.18", "resumes runs of several CPU processes")
def test_a_checkpoint_of_one_process_resumes_in_two(one: Path, train: Callable[..., Path], tmp_path: Path) -> None:
    shutil.copytree(one, tmp_path / "out")
    rewind(tmp_path / "out", STEPS // 2)
    assert_same_losses(resumed(train, 2, "ddp", tmp_path / "out"), one)


@shards_models
def test_sharded_averages_and_activation_checkpointing_keep_the_losses(
    pretrained: Path, train: Callable[..., Path], tmp_path: Path
) -> None:
    settings = yaml.safe_load((ROOT / "examples/fsdp2.yaml").read_text())
    assert settings["fsdp_config"]["fsdp_activation_checkpointing"]
    averaged = {"ema_decay": 0.9, "start_share": 0.25, "model": pretrained, "tokenizer": None, "config_overrides": None}
    whole, sharded = train(1, "ddp", **averaged), train(2, "fsdp2", **averaged)
    assert_same_losses(sharded, whole)
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, sharded))
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=5e-3, rtol=0)
    # The sharded average resumes halfway in one process.
    output = tmp_path / "out"
    shutil.copytree(sharded, output)
    rewind(output, STEPS // 2)
    resumed(train, 1, "fsdp2", output, **averaged)
    for name, weight in load_file(output / "model.safetensors").items():
        torch.testing.assert_close(weight, found[name], atol=5e-3, rtol=0)


@shards_models
def test_losses_are_divided_by_exact_counts_in_bfloat16(train: Callable[..., Path]) -> None:
    plain, sharded = train(1, "ddp", bf16=True), train(2, "fsdp2", bf16=True)
    # If a count of a thousand labels were rounded to bfloat16, the loss would change by more than this.
    # Accuracies are not compared: a step has few pairs, and predictions near 1/2 may go either way.
    assert_same_losses(sharded, plain, atol=0.02, names=LOSSES)
