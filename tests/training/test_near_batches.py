"""Batches of near pairs, with which `adapt --task embedding` learns from texts that have no pairs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from sequence_encoder.training.adaptation.setups import batches as batches_of_training
from sequence_encoder.training.adaptation.setups.batches import NearBatches, _near_parts

# Each text is about one of eight things, and its vector says which.
THINGS = [f"thing{number}" for number in range(8)]
PAIRS = [(f"query {number}", f"{THINGS[number % 8]} {number}") for number in range(130)]


def vectors_of(texts: Sequence[str]) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.eye(8)[[THINGS.index(text.split()[0]) for text in texts]] + 0.01 * rng.standard_normal((len(texts), 8))


def batches(
    pairs: Sequence[tuple[str, str]], size: int = 8, drop_last: bool = False, epoch: int = 0
) -> list[list[int]]:
    found = NearBatches(pairs, vectors_of, size, drop_last, seed=3)
    found.set_epoch(epoch)
    return [*found]


def test_texts_of_a_batch_are_near_and_each_pair_is_in_one() -> None:
    found = batches(PAIRS)
    assert sorted(number for batch in found for number in batch) == [*range(130)]
    assert sorted(map(len, found)) == [2, *[8] * 16]
    different = [len({number % 8 for number in batch}) for batch in found]
    shuffled = random.Random(0).sample(range(130), 130)
    by_chance = [len({number % 8 for number in shuffled[first : first + 8]}) for first in range(0, 128, 8)]
    assert np.mean(different) < 3 < 5 < np.mean(by_chance)


def test_batches_do_not_follow_each_other_by_what_they_are_about() -> None:
    found = [NearBatches(PAIRS[:128], vectors_of, 4, False, seed) for seed in range(10)]
    first = [[batch[0] % 8 for batch in each] for each in found]
    same = np.mean([one == other for each in first for one, other in pairwise(each)])
    assert same < 0.25


def test_the_order_depends_on_the_epoch_and_repeats_for_the_same() -> None:
    assert batches(PAIRS) == batches(PAIRS) != batches(PAIRS, epoch=1)
    first, later = ({frozenset(batch) for batch in batches(PAIRS, epoch=epoch)} for epoch in (0, 1))
    assert len(first & later) < 8


@pytest.mark.parametrize("column", [0, 1])
def test_no_text_is_in_a_batch_twice(column: int) -> None:
    pairs = [list(pair) for pair in PAIRS]
    for number in range(0, 130, 3):
        pairs[number][column] = PAIRS[0][column]
    repeated = [(one, other) for one, other in pairs]
    found = batches(repeated)
    assert sorted(number for batch in found for number in batch) == [*range(130)]
    for batch in found:
        texts = [text for number in batch for text in repeated[number]]
        assert len({*texts}) == len(texts)


def test_pairs_that_a_window_leaves_are_in_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_of_training, "_WINDOW", 20)
    found = batches([(f"query {number % 20}", text) for number, (_, text) in enumerate(PAIRS)])
    assert sorted(number for batch in found for number in batch) == [*range(130)]
    assert [len(batch) for batch in found[:15]] == [8] * 15


def test_parts_are_whole_batches_and_vectors_are_of_pairs_that_are_used() -> None:
    counts = []

    def counted(texts: Sequence[str]) -> np.ndarray:
        counts.append(len(texts))
        return vectors_of(texts)

    found = iter(NearBatches(PAIRS, counted, 8, False, 0, used=26))
    first = [next(found) for _ in range(4)]
    assert counts == [24, 24]
    assert [len(batch) for batch in first] == [8] * 4
    *parts, last = _near_parts(vectors_of([text for _, text in PAIRS]), np.arange(130), 8, np.random.default_rng(0))
    assert [len(part) for part in parts] == [8] * 16
    assert len(last) == 2


def test_batches_with_fewer_pairs_can_be_left_out() -> None:
    found = batches(PAIRS, drop_last=True)
    assert [len(batch) for batch in found] == [8] * 16
    assert len(NearBatches(PAIRS, vectors_of, 8, True, 0)) == 16
    assert len(NearBatches(PAIRS, vectors_of, 8, False, 0)) == 17
