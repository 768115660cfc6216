"""On a CPU, the commands train the token vectors of large vocabularies by sparse gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from sequence_encoder import (
    SequenceEncoderForMaskedLM,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderModel,
    SequenceEncoderTokenizer,
    with_sparse_embeddings,
)
from sequence_encoder.tests.fixtures.adaptation_runs import run, save_encoder, write_examples
from sequence_encoder.training.hub_trainer import HubTrainer
from sequence_encoder.training.sparse_embeddings import SparseAdamW

VOCABULARY = 9000
TABLE = "model.embed_tokens.weight"
# No example has the other tokens.
USED = torch.arange(5, 300)

# Arguments of the trainer itself.
OWN = ("callbacks", "optimizers", "optimizer_cls_and_kwargs")

Train = Callable[..., HubTrainer]


@pytest.fixture
def model(tiny_config: Callable[..., Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    return SequenceEncoderForSequenceClassification(tiny_config(vocab_size=VOCABULARY, num_labels=3))


@pytest.fixture
def train(model: PreTrainedModel, tmp_path: Path) -> Train:
    """Return `train(resume=None, trained=None, **arguments)`, which trains a model, or a copy of the fixture."""
    generator = torch.Generator().manual_seed(0)
    drawn = [USED[torch.randint(len(USED), (7,), generator=generator)] for _ in range(16)]
    examples = [{"input_ids": ids, "labels": number % 3} for number, ids in enumerate(drawn)]

    def run(resume: str | None = None, trained: PreTrainedModel | None = None, **arguments: Any) -> HubTrainer:
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path / "run"),
            "use_cpu": True,
            "optim": "adamw_torch_fused",
            "max_steps": 12,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "max_grad_norm": 0.5,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }
        own = {name: arguments.pop(name) for name in OWN if name in arguments}
        args = TrainingArguments(**{**settings, **arguments})
        trained = trained or copy.deepcopy(model)
        trainer = with_sparse_embeddings(HubTrainer)(trained, args, train_dataset=examples, **own)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run


def optimizer_of(trainer: HubTrainer) -> type:
    return type(trainer.optimizer.optimizer)  # type: ignore[union-attr]


def squares_of(trainer: HubTrainer) -> torch.Tensor:
    """Return the second moments of the table."""
    table = trainer.model.get_input_embeddings().weight  # type: ignore[union-attr]
    return trainer.optimizer.state[table]["exp_avg_sq"]  # type: ignore[union-attr]


def test_the_optimizer_gives_the_result_of_adam_without_momentum() -> None:
    torch.manual_seed(0)
    sparse, linear = torch.nn.Embedding(50, 6, sparse=True), torch.nn.Linear(6, 3)
    dense = torch.nn.Embedding(50, 6, _weight=sparse.weight.detach().clone())
    other = copy.deepcopy(linear)

    def own() -> SparseAdamW:
        groups = [{"params": [sparse.weight, linear.weight], "weight_decay": 0.1}, {"params": [linear.bias]}]
        return SparseAdamW(torch.optim.AdamW(groups, lr=1e-2), [sparse])

    expected = torch.optim.AdamW(
        [
            {"params": [dense.weight], "betas": (0.0, 0.999), "weight_decay": 0.0},
            {"params": [other.weight], "weight_decay": 0.1},
            {"params": [other.bias]},
        ],
        lr=1e-2,
    )
    optimizer = own()
    for step in range(60):
        # Most tokens are absent for some steps.
        ids = torch.randint(0, 50 if step % 7 else 3, (3, 4))
        for table, layer in ((sparse, linear), (dense, other)):
            (layer(table(ids)).square().sum() + layer(table(ids.flip(0))).sum()).backward()
        for each in (optimizer, expected):
            each.step()
            each.zero_grad()
        if step == 30:
            state = optimizer.state_dict()
            optimizer = own()
            optimizer.load_state_dict(state)
    torch.testing.assert_close(sparse.weight, dense.weight)
    torch.testing.assert_close(linear.weight, other.weight)


def test_a_step_leaves_the_vectors_of_other_tokens_as_they_are(model: PreTrainedModel, train: Train) -> None:
    trainer = train(weight_decay=0.1)
    before, after = model.state_dict()[TABLE], trainer.model.state_dict()[TABLE]  # type: ignore[union-attr]
    moved = (before != after).any(1).nonzero().flatten().tolist()
    assert set(moved) <= set(USED.tolist())
    assert len(moved) > 50
    assert optimizer_of(trainer) is SparseAdamW
    # Later training with another optimizer needs dense gradients.
    assert not trainer.model.get_input_embeddings().sparse  # type: ignore[union-attr]


def test_gradients_are_clipped_as_with_a_dense_table(train: Train) -> None:
    sparse, dense = (train(max_steps=1, **options) for options in ({}, {"optim": "sgd"}))
    norms = [trainer.state.log_history[0]["grad_norm"] for trainer in (sparse, dense)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    assert norms[0] > 0.5
    whole = train(max_steps=1, max_grad_norm=1e9)
    torch.testing.assert_close(squares_of(sparse), squares_of(whole) * (0.5 / norms[0]) ** 2)


def test_accumulated_gradients_are_those_of_one_batch(train: Train) -> None:
    parts = train(max_steps=1, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    torch.testing.assert_close(squares_of(parts), squares_of(train(max_steps=1)))


class SizeOfGradient(TrainerCallback):
    """Records the number of rows in the sparse gradient of each step."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rows.append(kwargs["model"].get_input_embeddings().weight.grad._nnz())


def test_the_gradient_has_one_row_for_each_token(train: Train) -> None:
    sizes = SizeOfGradient()
    train(max_steps=2, gradient_accumulation_steps=40, callbacks=[sizes])
    assert max(sizes.rows) <= len(USED)


def test_an_optimizer_of_the_caller_is_kept(model: PreTrainedModel, train: Train) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    assert optimizer_of(train(trained=model, optimizers=(optimizer, None))) is torch.optim.AdamW
    kind = (torch.optim.AdamW, {"lr": 1e-2, "amsgrad": True})
    assert optimizer_of(train(optimizer_cls_and_kwargs=kind)) is torch.optim.AdamW


def test_an_optimizer_of_a_subclass_is_kept(model: PreTrainedModel, tmp_path: Path) -> None:
    class WithSGD(Trainer):
        def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
            assert self.model is not None
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
            return self.optimizer

    args = TrainingArguments(str(tmp_path), use_cpu=True, optim="adamw_torch_fused")
    assert type(with_sparse_embeddings(WithSGD)(model, args).create_optimizer()) is torch.optim.SGD


def test_a_dense_gradient_is_trained_on(model: PreTrainedModel, tmp_path: Path) -> None:
    class WithPenalty(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            loss = super().compute_loss(model, inputs, **kwargs)
            return loss + model.get_input_embeddings().weight.square().sum()

    args = TrainingArguments(
        str(tmp_path), use_cpu=True, optim="adamw_torch_fused", max_steps=2, save_strategy="no", report_to="none"
    )
    before = model.get_input_embeddings().weight.detach().clone()
    trainer = with_sparse_embeddings(WithPenalty)(model, args, train_dataset=[{"input_ids": USED[:6], "labels": 0}] * 8)
    trainer.train()
    assert optimizer_of(trainer) is SparseAdamW
    assert (model.get_input_embeddings().weight[1:] != before[1:]).any(dim=1).all()


def test_a_table_whose_gradient_has_a_hook_trains_as_before(model: PreTrainedModel, train: Train) -> None:
    def freeze_first(gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        gradient[:100] = 0
        return gradient

    model.get_input_embeddings().weight.register_hook(freeze_first)
    assert optimizer_of(train(trained=model)) is torch.optim.AdamW


def test_a_checkpoint_of_another_optimizer_is_refused(train: Train, tmp_path: Path) -> None:
    train(optim="adamw_torch", max_steps=2, save_strategy="steps", save_steps=2)
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    with pytest.raises(ValueError, match=r"from a training without sparse gradients.* Resume it as it was started"):
        train(resume=checkpoint)
    train(resume=checkpoint, optim="adamw_torch")


def test_a_second_training_is_sparse_unless_its_optimizer_is_another(train: Train) -> None:
    sizes = SizeOfGradient()
    trainer = train(max_steps=2, callbacks=[sizes])
    trainer.train()
    assert len(sizes.rows) == 4
    trainer.remove_callback(sizes)
    trainer.optimizer = torch.optim.AdamW(trainer.model.parameters(), lr=1e-2)  # type: ignore[union-attr]
    trainer.train()
    assert optimizer_of(trainer) is torch.optim.AdamW


def test_a_resumed_training_ends_with_the_same_weights(train: Train, tmp_path: Path) -> None:
    whole = train(save_strategy="steps", save_steps=5)
    resumed = train(resume=str(tmp_path / "run" / "checkpoint-5"))
    assert optimizer_of(resumed) is SparseAdamW
    for name, weight in whole.model.state_dict().items():  # type: ignore[union-attr]
        torch.testing.assert_close(resumed.model.state_dict()[name], weight, rtol=0, atol=0)  # type: ignore[union-attr]


def test_another_optimizer_frozen_tables_and_small_ones_train_as_before(
    train: Train, tiny_config: Callable[..., Any]
) -> None:
    assert optimizer_of(train(optim="adamw_torch")) is torch.optim.AdamW
    small = SequenceEncoderForSequenceClassification(tiny_config(vocab_size=500, num_labels=3))
    assert optimizer_of(train(trained=small)) is torch.optim.AdamW
    frozen = SequenceEncoderForSequenceClassification(tiny_config(vocab_size=VOCABULARY, num_labels=3))
    frozen.get_input_embeddings().requires_grad_(False)
    assert optimizer_of(train(trained=frozen)) is torch.optim.AdamW


def test_a_table_that_is_tied_to_the_output_trains_as_before(tiny_config: Callable[..., Any], tmp_path: Path) -> None:
    model = SequenceEncoderForMaskedLM(tiny_config(vocab_size=VOCABULARY, tie_word_embeddings=True))
    examples = [{"input_ids": USED[:6], "labels": USED[:6]}] * 4
    args = TrainingArguments(
        str(tmp_path), use_cpu=True, optim="adamw_torch_fused", max_steps=1, save_strategy="no", report_to="none"
    )
    trainer = with_sparse_embeddings(HubTrainer)(model, args, train_dataset=examples)
    trainer.train()
    assert optimizer_of(trainer) is torch.optim.AdamW


@pytest.mark.since("torch", "2.8", "has the fused AdamW that is the default")
@pytest.mark.parametrize("task", ["classification", "embedding"])
def test_adapt_trains_only_the_vectors_of_tokens_that_it_reads(task: str, tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder", vocab_size=VOCABULARY)
    before = SequenceEncoderModel.from_pretrained(folder).state_dict()["embed_tokens.weight"]
    files = write_examples(tmp_path, task, {"train": 32, "validation": 8})
    options = {
        "learning_rate": 8e-3,
        "max_steps": 4,
        "weight_decay": 0.5,
        "eval_strategy": "no",
        "keep_best": False,
        "bf16": False,
    }
    run(task, folder, tmp_path / "out", **files, **options)
    after = SequenceEncoderModel.from_pretrained(tmp_path / "out").state_dict()["embed_tokens.weight"]
    known = len(SequenceEncoderTokenizer.from_pretrained(folder))
    assert not torch.equal(after[:known], before[:known])
    torch.testing.assert_close(after[known:], before[known:], rtol=0, atol=0)
