"""Every head trains with an unmodified `transformers.Trainer`, and gradient accumulation does not change a step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    DataCollatorWithFlattening,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

from sequence_encoder import (
    SequenceEncoderForMaskedLM,
    SequenceEncoderForMultipleChoice,
    SequenceEncoderForPreTraining,
    SequenceEncoderForQuestionAnswering,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderForTokenClassification,
)

Build = Callable[..., Any]
Row = dict[str, Any]

EXAMPLES, LENGTH = 4, 7
# SGD steps are proportional to the gradient. Adam would amplify rounding where a gradient is almost zero.
SGD: Row = {"optim": "sgd", "learning_rate": 0.1}
DROPOUTS = ("hidden_dropout", "attention_dropout", "mlp_dropout", "embedding_dropout", "classifier_dropout")

# name: model class, configuration fields, labels of (row number, input_ids). The rows have different labelled tokens.
HEADS: dict[str, tuple[type[Any], Row, Callable[[int, list[int]], Row]]] = {
    "masked_lm": (SequenceEncoderForMaskedLM, {}, lambda row, ids: {"labels": [-100] * row + ids[row:]}),
    "pretraining": (
        SequenceEncoderForPreTraining,
        {},
        lambda row, ids: {
            "labels": [-100] * (row % 5) + ids[row % 5 :],
            "sentence_order_label": -100 if row == 1 else row % 2,
        },
    ),
    "single_label": (
        SequenceEncoderForSequenceClassification,
        {"num_labels": 3},
        lambda row, ids: {"label": row - 1 if row else -100},
    ),
    "multi_label": (
        SequenceEncoderForSequenceClassification,
        {"num_labels": 2, "problem_type": "multi_label_classification"},
        lambda row, ids: {"labels": [float(row % 2), float(row // 2)]},
    ),
    "regression": (
        SequenceEncoderForSequenceClassification,
        {"num_labels": 1},
        lambda row, ids: {"label": row / 2.0},
    ),
    "token_classification": (
        SequenceEncoderForTokenClassification,
        {"num_labels": 5},
        lambda row, ids: {"labels": [-100] * row + [token % 5 for token in ids[row:]]},
    ),
    "question_answering": (
        SequenceEncoderForQuestionAnswering,
        {},
        lambda row, ids: {"start_positions": row, "end_positions": row + 2},
    ),
    "multiple_choice": (SequenceEncoderForMultipleChoice, {}, lambda row, ids: {"labels": row % 2 if row else -100}),
}
every_head = pytest.mark.parametrize("head", HEADS)


def examples(head: str, count: int = EXAMPLES) -> list[Row]:
    """Return plain Python rows, in which the last token of every second row is padding."""
    generator = torch.Generator().manual_seed(0)
    dataset = []
    for row in range(count):
        ids = torch.randint(1, 97, (LENGTH,), generator=generator).tolist()
        mask = [1] * (LENGTH - 1) + [row % 2]
        example = {"input_ids": ids, "attention_mask": mask, **HEADS[head][2](row, ids)}
        if head == "multiple_choice":
            example |= {"input_ids": [ids, ids[::-1]], "attention_mask": [mask, mask]}
        dataset.append(example)
    return dataset


@pytest.fixture
def train(tiny_config: Build, tmp_path: Path) -> Callable[..., tuple[Any, Any, dict[str, torch.Tensor]]]:
    """Return `train(head, dataset, **arguments)`, which returns the trainer, its result and the initial weights."""

    def run(
        head: str,
        dataset: list[Row],
        preset: str = "vanilla",
        collator: Any = default_data_collator,
        dropout: float = 0.0,
        resume: Path | None = None,
        **arguments: Any,
    ) -> tuple[Any, Any, dict[str, torch.Tensor]]:
        model_class, fields, _ = HEADS[head]
        torch.manual_seed(0)
        model = model_class(tiny_config(preset, **fields, **dict.fromkeys(DROPOUTS, dropout)))
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        settings = {
            "output_dir": str(tmp_path),
            "max_steps": 1,
            "per_device_train_batch_size": EXAMPLES,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "max_grad_norm": 0.0,
            "use_cpu": True,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }
        trainer = Trainer(
            model=model,
            args=TrainingArguments(**{**settings, **arguments}),
            train_dataset=dataset,
            eval_dataset=dataset,
            data_collator=collator,
        )
        return trainer, trainer.train(resume_from_checkpoint=resume and str(resume)), before

    return run


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in trainer.model.named_parameters()}


@every_head
@pytest.mark.parametrize("preset", ["bert", "modernbert"])
def test_a_trainer_step_updates_every_weight(train: Build, head: str, preset: str) -> None:
    trainer, result, before = train(head, examples(head), preset)
    assert result.global_step == 1
    assert 0 < result.training_loss < float("inf")
    after = weights(trainer)
    if head in ("question_answering", "multiple_choice"):
        # A bias that is added to all scores does not change their softmax.
        del after["qa_outputs.bias" if head == "question_answering" else "classifier.bias"]
    assert [name for name, weight in after.items() if not weight.isfinite().all()] == []
    assert [name for name, weight in after.items() if torch.equal(weight, before[name])] == []


@every_head
def test_gradient_accumulation_equals_one_large_batch(train: Build, head: str) -> None:
    split, _, before = train(
        head, examples(head), **SGD, per_device_train_batch_size=EXAMPLES // 2, gradient_accumulation_steps=2
    )
    whole, _, _ = train(head, examples(head), **SGD)
    torch.testing.assert_close(weights(split), weights(whole), atol=1e-6, rtol=1e-4)
    assert any(not torch.equal(weight, before[name]) for name, weight in weights(whole).items())


@every_head
def test_a_resumed_training_ends_with_the_same_weights(train: Build, head: str, tmp_path: Path) -> None:
    """The checkpoint lies in the middle of an epoch, and dropout draws random numbers in each step."""
    steps = {"max_steps": 5, "per_device_train_batch_size": EXAMPLES // 2, "save_strategy": "steps", "save_steps": 3}
    whole, _, _ = train(head, examples(head), "bert", dropout=0.2, **steps)
    resumed, result, _ = train(head, examples(head), "bert", dropout=0.2, **steps, resume=tmp_path / "checkpoint-3")
    assert result.global_step == 5
    expected = weights(whole)
    assert [name for name, weight in weights(resumed).items() if not torch.equal(weight, expected[name])] == []


@pytest.mark.parametrize("head", ["masked_lm", "token_classification"])
@pytest.mark.parametrize("preset", ["vanilla", "modernbert"])
def test_flattened_documents_give_the_step_of_the_padded_batch(train: Build, head: str, preset: str) -> None:
    documents = [{name: x[: LENGTH - row] for name, x in example.items()} for row, example in enumerate(examples(head))]
    for document in documents:
        # The collator removes the label of the first token of each document.
        document["labels"][0] = -100
        del document["attention_mask"]

    def padded(rows: list[Row]) -> dict[str, torch.Tensor]:
        fill = {"input_ids": 0, "labels": -100, "attention_mask": 0}
        rows = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in rows]
        return {
            name: torch.tensor([row[name] + [fill[name]] * (LENGTH - len(row[name])) for row in rows]) for name in fill
        }

    flattening = DataCollatorWithFlattening(return_flash_attn_kwargs=True)
    flat, flat_result, _ = train(head, documents, preset, flattening, **SGD)
    rows, rows_result, _ = train(head, documents, preset, padded, **SGD)
    assert flat_result.training_loss == pytest.approx(rows_result.training_loss, rel=1e-5)
    torch.testing.assert_close(weights(flat), weights(rows), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("packed", [True, False])
def test_neftune_scales_its_noise_by_the_length_of_the_rows(tiny_config: Build, tmp_path: Path, packed: bool) -> None:
    model = SequenceEncoderForMaskedLM(tiny_config(output_hidden_states=not packed))
    rows = [{"input_ids": [*range(1, 1 + LENGTH)], "labels": [1] * LENGTH} for _ in range(EXAMPLES)]
    arguments = TrainingArguments(
        str(tmp_path),
        neftune_noise_alpha=5.0,
        per_device_train_batch_size=EXAMPLES,
        max_steps=1,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
    )
    noise: list[torch.Tensor] = []

    def record(table: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        noise.append((output - torch.nn.functional.embedding(inputs[0], table.weight)).detach())

    class Recording(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            model.get_input_embeddings().register_forward_hook(record)

    Trainer(model, arguments, train_dataset=rows, callbacks=[Recording()]).train()
    # Jain et al. (2023): uniform noise of at most alpha / sqrt(L d).
    largest = 5 / (LENGTH * model.config.embedding_dim) ** 0.5
    assert 0.9 * largest < noise[0].abs().max() <= 1.001 * largest
