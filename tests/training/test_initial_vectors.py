"""The token vectors of a new encoder start from the tokens that stand near each other in its texts."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.nn import functional as F

from sequence_encoder import SequenceEncoderForMaskedLM
from sequence_encoder.data.packs import PackedWindows
from sequence_encoder.tests.fixtures.pretraining_runs import command, write_corpus
from sequence_encoder.training.pretraining.new_model import start_from_neighbours
from sequence_encoder.training.pretraining.pretrain import prepare
from sequence_encoder.training.pretraining.run import parse

# Tokens of two topics that never meet; the last one never occurs.
TOPICS, UNSEEN = (range(5, 50), range(50, 95)), 96


@pytest.fixture
def packs() -> PackedWindows:
    """Windows of one topic each, in which two tokens are never neighbours: 5 and 6, nor 50 and 51."""
    rng, windows = random.Random(0), []
    for index in range(400):
        topic = list(TOPICS[index % 2])
        ids = rng.sample(topic[2:], 20)
        ids[::4] = [topic[index // 2 % 2]] * 5
        windows.append({"input_ids": ids, "cut": 0, "length": len(ids) + 2})
    return PackedWindows(Dataset.from_list(windows).with_format("numpy"), 100)


def start(model: Any, packs: PackedWindows) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the vectors of tokens before and after."""
    table = model.get_input_embeddings().weight
    before = table.detach().clone()
    start_from_neighbours(model, packs)
    return before, table.detach()


def test_tokens_with_the_same_neighbours_start_near_each_other(
    tiny_config: Callable[..., Any], packs: PackedWindows
) -> None:
    _, vectors = start(SequenceEncoderForMaskedLM(tiny_config("bert")), packs)
    cosines = F.normalize(vectors, dim=1) @ F.normalize(vectors, dim=1).T
    for same, other in (((5, 6), 50), ((50, 51), 5)):
        assert cosines[same] > 0.5
        assert cosines[same[0], other] < 0


def test_lengths_unseen_tokens_and_random_numbers_stay(tiny_config: Callable[..., Any], packs: PackedWindows) -> None:
    model = SequenceEncoderForMaskedLM(tiny_config("bert"))
    state = torch.random.get_rng_state()
    before, after = start(model, packs)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(after[UNSEEN], before[UNSEEN])
    torch.testing.assert_close(after[5:95].norm(dim=1), before.norm(dim=1).mean().expand(90))
    # The decoder shares the vectors.
    assert model.decoder.weight is model.get_input_embeddings().weight


def test_texts_with_fewer_tokens_than_channels_change_nothing(tiny_config: Callable[..., Any]) -> None:
    windows = Dataset.from_list([{"input_ids": np.arange(5, 20), "cut": 0, "length": 17}] * 30).with_format("numpy")
    before, after = start(SequenceEncoderForMaskedLM(tiny_config("bert")), PackedWindows(windows, 100))
    assert torch.equal(before, after)


def test_pretrain_starts_from_neighbours(tmp_path: Path) -> None:
    trainer = prepare(parse(command(write_corpus(tmp_path), tmp_path / "new")), time.perf_counter())
    lengths = trainer.model.get_input_embeddings().weight.norm(dim=1)  # type: ignore[union-attr]
    # Random vectors would differ in length.
    assert lengths.isclose(lengths.median(), rtol=1e-4).sum() > len(lengths) / 2
