"""Training lasts as long as it was given, with a learning rate that follows the time, in an unmodified `Trainer`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed

from sequence_encoder import SequenceEncoderForMaskedLM
from sequence_encoder.training.quickstart.time_budget import TimeBudget

# More steps than any training here takes.
MANY, ENDLESS = 1000, 10**5
SECONDS = 40


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 12345.0

    def __call__(self) -> float:
        return self.now


class StepsOfOneSecond(TrainerCallback):
    """Lets a second pass in each step, and notes the learning rate that the step has."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.rates: list[float] = []

    def on_step_begin(self, *args: Any, optimizer: Any = None, **kwargs: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])
        self.clock.now += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


@pytest.fixture
def arguments(tmp_path: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=MANY,
        per_device_train_batch_size=2,
        logging_steps=1,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


@pytest.fixture
def trainer_for(tiny_config: Callable[..., Any], arguments: TrainingArguments) -> Callable[..., Trainer]:
    """`trainer_for(budget, *callbacks, **arguments)`: a tiny model, and a learning rate that begins with 0.01."""

    def build(budget: TimeBudget, *callbacks: TrainerCallback, **changes: Any) -> Trainer:
        for name, value in changes.items():
            setattr(arguments, name, value)
        set_seed(0)
        model = SequenceEncoderForMaskedLM(tiny_config("vanilla"))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        ids = torch.randint(1, 97, (8, 7)).tolist()
        return Trainer(
            model,
            arguments,
            train_dataset=[{"input_ids": row, "labels": row} for row in ids],
            optimizers=(optimizer, budget.schedule(optimizer)),
            callbacks=[*callbacks, budget],
        )

    return build


@pytest.fixture
def rates(clock: Clock, arguments: TrainingArguments) -> Callable[..., list[float]]:
    """`rates(times, seconds, **options)`: the factor of the learning rate at these times of a budget."""

    def follow(times: list[float], seconds: float = 100, **options: float) -> list[float]:
        budget = TimeBudget(seconds)
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = budget.schedule(optimizer, **options)
        budget.on_train_begin(arguments, TrainerState(is_world_process_zero=False), TrainerControl())
        started, found = clock.now, []
        for at in times:
            clock.now = started + at
            optimizer.step()
            scheduler.step()
            found.append(scheduler.get_last_lr()[0])
        return found

    return follow


def test_training_ends_by_itself_on_a_real_clock(trainer_for: Callable[..., Trainer]) -> None:
    budget = TimeBudget(0.5)
    trainer = trainer_for(budget, max_steps=ENDLESS)
    before = time.perf_counter()
    result = trainer.train()
    assert time.perf_counter() - before >= 0.5
    assert 0 < result.global_step < ENDLESS
    assert 0 < result.training_loss < float("inf")
    assert budget.progress() == 1


@pytest.mark.parametrize("seconds", [1, 7, 6.5])
def test_training_ends_with_the_first_step_that_is_over_the_time(
    trainer_for: Callable[..., Trainer], clock: Clock, seconds: float
) -> None:
    trainer = trainer_for(TimeBudget(seconds), StepsOfOneSecond(clock))
    # What passes before training is not counted.
    clock.now += 1000
    assert trainer.train().global_step == math.ceil(seconds)


def test_a_budget_starts_anew_with_each_training(trainer_for: Callable[..., Trainer], clock: Clock) -> None:
    budget = TimeBudget(5)
    first = trainer_for(budget, StepsOfOneSecond(clock)).train()
    clock.now += 1000
    again = trainer_for(budget, StepsOfOneSecond(clock)).train()
    assert first.global_step == again.global_step == 5


def test_the_learning_rate_of_a_training_rises_and_falls_and_is_never_zero(
    trainer_for: Callable[..., Trainer], clock: Clock
) -> None:
    steps = StepsOfOneSecond(clock)
    trainer_for(TimeBudget(SECONDS), steps).train()
    assert len(steps.rates) == SECONDS
    peak = steps.rates.index(max(steps.rates))
    assert all(before < after for before, after in pairwise(steps.rates[: peak + 1]))
    assert all(before > after for before, after in pairwise(steps.rates[peak:]))
    assert steps.rates[peak] == pytest.approx(0.01)
    assert peak == 0.1 * SECONDS
    assert min(steps.rates) > 0


@pytest.mark.parametrize("warmup", [0.1, 0.25, 0.5])
def test_the_schedule_is_two_straight_lines_that_meet_at_the_end_of_the_warm_up(
    rates: Callable[..., list[float]], warmup: float
) -> None:
    times = list(range(2, 99))
    found = dict(zip(times, rates(times, warmup=warmup), strict=True))
    top = round(100 * warmup)
    assert found[top] == pytest.approx(1)
    for at in times:
        expected = at / top if at <= top else (100 - at) / (100 - top)
        assert found[at] == pytest.approx(expected)


@pytest.mark.parametrize("seconds", [0, -1.5, float("nan")])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match=f"seconds must be positive, got {seconds}"):
        TimeBudget(seconds)


def test_the_schedule_is_never_zero_and_at_most_one(rates: Callable[..., list[float]]) -> None:
    found = rates([0, 1e-9, 0.5, 9.9, 10, 10.1, 99.9, 100, 101, 1e6])
    assert all(0 < rate <= 1 for rate in found)
    assert max(found[0], found[-1]) < 0.1


def test_the_learning_rate_follows_the_time_and_not_the_number_of_steps(rates: Callable[..., list[float]]) -> None:
    often = rates([20] * 50 + [60])
    assert len(set(often[:50])) == 1
    assert often[-2:] == rates([20, 60])
    assert rates([2, 6], seconds=10) == pytest.approx(rates([20, 60], seconds=100))


def test_the_clock_stands_before_and_after_training(trainer_for: Callable[..., Trainer], clock: Clock) -> None:
    budget = TimeBudget(10)
    trainer = trainer_for(budget, StepsOfOneSecond(clock), max_steps=4)
    clock.now += 1000
    assert budget.progress() == 0
    assert trainer.train().global_step == 4
    rate = trainer.lr_scheduler.get_last_lr()
    clock.now += 1000
    assert budget.progress() == pytest.approx(0.4)
    trainer.lr_scheduler.step()
    assert trainer.lr_scheduler.get_last_lr() == pytest.approx(rate)


def test_the_learning_rate_of_a_finished_budget_is_its_lowest(
    trainer_for: Callable[..., Trainer], clock: Clock
) -> None:
    budget, steps = TimeBudget(10), StepsOfOneSecond(clock)
    trainer = trainer_for(budget, steps)
    trainer.train()
    clock.now += 1000
    assert budget.progress() == 1
    trainer.lr_scheduler.step()
    assert 0 < trainer.lr_scheduler.get_last_lr()[0] <= min(steps.rates)


def test_the_bar_shows_the_time_the_step_and_the_loss(
    trainer_for: Callable[..., Trainer], clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = trainer_for(TimeBudget(7, "Learning"), StepsOfOneSecond(clock))
    trainer.train()
    last = capsys.readouterr().err.rstrip().split("\r")[-1]
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert "Learning: 100%" in last
    assert "7/7 s" in last
    assert f"step 7, loss {float(losses[-1]):.3f}" in last


def test_several_processes_whose_clocks_differ_are_refused(
    arguments: TrainingArguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingArguments, "world_size", property(lambda _: 2))
    with pytest.raises(ValueError, match="one process, got 2"):
        TimeBudget(1).on_train_begin(arguments, TrainerState(), TrainerControl())
