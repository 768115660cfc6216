"""`MuonWithAdamW` updates each weight like Muon or AdamW alone, also after saving and loading."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from sequence_encoder import SequenceEncoderForPreTraining
from sequence_encoder.training.optimizer import MuonWithAdamW, orthogonalize

RATE = 1e-2
MATRICES = {"head.dense.weight"} | {
    f"model.layers.{layer}.{matrix}.weight"
    for layer in range(3)
    for matrix in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
}


@pytest.fixture
def model(tiny_config: Callable[..., Any]) -> PreTrainedModel:
    return SequenceEncoderForPreTraining(tiny_config("modernbert", type_vocab_size=2)).train()


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 97, (4, 11))
    return {"input_ids": ids, "labels": ids, "sentence_order_label": torch.tensor([0, 1, 1, 0])}


def step(model: PreTrainedModel, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor]) -> float:
    loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def names_of(model: PreTrainedModel, groups: list[dict[str, Any]]) -> list[str]:
    names = {id(weight): name for name, weight in model.named_parameters()}
    return [names[id(weight)] for group in groups for weight in group["params"]]


@pytest.mark.parametrize("tied", [True, False])
def test_muon_gets_the_hidden_matrices_and_adamw_the_rest(tiny_config: Callable[..., Any], tied: bool) -> None:
    model = SequenceEncoderForPreTraining(tiny_config("modernbert", tie_word_embeddings=tied))
    groups = MuonWithAdamW(model, RATE).param_groups
    assert sorted(names_of(model, groups)) == sorted(name for name, _ in model.named_parameters())
    assert set(names_of(model, [group for group in groups if not group["adamw"]])) == MATRICES


@pytest.mark.parametrize("trained", ["norm", "o_proj"])
def test_only_one_kind_of_weights_may_be_trainable(
    model: PreTrainedModel, batch: dict[str, torch.Tensor], trained: str
) -> None:
    for name, weight in model.named_parameters():
        weight.requires_grad_(trained in name)
    before = copy.deepcopy(model)
    step(model, MuonWithAdamW(model, RATE), batch)
    moved = {
        name
        for (name, weight), old in zip(model.named_parameters(), before.parameters(), strict=True)
        if not torch.equal(weight, old)
    }
    assert moved == {name for name, _ in model.named_parameters() if trained in name}


@pytest.mark.parametrize("shape", [(24, 72), (72, 24), (24, 24)])
def test_orthogonalize_keeps_directions_and_evens_out_singular_values(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape) * torch.logspace(0, 1, shape[1])
    left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
    assert sizes.max() > 4 * sizes.min()
    gains = torch.diag(left.T @ orthogonalize(matrix, torch.float32) @ right.T)
    assert ((gains > 0.3) & (gains < 1.3)).all()
    rounded = orthogonalize(matrix, torch.bfloat16)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, orthogonalize(matrix, torch.float32), rtol=0, atol=0.1)


def test_the_matrices_of_a_convolution_are_orthogonalised_one_by_one(
    tiny_config: Callable[..., Any], batch: dict[str, torch.Tensor]
) -> None:
    model = SequenceEncoderForPreTraining(tiny_config("modernbert", conv_kernel_size=5, type_vocab_size=2)).train()
    weight = model.model.layers[0].convolution.dense.weight
    before = weight.detach().clone()
    step(model, MuonWithAdamW(model, RATE, weight_decay=0, dtype=torch.float32), batch)
    for update in (weight.detach() - before).chunk(model.config.conv_kernel_size, dim=1):
        sizes = torch.linalg.svdvals(update) / (0.2 * RATE * math.sqrt(len(update)))
        # All but the smallest, which Muon does not raise to the others.
        assert (sizes[: len(sizes) // 2] > 0.5).all()
        assert (sizes < 1.3).all()


@pytest.mark.since("torch", "2.9", "has Muon")
def test_updates_equal_those_of_torch_optimizers(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> None:
    other = copy.deepcopy(model)
    # torch's Muon computes in bfloat16.
    ours = MuonWithAdamW(model, RATE, betas=(0.8, 0.9), weight_decay=5, dtype=torch.bfloat16)

    def weights(of_muon: bool, ndims: tuple[int, ...]) -> list[torch.nn.Parameter]:
        named = other.named_parameters()
        return [weight for name, weight in named if (name in MATRICES) == of_muon and weight.ndim in ndims]

    undecayed = {"params": weights(False, (1,)), "weight_decay": 0}
    theirs = (
        torch.optim.Muon(weights(True, (2,)), lr=RATE, weight_decay=5, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [{"params": weights(False, (2,))}, undecayed], lr=RATE, betas=(0.8, 0.9), weight_decay=5, fused=True
        ),
    )
    for _ in range(3):
        step(model, ours, batch)
        other(**batch).loss.backward()
        for optimizer in theirs:
            optimizer.step()
            optimizer.zero_grad()
    for (name, weight), expected in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, msg=name)


@pytest.mark.parametrize("unscaled", [True, False])
def test_a_step_with_overflowing_gradients_is_skipped(
    model: PreTrainedModel, batch: dict[str, torch.Tensor], unscaled: bool
) -> None:
    """Other steps equal those without a scaler, as float16 training requires."""
    plain = copy.deepcopy(model)
    optimizer, expected = MuonWithAdamW(model, RATE), MuonWithAdamW(plain, RATE)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for overflows in (False, True, False):
        before = [weight.clone() for weight in model.parameters()]
        scaler.scale(model(**batch).loss * (float("inf") if overflows else 1)).backward()
        if unscaled:
            # `Trainer` does this before it clips gradients.
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if overflows:
            assert all(map(torch.equal, model.parameters(), before))
        else:
            step(plain, expected, batch)
    for (name, weight), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(weight, other, msg=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"lr": -1.0}, "learning rate"), ({"lr": RATE, "momentum": 1.0}, r"momentum must be in \[0, 1\), got 1\.0")],
)
def test_out_of_range_options_are_rejected(model: PreTrainedModel, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MuonWithAdamW(model, **options)


def test_a_state_of_another_optimizer_is_refused(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> None:
    other = torch.optim.AdamW(model.parameters(), lr=RATE)
    step(model, other, batch)
    with pytest.raises(
        ValueError, match=r"from a training without Muon.* Resume it as it was started; if it had no Muon, use AdamW"
    ):
        MuonWithAdamW(model, RATE).load_state_dict(other.state_dict())


def test_a_state_of_an_earlier_version_is_loaded(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> None:
    """It said which weights are for Muon, instead of which are for AdamW."""
    optimizer, again = MuonWithAdamW(model, RATE), MuonWithAdamW(model, RATE)
    step(model, optimizer, batch)
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group["muon"] = not group.pop("adamw")
    again.load_state_dict(state)
    for weight, found in optimizer.state.items():
        for name, value in found.items():
            torch.testing.assert_close(again.state[weight][name], value)
    step(model, again, batch)
