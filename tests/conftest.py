"""Fixtures for all tests: tiny models and ragged batches. All sizes differ, so that a swapped axis fails."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version
from torch.utils.data import _utils
from transformers import BertConfig, BertForMaskedLM

from sequence_encoder import PRESETS, SequenceEncoderConfig, SequenceEncoderTokenizer
from sequence_encoder.tests.fixtures.forked_python import forked_python
from sequence_encoder.tests.fixtures.hub_server import Hub
from sequence_encoder.tests.fixtures.vector_folders import save_vector_folders

TINY: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    **{f"{name}_dropout": 0.0 for name in ("hidden", "attention", "mlp", "embedding", "classifier")},
    **{f"{name}_token_id": None for name in ("bos", "eos", "cls", "sep", "mask")},
}

# When a data loader is garbage collected, torch waits this many seconds for each worker before it kills the worker.
_utils.MP_STATUS_CHECK_INTERVAL = 0.1
# The many small objects of transformers and torch would otherwise make the collector take a tenth of the time.
gc.set_threshold(20_000, 20, 100)
# A second thread does not speed up tiny tensors, and slows them down on busy cores.
torch.set_num_threads(1)
# Background processes of a shell ignore Ctrl-C, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)

_resolve = socket.getaddrinfo
_refused: list[Any] = []
_frozen: list[Any] = [None]


def _resolve_local(host: Any, *given: Any, **options: Any) -> Any:
    """Resolve the names of this machine alone. All others fail at once, where a resolver can take many seconds."""
    if host not in (None, "", "localhost", "127.0.0.1", "::1", socket.gethostname()):
        _refused.append(host)
        raise socket.gaierror(socket.EAI_NONAME, f"The tests have no network; {host!r} was asked for.")
    return _resolve(host, *given, **options)


socket.getaddrinfo = _resolve_local


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Run selected tests in this process: each worker would import and collect everything for a few tests."""
    if config.option.keyword or config.args_source is config.ArgsSource.ARGS:
        config.option.dist = "no"
        return 0
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that are marked `since(library, version, what)` if the installed library is older."""
    for mark in item.iter_markers("since"):
        library, first, what = mark.args
        if Version(version(library)) < Version(first):
            pytest.skip(f"{library} {what} since {first}")


@pytest.fixture(scope="session")
def without_package(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Return `without_package(code, *arguments)`, which runs code without the package and without a Hub.

    The code runs in a fork that shares its imports with others, or in a new process with `fresh=True`. The function
    returns the last line that it prints, parsed as JSON.
    """
    modules = tmp_path_factory.mktemp("modules")
    start = "import sys; sys.modules['sequence_encoder'] = None; import torch; torch.set_num_threads(1)\n"
    # For each load, transformers parses all code again, to find the libraries that it imports.
    start += "from functools import cache; from transformers import dynamic_module_utils as remote_code\n"
    start += "remote_code.get_imports = cache(remote_code.get_imports)\n"

    def run(code: str, *arguments: Any, fresh: bool = False) -> Any:
        own = {"HF_MODULES_CACHE": str(modules), "HF_HUB_OFFLINE": "1"} if fresh else {}
        result = subprocess.run(
            [sys.executable if fresh else forked_python(), "-c", start + code, *map(str, arguments)],
            env={**os.environ, **own},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout.splitlines()[-1])

    return run


@pytest.fixture(autouse=True)
def _freeze(request: pytest.FixtureRequest) -> None:
    """Exclude modules and earlier tests from garbage collection: each `Trainer` starts a full collection."""
    now = (request.path, len(sys.modules) // 100)
    if now != _frozen[-1]:
        _frozen[:] = [now]
        gc.collect()
        gc.freeze()


@pytest.fixture
def refused_hosts() -> list[Any]:
    """Return a list that receives the names of the other machines that a test asks for."""
    _refused.clear()
    return _refused


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., SequenceEncoderConfig]:
    """Return `tiny_config(preset, **overrides)`, which builds a preset with few parameters and without dropout."""

    def build(preset: str = "vanilla", **overrides: Any) -> SequenceEncoderConfig:
        window = {"sliding_window": 3} if "sliding_window" in PRESETS[preset] else {}
        return SequenceEncoderConfig.from_preset(preset, **{**TINY, **window, **overrides})

    return build


@pytest.fixture(scope="session")
def randomize() -> Callable[..., Any]:
    """Return `randomize(model, seed=0)`, which adds noise to all trained weights, so that none is exactly zero or one.

    The function returns the model in eval mode.
    """

    def add_noise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.empty(parameter.shape).normal_(std=0.2, generator=generator))
        return model.eval()

    return add_noise


@pytest.fixture(scope="session")
def ragged() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Return `ragged(lengths, side="right", to=None)`, which builds input_ids and attention_mask of padded texts.

    Texts are padded to the longest text or to `to`. The text of a row does not depend on the padding. The padding
    consists of random tokens, so that a test fails if a model reads it.
    """

    def build(lengths: list[int], side: str = "right", to: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        seq = to or max(lengths)
        ids = torch.randint(1, TINY["vocab_size"], (len(lengths), seq), generator=torch.Generator().manual_seed(seq))
        mask = torch.zeros_like(ids)
        for row, length in enumerate(lengths):
            place = slice(0, length) if side == "right" else slice(seq - length, seq)
            seeded = torch.Generator().manual_seed(1000 * row + length)
            text = torch.randint(1, TINY["vocab_size"], (length,), generator=seeded)
            ids[row, place], mask[row, place] = text, 1
        return ids, mask

    return build


@pytest.fixture(scope="session")
def vector_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folders of `save_vector_folders`."""
    pytest.importorskip("sentence_transformers.multi_vector_encoder", reason="needs sentence-transformers 6")
    return save_vector_folders(tmp_path_factory.mktemp("vectors"))


@pytest.fixture
def bert_folder(tmp_path: Path, randomize: Callable[..., Any]) -> Path:
    """Save a tiny BERT with its tokenizer in a folder in the format of sentence-transformers."""
    folder = tmp_path / "bert"
    texts = ["a model of a text", "the text is short", "return the weights of a model"] * 3
    tokenizer = SequenceEncoderTokenizer.train_from_iterator(texts, vocab_size=90, show_progress=False)
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=16,
    )
    randomize(BertForMaskedLM(config)).save_pretrained(folder)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    listed = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in modules]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (folder / "README.md").write_text("by someone")
    (folder / "pytorch_model.bin").write_text("weights of another format")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """Serve a Hub for the tests of a file. The token `hf_of_the_user` belongs to `user`."""
    with Hub({"hf_of_the_user": "user"}).serve() as hub:
        yield hub
