"""Packs fill their token budgets, epochs contain every window once, and the seed determines packs and their order."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from torch.utils.data import BatchSampler, SequentialSampler

from sequence_encoder.data.packs import Pack, PackedWindows, pack
from sequence_encoder.data.windows import Window

BUDGET = 100


def lengths(number: int, longest: int, seed: int = 0) -> list[int]:
    """Return lengths like those of windows of documents: most are short, and many have the maximum length."""
    rng = random.Random(seed)
    return [min(longest, 3 + int(rng.lognormvariate(4, 1))) for _ in range(number)]


def windows_of_lengths(found: list[int]) -> list[Window]:
    """Return windows whose token ids all equal their number."""
    return [
        {"input_ids": np.full(length - 2, number, np.int32), "cut": 0, "length": length}
        for number, length in enumerate(found)
    ]


def numbers(pack: Pack) -> list[int]:
    """Return the numbers of the windows in a pack."""
    return [int(window["input_ids"][0]) for window in pack["windows"]]


def packed(windows: Any = None, max_tokens: int = BUDGET, **options: Any) -> PackedWindows:
    windows = windows_of_lengths(lengths(300, 40)) if windows is None else windows
    return PackedWindows(windows, max_tokens, show_progress=False, **options)


def epoch(packs: PackedWindows, number: int) -> list[Pack]:
    packs.set_epoch(number)
    return list(packs)


@pytest.mark.parametrize(("longest", "budget"), [(128, 2048), (512, 8192), (512, 1024), (512, 512), (8192, 16384)])
@pytest.mark.parametrize("seed", [0, 1])
def test_budgets_are_never_exceeded_and_nearly_filled(longest: int, budget: int, seed: int) -> None:
    found = lengths(20_000, longest, seed)
    groups = list(pack(enumerate(found), budget))
    assert sorted(number for group in groups for number in group) == list(range(len(found)))
    tokens = [sum(found[number] for number in group) for group in groups]
    assert max(tokens) <= budget
    assert sum(tokens) >= 0.99 * len(tokens) * budget


def test_an_endless_stream_is_packed_with_little_lookahead() -> None:
    read: list[int] = []

    def endless() -> Iterator[tuple[int, int]]:
        rng = random.Random(0)
        for number in count():
            read.append(rng.randint(1, BUDGET))
            yield number, read[-1]

    seen: set[int] = set()
    for number, group in enumerate(islice(pack(endless(), BUDGET), 2000)):
        seen |= set(group)
        assert sum(read) <= (number + 20) * BUDGET
    # No old item is still waiting.
    assert set(range(len(read) - 100)) <= seen


@pytest.mark.parametrize("length", [0, BUDGET + 1])
def test_an_item_that_exceeds_the_budget_is_rejected(length: int) -> None:
    with pytest.raises(ValueError, match=rf"max_tokens={BUDGET} .* {length} tokens"):
        list(pack([("fits", BUDGET), ("does not", length)], BUDGET))


def test_an_epoch_contains_every_window_once() -> None:
    packs = packed()
    for number in (0, 1, 7):
        found = epoch(packs, number)
        assert len(found) == len(packs)
        assert sorted(number for pack in found for number in numbers(pack)) == list(range(300))
        assert all(sum(window["length"] for window in pack["windows"]) <= BUDGET for pack in found)
    assert packs.tokens == sum(lengths(300, 40))
    assert packs.fullness == packs.tokens / (BUDGET * len(found))


def test_each_epoch_drops_other_packs_of_the_incomplete_step() -> None:
    everything = Counter(range(300))
    left_out = []
    whole = packed()
    packs = packed(multiple_of=7)
    assert len(whole) - 7 < len(packs) < len(whole)
    assert len(packs) % 7 == 0
    for number in range(3):
        found = Counter(number for pack in epoch(packs, number) for number in numbers(pack))
        assert found <= everything
        left_out.append(frozenset(everything - found))
    assert len(set(left_out)) == 3


def test_packs_are_repeated_if_there_are_too_few_for_a_step() -> None:
    packs = packed(windows_of_lengths([40, 50, 60]), multiple_of=8)
    found = epoch(packs, 0)
    assert len(found) == 8
    counts = Counter(number for pack in found for number in numbers(pack))
    assert set(counts) == {0, 1, 2}
    assert max(counts.values()) - min(counts.values()) <= 1
    # Repeated packs have different masks.
    assert len({tuple(pack["seed"]) for pack in found}) == 8


def test_epochs_differ_in_order_and_seeds_but_not_in_packs() -> None:
    packs = packed()
    first, second = epoch(packs, 0), epoch(packs, 1)
    assert list(map(numbers, first)) != list(map(numbers, second))
    assert sorted(map(numbers, first)) == sorted(map(numbers, second))
    seeds = {tuple(pack["seed"]) for pack in first + second}
    assert len(seeds) == len(first) + len(second)


def test_progress_covers_the_whole_training() -> None:
    packs = packed()
    assert [pack["progress"] for pack in epoch(packs, 0)] == [n / len(packs) for n in range(len(packs))]
    packs.plan(2 * len(packs))
    progress = [pack["progress"] for number in range(3) for pack in epoch(packs, number)]
    assert progress[: 2 * len(packs)] == [n / (2 * len(packs)) for n in range(2 * len(packs))]
    # Training beyond the plan stays at the end.
    assert set(progress[2 * len(packs) :]) == {1.0}


@pytest.mark.parametrize("windows", [[], Dataset.from_dict({"input_ids": [], "cut": [], "length": []})])
def test_an_empty_list_of_windows_is_rejected(windows: Any) -> None:
    with pytest.raises(ValueError, match="windows is empty"):
        packed(windows)


@pytest.mark.parametrize(("processes", "batch", "accumulation"), [(1, 1, 8), (2, 1, 4), (4, 2, 1), (8, 1, 1)])
def test_a_step_has_the_same_packs_in_any_number_of_processes(processes: int, batch: int, accumulation: int) -> None:
    packs = packed(multiple_of=8)
    packs.set_epoch(1)
    batches = BatchSampler(SequentialSampler(packs), batch, drop_last=False)
    # Accelerate distributes batches to processes in this way.
    shards = [list(BatchSamplerShard(batches, processes, place)) for place in range(processes)]
    assert {len(shard) for shard in shards} == {len(packs) // (processes * batch)}
    for step in range(len(packs) // 8):
        mine = slice(step * accumulation, (step + 1) * accumulation)
        dealt = sorted(place for shard in shards for taken in shard[mine] for place in taken)
        assert dealt == list(range(8 * step, 8 * step + 8))
