"""Trials time steps, and stop before they take much of the time that the user allows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

from sequence_encoder.training import trials
from sequence_encoder.training.trials import affordable_steps, evaluations_of, seconds_of_step, trial_arguments


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.weight(x).square().mean(), "logits": self.weight(x)}


def trainer_of(folder: Path, evaluated: bool = False, **options: Any) -> tuple[Trainer, TrainingArguments]:
    args = TrainingArguments(str(folder), use_cpu=True, report_to=[], per_device_train_batch_size=2, **options)
    rows = [{"x": torch.ones(2)} for _ in range(40)]
    held_out = rows if evaluated else None
    return Trainer(Model(), trial_arguments(args, folder), train_dataset=rows, eval_dataset=held_out), args


@pytest.mark.parametrize(("seconds", "steps"), [(1e-9, 2), (1e9, 6)])
def test_a_trial_of_slow_steps_is_shorter(tmp_path: Path, seconds: float, steps: int) -> None:
    trainer, _ = trainer_of(tmp_path)
    assert seconds_of_step(trainer, seconds) > 0
    assert trainer.state.global_step == steps


def test_all_steps_are_affordable_with_enough_time_and_ten_without(tmp_path: Path) -> None:
    for seconds, steps in ((1e9, 500), (1e-9, 10)):
        trainer, args = trainer_of(tmp_path)
        args.seconds = seconds
        assert affordable_steps(trainer, args, 500, time.perf_counter(), more=1) == steps


@pytest.mark.parametrize("more", [0, 4])
def test_evaluations_leave_less_time_for_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int) -> None:
    monkeypatch.setattr(trials, "seconds_of_step", lambda trainer, seconds: 1.0)
    monkeypatch.setattr(trials, "PLANNED", 1.0)
    times = iter([0.0, 10.0, 20.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    trainer, args = trainer_of(tmp_path, evaluated=True, eval_strategy="steps", eval_steps=5)
    trainer.evaluate = lambda: None
    args.seconds = 320.0
    # 20 seconds are over, an evaluation takes 10, and five steps with one take 15.
    assert affordable_steps(trainer, args, 500, 0.0, more) == (300 - 10 * more) // 3


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, (0.0, 0.0)),
        ({"eval_strategy": "epoch", "num_train_epochs": 2}, (1.0, 2 / 500)),
        ({"eval_strategy": "steps", "eval_steps": 5}, (0.0, 1 / 5)),
        ({"eval_strategy": "steps", "eval_steps": 0.2}, (5.0, 0.0)),
        ({"eval_strategy": "steps", "logging_steps": 20}, (0.0, 1 / 20)),
    ],
)
def test_evaluations_are_counted(tmp_path: Path, options: dict[str, Any], found: tuple[float, float]) -> None:
    _, args = trainer_of(tmp_path, **options)
    assert evaluations_of(args, 500) == found
