"""One optimizer of two: each weight is moved by the right one, as each alone would, also after saving and loading."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, Trainer, TrainingArguments, set_seed

from sequence_encoder import SequenceEncoderForPreTraining
from sequence_encoder.training.optimizer import MuonWithAdamW, orthogonalize

RATE = 1e-2


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


@pytest.mark.parametrize("tied", [True, False])
def test_muon_has_the_matrices_between_hidden_states_and_adamw_the_rest(
    tiny_config: Callable[..., Any], tied: bool
) -> None:
    model = SequenceEncoderForPreTraining(tiny_config("modernbert", tie_word_embeddings=tied))
    muon, adamw = MuonWithAdamW(model, RATE).parts
    names = {id(weight): name for name, weight in model.named_parameters()}
    by_muon = {names[id(weight)] for group in muon.param_groups for weight in group["params"]}
    by_adamw = {names[id(weight)] for group in adamw.param_groups for weight in group["params"]}
    assert by_muon | by_adamw == set(names.values())
    assert by_muon & by_adamw == set()
    assert by_muon == {"head.dense.weight"} | {
        f"model.layers.{layer}.{matrix}.weight"
        for layer in range(3)
        for matrix in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
    }


@pytest.mark.parametrize("shape", [(24, 72), (72, 24), (24, 24)])
def test_an_orthogonalised_matrix_keeps_its_directions_and_loses_their_sizes(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape) * torch.logspace(0, 1, shape[1])
    left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
    assert sizes.max() > 4 * sizes.min()
    gains = torch.diag(left.T @ orthogonalize(matrix, torch.float32) @ right.T)
    assert ((gains > 0.3) & (gains < 1.3)).all()
    rounded = orthogonalize(matrix, torch.bfloat16)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, orthogonalize(matrix, torch.float32), rtol=0, atol=0.1)


@pytest.mark.since("torch", "2.9", "has a Muon")
def test_weights_move_as_with_torch_s_own_optimizers(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> None:
    other = copy.deepcopy(model)
    ours = MuonWithAdamW(model, RATE, betas=(0.8, 0.9), weight_decay=5)
    # What torch computes in, whatever is faster here.
    ours.parts[0].dtype = torch.bfloat16
    matrices = {name for name, weight in other.named_parameters() if "layers" in name and weight.ndim == 2}
    matrices.add("head.dense.weight")

    def weights(of_muon: bool) -> Iterator[torch.nn.Parameter]:
        return (weight for name, weight in other.named_parameters() if (name in matrices) == of_muon)

    theirs = (
        torch.optim.Muon(weights(True), lr=RATE, weight_decay=5, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(weights(False), lr=RATE, betas=(0.8, 0.9), weight_decay=5, fused=True),
    )
    for _ in range(3):
        step(model, ours, batch)
        other(**batch).loss.backward()
        for optimizer in theirs:
            optimizer.step()
            optimizer.zero_grad()
    for (name, weight), expected in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, msg=name)


def test_a_schedule_moves_both_learning_rates_also_after_loading(model: PreTrainedModel) -> None:
    optimizer = MuonWithAdamW(model, RATE)
    optimizer.load_state_dict(optimizer.state_dict())
    LambdaLR(optimizer, lambda step: 0.5)
    assert [group["lr"] for part in optimizer.parts for group in part.param_groups] == [RATE / 2, RATE / 2]


def test_a_closure_gives_the_loss(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> None:
    optimizer = MuonWithAdamW(model, RATE)

    def closure() -> float:
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        return float(loss.detach())

    first = optimizer.step(closure)
    assert first is not None
    assert closure() < first


def test_trainer_resumes_with_it_as_if_it_had_not_stopped(
    tiny_config: Callable[..., Any], tmp_path: Path, batch: dict[str, torch.Tensor]
) -> None:
    rows = [{name: tensor[i % 4] for name, tensor in batch.items()} for i in range(16)]

    def train(resume: str | None) -> PreTrainedModel:
        set_seed(0)
        model = SequenceEncoderForPreTraining(tiny_config("modernbert", type_vocab_size=2))
        optimizer = MuonWithAdamW(model, RATE)
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=6,
            save_steps=3,
            per_device_train_batch_size=2,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            label_names=["labels", "sentence_order_label"],
        )
        schedule = LambdaLR(optimizer, lambda step: 1 - step / 6)
        trainer = Trainer(model, arguments, train_dataset=rows, optimizers=(optimizer, schedule))
        trainer.train(resume_from_checkpoint=resume)
        return model

    whole, resumed = train(None), train(str(tmp_path / "checkpoint-3"))
    for (name, weight), other in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(weight, other), name
