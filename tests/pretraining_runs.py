"""Small runs of `sequence-encoder pretrain`, in this process or in separate ones."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

from transformers import Trainer

from sequence_encoder.tests.forked_python import forked_python
from sequence_encoder.tests.texts import TEXTS
from sequence_encoder.training.checkpoints import checkpoints_in, step_of
from sequence_encoder.training.pretraining.pretrain import pretrain
from sequence_encoder.training.pretraining.run import parse

TINY = {
    "size": "tiny",
    "config_overrides": "hidden_size=32,num_attention_heads=2,intermediate_size=48",
    "vocab_size": 300,
    "max_length": 48,
    "max_tokens": 192,
    "max_steps": 8,
    "logging_steps": 1,
    "save_steps": 4,
    "learning_rate": 0.01,
    "bf16": False,
    "num_proc": 1,
    "report_to": "none",
    "disable_tqdm": True,
}


def write_corpus(folder: Path) -> Path:
    """Write the texts as JSON Lines."""
    file = folder / "corpus.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    return file


def command(corpus: Path, output: Path, **options: Any) -> list[str]:
    """Return the arguments of a small run. `options` override or extend `TINY`; None removes an argument."""
    unused = [
        *(["size"] if "model" in options else []),
        *(["vocab_size"] if {"model", "tokenizer"} & {*options} else []),
    ]
    tiny = {name: value for name, value in TINY.items() if name not in unused}
    given = {"corpus": corpus, "output_dir": output, **tiny, **options}
    settings = {name: value for name, value in given.items() if value is not None}
    return [part for name, value in settings.items() for part in (f"--{name}", *str(value).split(" "))]


def run_here(corpus: Path, output: Path, **options: Any) -> Trainer:
    """Run in this process."""
    return pretrain(parse(command(corpus, output, **options)))


def start(arguments: list[str], processes: int = 1, limit: str = "") -> subprocess.Popen[str]:
    """Start a run in forks with one thread each. `limit` is a shell command to run first.

    A launcher starts several processes.
    """
    launcher = [forked_python()]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launcher += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port}"]
    line = " ".join(f"'{part}'" for part in [*launcher, "-m", "sequence_encoder", "pretrain", *arguments])
    return subprocess.Popen(
        ["bash", "-c", f"{limit}\nexec {line}"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a process, and return its exit status and its output."""
    output_text = process.communicate(timeout=300)[0]
    return process.returncode, output_text


def rewind(folder: Path, step: int) -> None:
    """Leave of a finished run what an interruption after a step would have left."""
    for path in checkpoints_in(folder):
        if step_of(path) > step:
            shutil.rmtree(path)
    # With these two files, the run would still be finished.
    for name in ("config.json", "trainer_state.json"):
        (folder / name).unlink(missing_ok=True)


def losses(output: Path) -> list[dict[str, float]]:
    """Return the training logs of each step."""
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "loss" in entry]
