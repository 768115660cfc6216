"""A model as a JAX function gives the same numbers and gradients, and is compiled once for each length of batches.

JAX runs in a separate process, because torchax changes torch, and forks of a process with JAX can hang. The functions
that it runs are in `jax_functions.py`, which compares all other models.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from sequence_encoder import SequenceEncoderModel, to_jax
from sequence_encoder.command_line.extras import MissingLibraryError, is_installed
from sequence_encoder.tests import jax_functions
from sequence_encoder.tests.jax_functions import GRADIENTS, OUTPUTS

NEW_ENOUGH = pytest.mark.skipif(sys.version_info < (3, 11), reason="torchax needs Python 3.11")
WITH_JAX = pytest.mark.skipif(
    not (is_installed("jax") and is_installed("torchax")), reason="needs the extra jax, as in `make jax`"
)

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Return `run(function, *arguments)`, which calls a function in the process with JAX."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=jax_functions.start_quickly) as process:
        yield lambda function, *arguments: process.submit(function, *arguments).result()


@WITH_JAX
def test_the_package_does_not_import_jax(run: Run) -> None:
    assert run(jax_functions.started_without_jax)


@WITH_JAX
@pytest.mark.parametrize(
    ("model_class", "preset", "overrides"),
    [
        ("SequenceEncoderForMaskedLM", "bert", {}),  # whose embeddings and decoder share a weight
        ("SequenceEncoderForQuestionAnswering", "deberta-v3", {"conv_kernel_size": 3}),
        # Padding attends to no token here, and its gradients could be NaN.
        ("SequenceEncoderModel", "modernbert", {"layer_types": ["sliding_attention"]}),
    ],
)
def test_outputs_and_gradients_are_those_of_the_model(
    run: Run, model_class: str, preset: str, overrides: dict[str, Any]
) -> None:
    outputs, gradients = run(jax_functions.compare, model_class, preset, overrides)
    assert outputs <= OUTPUTS
    assert gradients <= GRADIENTS


@WITH_JAX
def test_a_step_is_compiled_once_for_each_bucket(run: Run) -> None:
    compiled, losses, in_torch = run(jax_functions.train)
    assert sorted(compiled) == [(2, 8), (2, 16)]
    assert sum(losses[6:]) < sum(losses[:6])  # for the same batches
    assert losses[-1] == pytest.approx(in_torch, abs=OUTPUTS)


@WITH_JAX
def test_bfloat16_and_hidden_states(run: Run) -> None:
    dtypes, difference, states = run(jax_functions.in_bfloat16)
    assert dtypes == {"last_hidden_state": "bfloat16", "pooler_output": "bfloat16"}
    assert difference < 0.1
    assert states == 2


@WITH_JAX
@pytest.mark.parametrize("input_ids", [[[5, 6]], torch.tensor([[5, 6]])], ids=["list", "tensor"])
def test_inputs_must_be_arrays(run: Run, input_ids: Any) -> None:
    with pytest.raises(ValueError, match=rf"input_ids must be an array .*, got a {type(input_ids).__name__}"):
        run(jax_functions.call, input_ids)


@WITH_JAX
@pytest.mark.parametrize(
    ("name", "message"),
    [("norm.scale", "the shape of norm.scale must be none, got"), ("layers.0.mlp_norm.bias", r"must be \(24,\), got")],
    ids=["unknown", "another shape"],
)
def test_parameters_must_be_those_of_the_model(run: Run, name: str, message: str) -> None:
    ids = np.array([[5, 6]])
    with pytest.raises(ValueError, match=rf"parameters must have the names and shapes .* {message} \(1,\)"):
        run(jax_functions.call, ids, {name: np.zeros(1, np.float32)})


@WITH_JAX
def test_other_models_are_refused(run: Run) -> None:
    with pytest.raises(ValueError, match="must be a SequenceEncoder, got a Linear"):
        run(jax_functions.convert, torch.nn.Linear(2, 2))


@NEW_ENOUGH
@pytest.mark.parametrize("missing", ["jax", "torchax"])
def test_a_missing_library_is_named_with_its_extra(
    tiny_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for name in ("jax", "torchax"):
        monkeypatch.setitem(sys.modules, name, None if name == missing else ModuleType(name))
    model = SequenceEncoderModel(tiny_config())
    with pytest.raises(MissingLibraryError, match=rf"needs {missing}, which is .*sequence-encoder\[jax\]"):
        to_jax(model)
    monkeypatch.setitem(sys.modules, missing, ModuleType(missing))  # without what an older or newer release has
    with pytest.raises(MissingLibraryError, match=r"versions .* that support torch.*sequence-encoder\[jax\]"):
        to_jax(model)
