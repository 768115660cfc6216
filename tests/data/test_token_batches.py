"""Token-budget batches are full, seeded, distributed over processes, and resume where training stopped."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import DataLoader
from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments

from sequence_encoder import SequenceEncoderForTokenClassification
from sequence_encoder.data.token_batches import TokenBudgetBatchSampler, TokenBudgetCollator, TokenBudgetDataset

LENGTHS = random.Random(0).choices(range(1, 40), k=699)
BUDGET = 100


def flat(batches: Any) -> list[int]:
    return list(itertools.chain.from_iterable(batches))


def test_batches_contain_every_example_once_within_the_budget() -> None:
    sampler = TokenBudgetBatchSampler(LENGTHS, BUDGET)
    assert len(sampler) == len(list(sampler))
    for _ in range(2):
        batches = list(sampler)
        assert sorted(flat(batches)) == list(range(len(LENGTHS)))
        tokens = [sum(LENGTHS[i] for i in batch) for batch in batches]
        assert max(tokens) <= BUDGET
        assert sum(tokens) / len(tokens) > 0.75 * BUDGET
    assert flat(TokenBudgetBatchSampler([3, 500, 4], BUDGET, shuffle=False)) == [0, 2, 1]


def test_the_order_depends_on_seed_and_epoch() -> None:
    one, same, other = (list(TokenBudgetBatchSampler(LENGTHS, BUDGET, seed=seed)) for seed in (0, 0, 1))
    assert one == same != other
    sampler = TokenBudgetBatchSampler(LENGTHS, BUDGET)
    first, second = list(sampler), list(sampler)
    assert first == one != second
    sampler.set_epoch(1)
    assert list(sampler) == second
    lengths = [sum(LENGTHS[i] for i in batch) / len(batch) for batch in one]
    assert lengths != sorted(lengths)


@pytest.mark.parametrize("drop_last", [False, True])
def test_processes_share_the_batches_of_an_epoch(drop_last: bool) -> None:
    whole = list(TokenBudgetBatchSampler(LENGTHS, BUDGET))
    parts = [
        list(TokenBudgetBatchSampler(LENGTHS, BUDGET, num_replicas=7, rank=rank, drop_last=drop_last))
        for rank in range(7)
    ]
    assert len({len(part) for part in parts}) == 1
    assert len(whole) % 7 != 0
    together = [batch for step in zip(*parts, strict=True) for batch in step]
    expected = whole[: len(together)] if drop_last else whole + whole[: len(together) - len(whole)]
    assert together == expected


def test_the_sampler_starts_at_a_given_batch() -> None:
    sampler = TokenBudgetBatchSampler(LENGTHS, BUDGET)
    expected = [list(sampler) for _ in range(3)]
    fresh = TokenBudgetBatchSampler(LENGTHS, BUDGET)
    fresh.start_at(1, 10)
    fresh.set_epoch(1)
    assert [list(fresh), list(fresh)] == [expected[1][10:], expected[2]]


@pytest.mark.since("accelerate", "1.15", "sets the epoch of batch samplers and distributes batches of several sizes")
def test_accelerate_sets_the_epoch_and_skips_batches() -> None:
    examples = [{"input_ids": torch.full((length,), i)} for i, length in enumerate(LENGTHS)]
    sampler = TokenBudgetBatchSampler(LENGTHS, BUDGET)
    expected = [list(sampler) for _ in range(2)][1]

    def collate(batch: list[dict[str, torch.Tensor]]) -> torch.Tensor:
        return torch.stack([example["input_ids"][0] for example in batch])

    loader = DataLoader(examples, batch_sampler=TokenBudgetBatchSampler(LENGTHS, BUDGET), collate_fn=collate)
    prepared = Accelerator(cpu=True).prepare(loader)
    prepared.set_epoch(1)
    assert [batch.tolist() for batch in skip_first_batches(prepared, 5)] == expected[5:]
    # With several processes, Accelerate wraps the sampler in this class.
    shard = BatchSamplerShard(TokenBudgetBatchSampler(LENGTHS, BUDGET), num_processes=2, process_index=0)
    shard.batch_sampler.sampler.set_epoch(1)
    assert next(iter(shard)) == expected[0]


def test_the_collator_accepts_single_examples_for_evaluation() -> None:
    examples = [{"input_ids": [5, 6]}, {"input_ids": [7]}]
    collate = TokenBudgetCollator(list)
    assert collate(examples) == collate([examples]) == collate([examples[:1], examples[1:]]) == examples


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"max_tokens": 9, "num_replicas": 2, "rank": 2}, "rank=2, num_replicas=2"),
        ({"max_tokens": 9, "lengths": [3, 0]}, "lengths must be at least 1, got 0"),
    ],
)
def test_invalid_options_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenBudgetBatchSampler(**{"lengths": LENGTHS, **options})


@pytest.fixture
def train(tiny_config: Callable[..., Any], tmp_path: Path) -> Callable[..., Trainer]:
    """Return `train(name, steps, resume)`, which trains a tiny model on token-budget batches with a plain `Trainer`."""
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(5, 97, (length,), generator=generator).tolist() for length in LENGTHS[:120]]
    examples = [{"input_ids": one, "labels": [i % 3 for i in one], "text": "to be removed"} for one in ids]

    def run(name: str, steps: int, resume: str | None = None) -> Trainer:
        torch.manual_seed(0)
        trainer = Trainer(
            SequenceEncoderForTokenClassification(tiny_config(num_labels=3)),
            TrainingArguments(
                str(tmp_path / name),
                per_device_train_batch_size=1,
                max_steps=steps,
                lr_scheduler_type="constant",
                save_steps=4,
                logging_steps=1,
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
                remove_unused_columns=False,
            ),
            train_dataset=TokenBudgetDataset(examples, BUDGET),
            data_collator=TokenBudgetCollator(
                DataCollatorWithFlattening(return_flash_attn_kwargs=True), columns=["input_ids", "labels"]
            ),
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run


def test_trainer_resumes_to_the_same_losses(train: Callable[..., Trainer], tmp_path: Path) -> None:
    whole = [entry["loss"] for entry in train("whole", 8).state.log_history if "loss" in entry]
    train("cut", 4)
    resumed = train("cut", 8, str(tmp_path / "cut" / "checkpoint-4")).state.log_history
    assert [entry["loss"] for entry in resumed if "loss" in entry] == whole
    assert len(set(whole)) == 8
