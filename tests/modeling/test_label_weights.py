"""Weights of labels, with which masked diffusion trains: losses, gradients, and arguments that are refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sequence_encoder import SequenceEncoderForMaskedLM
from sequence_encoder.training.diffusion_masking import antithetic_rates, mask_at_rate


@pytest.fixture(scope="module")
def model(tiny_config: Callable[..., Any]) -> SequenceEncoderForMaskedLM:
    torch.manual_seed(0)
    return SequenceEncoderForMaskedLM(tiny_config("bert", vocab_size=40))


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 40, (4, 9), generator=generator)
    mask = torch.arange(9) < torch.tensor([9, 4, 7, 2])[:, None]
    weights = torch.rand(4, 9, generator=generator) * (torch.rand(4, 9, generator=generator) < 0.5)
    return {
        "input_ids": ids,
        "attention_mask": mask.long(),
        "labels": ids.flip(0).masked_fill(~mask, -100),
        "label_weights": weights,
    }


def expected_loss(model: SequenceEncoderForMaskedLM, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    logits = model(inputs["input_ids"], inputs["attention_mask"]).logits
    losses = F.cross_entropy(logits.flatten(0, 1), inputs["labels"].flatten(), reduction="none")
    return (losses * inputs["label_weights"].flatten()).sum() / (inputs["labels"] != -100).sum()


@pytest.mark.parametrize("training", [True, False])
def test_loss_is_the_weighted_sum_over_all_labels(model: SequenceEncoderForMaskedLM, training: bool) -> None:
    model.train(training)
    expected = expected_loss(model, batch())
    found = model(**batch())
    torch.testing.assert_close(found.loss, expected)
    wanted = torch.autograd.grad(expected, model.parameters(), allow_unused=True)
    for gradient, want in zip(
        torch.autograd.grad(found.loss, model.parameters(), allow_unused=True), wanted, strict=True
    ):
        torch.testing.assert_close(gradient, want, atol=1e-6, rtol=1e-4)
    weighted = (batch()["label_weights"] != 0) & (batch()["labels"] != -100)
    assert found.logits.shape == ((int(weighted.sum()), 40) if training else (4, 9, 40))


@pytest.mark.parametrize("training", [True, False])
def test_flat_labels_may_have_flat_weights(model: SequenceEncoderForMaskedLM, training: bool) -> None:
    model.train(training)
    flat = {name: batch()[name].flatten() for name in ("labels", "label_weights")}
    torch.testing.assert_close(model(**{**batch(), **flat}).loss, model(**batch()).loss)


def test_parts_of_a_step_add_up_to_the_loss_of_the_step(model: SequenceEncoderForMaskedLM) -> None:
    model.train()
    whole = batch()
    count = (whole["labels"] != -100).sum()
    parts = [{name: value[rows] for name, value in whole.items()} for rows in (slice(0, 1), slice(1, 4))]
    total = sum(model(**part, num_items_in_batch=count).loss for part in parts)
    torch.testing.assert_close(total, model(**whole).loss)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "label_weights needs labels"),
        ({"label_weights": torch.ones(4, 8)}, r"shape of labels, \(4, 9\), got torch.float32 of shape \(4, 8\)"),
        ({"label_weights": torch.ones(4, 9, dtype=torch.long)}, "must be floating"),
        ({"label_weights": 1.0}, "must be a tensor"),
    ],
)
def test_wrong_weights_are_refused(model: SequenceEncoderForMaskedLM, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(**{**batch(), **change})


def test_rates_cover_the_interval_and_mask_that_share() -> None:
    rng = np.random.default_rng(0)
    rates = antithetic_rates(1000, rng)
    assert np.all((np.sort(rates) * 1000).astype(int) >= np.arange(1000) - 1)
    assert rates.min() >= 1e-3
    assert rates.max() <= 1
    ids, maskable = np.arange(20_000), np.arange(20_000) % 2 == 0
    masked, weights = mask_at_rate(ids, maskable, 0.25, -1, rng)
    assert ((masked == -1) == (weights > 0)).all()
    assert not (masked == -1)[1::2].any()
    assert abs((masked == -1)[::2].mean() - 0.25) < 0.02
    assert weights.max() == 4
