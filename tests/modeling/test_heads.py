"""Every head learns its task, its loss does not depend on micro-batches, and padding does not change predictions.

Shapes: B batch, S sequence, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from transformers.loss.loss_utils import LOSS_MAPPING
from transformers.utils.generic import find_labels

from sequence_encoder import (
    SequenceEncoderForMaskedLM,
    SequenceEncoderForMultipleChoice,
    SequenceEncoderForPreTraining,
    SequenceEncoderForQuestionAnswering,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderForTokenClassification,
    SequenceEncoderForZeroShotClassification,
)

Batch = dict[str, torch.Tensor]
Build = Callable[..., Any]

CLASSES = 5
LENGTHS = [7, 3, 6, 4]


def some_tokens(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Label the real tokens of each row except the first `row`, so that the rows have different shares of labels."""
    labels = ids.masked_fill(mask == 0, -100)
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        labels[row][mask[row].nonzero()[: min(row, length - 1), 0]] = -100
    return labels


def rows(ids: torch.Tensor) -> torch.Tensor:
    return torch.arange(len(ids))


def first_real(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return mask.argmax(dim=1)


def label_ids(mask: torch.Tensor) -> torch.Tensor:
    """Let the second and third token of each row be its labels."""
    place = mask.cumsum(dim=1)
    return ((place - 1) * (place < 4)).clamp(min=0)


# name: model class, fields of the configuration, labels of (input_ids, attention_mask)
HEADS: dict[str, tuple[type[Any], dict[str, Any], Callable[[torch.Tensor, torch.Tensor], Batch]]] = {
    "masked_lm": (SequenceEncoderForMaskedLM, {}, lambda ids, mask: {"labels": some_tokens(ids, mask)}),
    "pretraining": (
        SequenceEncoderForPreTraining,
        {},
        lambda ids, mask: {"labels": some_tokens(ids, mask), "sentence_order_label": rows(ids) % 2},
    ),
    "single_label": (
        SequenceEncoderForSequenceClassification,
        {"num_labels": CLASSES},
        lambda ids, mask: {"labels": rows(ids) % CLASSES},
    ),
    "multi_label": (
        SequenceEncoderForSequenceClassification,
        {"num_labels": 3, "problem_type": "multi_label_classification"},
        lambda ids, mask: {"labels": (rows(ids)[:, None] >> torch.arange(3) & 1).float()},
    ),
    "regression": (
        SequenceEncoderForSequenceClassification,
        {"num_labels": 1},
        lambda ids, mask: {"labels": rows(ids) / 2.0},
    ),
    "token_classification": (
        SequenceEncoderForTokenClassification,
        {"num_labels": CLASSES},
        lambda ids, mask: {"labels": torch.where(some_tokens(ids, mask) < 0, -100, ids % CLASSES)},
    ),
    "question_answering": (
        SequenceEncoderForQuestionAnswering,
        {},
        lambda ids, mask: {"start_positions": first_real(ids, mask), "end_positions": first_real(ids, mask) + 2},
    ),
    "zero_shot": (
        SequenceEncoderForZeroShotClassification,
        {"zero_shot_classification": {"scorer": "weighted_dot", "dropout": 0.0}},
        lambda ids, mask: {"class_ids": label_ids(mask), "labels": (rows(ids)[:, None] >> torch.arange(2) & 1).float()},
    ),
    "multiple_choice": (SequenceEncoderForMultipleChoice, {}, lambda ids, mask: {"labels": rows(ids) % 2}),
}
POOLED = ["zero_shot", "pretraining", "single_label", "multi_label", "regression", "multiple_choice"]
VOCABULARY = ["masked_lm", "pretraining"]
every_head = pytest.mark.parametrize("head", HEADS)


@pytest.fixture
def make(tiny_config: Build, randomize: Build, ragged: Build) -> Callable[..., tuple[Any, Batch, Batch]]:
    """Return `make(head, preset="vanilla", side="right")`, which builds a model in eval mode, its inputs and labels."""

    def build(head: str, preset: str = "vanilla", side: str = "right") -> tuple[Any, Batch, Batch]:
        model_class, fields, labels = HEADS[head]
        torch.manual_seed(0)
        model = randomize(model_class(tiny_config(preset, **fields)))
        ids, mask = ragged(LENGTHS, side=side)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if head == "multiple_choice":
            inputs = {name: torch.stack([x, x.flip(0)], dim=1) for name, x in inputs.items()}
        return model, inputs, labels(ids, mask)

    return build


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> Batch:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def predictions(outputs: Any) -> list[torch.Tensor]:
    return [value for name, value in outputs.items() if "logits" in name]


@every_head
def test_every_head_overfits_a_small_batch(make: Build, head: str) -> None:
    model, inputs, labels = make(head, "modernbert")
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=5e-3)
    losses: list[float] = []
    while len(losses) < 60 and not (losses and losses[-1] < 0.02 * losses[0]):
        loss = model(**inputs, **labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.02 * losses[0]


@pytest.mark.parametrize("head", VOCABULARY)
@pytest.mark.parametrize("preset", ["vanilla", "bert"])
def test_projecting_only_labelled_tokens_keeps_the_loss_and_gradients(make: Build, head: str, preset: str) -> None:
    model, inputs, labels = make(head, preset)
    projected: list[int] = []
    model.decoder.register_forward_hook(lambda module, given, out: projected.append(out[..., 0].numel()))
    full = model.eval()(**inputs, **labels)
    full_gradients = gradients(model, full.loss)
    sparse = model.train()(**inputs, **labels)
    labelled = labels["labels"] != -100
    assert projected == [labelled.numel(), int(labelled.sum())]
    torch.testing.assert_close(predictions(sparse)[0], predictions(full)[0][labelled])
    torch.testing.assert_close(sparse.loss, full.loss)
    torch.testing.assert_close(gradients(model, sparse.loss), full_gradients, atol=1e-5, rtol=1e-4)


LOSSES_OF_TRANSFORMERS = {
    "masked_lm": "ForMaskedLM",
    "single_label": "ForSequenceClassification",
    "multi_label": "ForSequenceClassification",
    "regression": "ForSequenceClassification",
    "token_classification": "ForTokenClassification",
    "question_answering": "ForQuestionAnswering",
}


@pytest.mark.parametrize("head", LOSSES_OF_TRANSFORMERS)
def test_the_loss_equals_that_of_transformers(make: Build, head: str) -> None:
    model, inputs, labels = make(head)
    ours = model(**inputs, **labels).loss
    model.loss_function = LOSS_MAPPING[LOSSES_OF_TRANSFORMERS[head]]
    torch.testing.assert_close(ours, model(**inputs, **labels).loss)


@every_head
@pytest.mark.parametrize("training", [True, False])
def test_a_user_can_replace_the_loss_function(make: Build, head: str, training: bool) -> None:
    model, inputs, labels = make(head)
    labels.pop("sentence_order_label", None)
    model.train(training)
    own = torch.tensor(42.0)
    model.loss_function = lambda *args, **kwargs: own
    assert model(**inputs, **labels).loss is own


@pytest.mark.parametrize("head", HEADS)
def test_trainer_takes_no_other_input_for_targets(make: Build, head: str) -> None:
    model, _, labels = make(head)
    assert {*find_labels(type(model))} - {"sentence_order_label"} <= {*labels} - {"class_ids"}


# Regression and multi-label targets have no value that means unlabelled.
@pytest.mark.parametrize("head", [head for head in HEADS if head not in ("multi_label", "regression")])
@pytest.mark.parametrize("training", [True, False])
def test_without_labelled_items_the_loss_is_zero(make: Build, head: str, training: bool) -> None:
    model, inputs, labels = make(head)
    length = inputs["input_ids"].shape[-1]
    nothing = length + 2 if head == "question_answering" else -100
    given = {name: x if name == "class_ids" else torch.full_like(x, nothing) for name, x in labels.items()}
    outputs = model.train(training)(**inputs, **given)
    assert outputs.loss.item() == 0
    assert not any(gradient.any() for gradient in gradients(model, outputs.loss).values())


@every_head
def test_micro_batch_losses_add_up_to_the_batch_loss(make: Build, head: str) -> None:
    model, inputs, labels = make(head)
    model.train()
    if head == "question_answering":
        labels["end_positions"][-1] = labels["start_positions"][-1] = inputs["input_ids"].shape[1]
        items = len(LENGTHS) - 1
    else:
        items = (labels["labels"] != -100).sum()
    whole = model(**inputs, **labels, num_items_in_batch=items).loss
    if head != "pretraining":  # the count does not include its order labels
        torch.testing.assert_close(whole, model(**inputs, **labels).loss)
    parts = [
        model(**{name: x[part] for name, x in {**inputs, **labels}.items()}, num_items_in_batch=items).loss
        for part in (slice(0, 1), slice(1, None))
    ]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("preset", ["vanilla", "modernbert"])
def test_answers_are_never_in_padding(make: Build, preset: str, side: str) -> None:
    model, inputs, _ = make("question_answering", preset, side)
    padding = inputs["attention_mask"] == 0
    with torch.no_grad():
        # All real tokens have the same low score, and padding must score even lower.
        model.qa_outputs.weight.zero_()
        model.qa_outputs.bias.fill_(-1e4)
        outputs = model(**inputs)
    for logits in (outputs.start_logits, outputs.end_logits):
        assert logits.isfinite().all()
        assert not logits.softmax(dim=-1)[padding].any()
        assert not padding[rows(padding), logits.argmax(dim=-1)].any()


@pytest.mark.parametrize("head", POOLED)
@pytest.mark.parametrize("optional", [{}, {"output_hidden_states": True}])
def test_heads_with_one_prediction_per_row_reject_packed_documents(
    make: Build, head: str, optional: dict[str, bool]
) -> None:
    model, inputs, _ = make(head)
    positions = torch.tensor([0, 1, 2, 0, 1, 0, 1]).expand(inputs["input_ids"].shape)
    with pytest.raises(ValueError, match=rf"{type(model).__name__} makes one prediction per row.*several documents"):
        model(input_ids=inputs["input_ids"], position_ids=positions, **optional)


@pytest.mark.parametrize("head", [head for head in HEADS if head not in POOLED])
def test_token_heads_accept_rows_of_several_documents(make: Build, head: str) -> None:
    model, inputs, _ = make(head)
    texts = [row[real != 0] for row, real in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
    positions = torch.cat([torch.arange(len(text)) for text in texts])
    together = model(input_ids=torch.cat(texts)[None], position_ids=positions[None])
    alone = [predictions(model(input_ids=text[None])) for text in texts]
    expected = [torch.cat(parts, dim=1) for parts in zip(*alone, strict=True)]
    torch.testing.assert_close(predictions(together), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool, torch.float32])
def test_the_problem_type_is_inferred_as_in_transformers(
    tiny_config: Build, ragged: Build, num_labels: int, dtype: torch.dtype
) -> None:
    config = tiny_config(num_labels=num_labels)
    model = SequenceEncoderForSequenceClassification(config)
    single = num_labels > 1 and dtype in (torch.int64, torch.int32)
    labels = torch.ones((2,) if single else (2, num_labels), dtype=dtype)
    theirs = tiny_config(num_labels=num_labels)
    with suppress(RuntimeError):  # It infers the problem type first, and then fails for some dtypes.
        LOSS_MAPPING["ForSequenceClassification"](labels, torch.zeros(2, num_labels), theirs)
    ids, mask = ragged([5, 4])
    assert model(ids, mask, labels=labels).loss.isfinite()
    assert config.problem_type == theirs.problem_type


@pytest.mark.parametrize("head", VOCABULARY)
@pytest.mark.parametrize("preset", ["vanilla", "bert"])
@pytest.mark.parametrize("change", [+13, -5])
def test_training_continues_after_the_vocabulary_is_resized(make: Build, head: str, preset: str, change: int) -> None:
    model, inputs, labels = make(head, preset)
    size = model.config.vocab_size + change
    model.resize_token_embeddings(size)
    last = size - 1
    inputs["input_ids"].clamp_(max=last)
    inputs["input_ids"][0, 0] = labels["labels"][0, 0] = last
    labels["labels"].clamp_(max=last)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = model(**inputs, **labels).loss
    before.backward()
    assert model.get_input_embeddings().weight.grad[last].any()
    optimizer.step()
    assert model(**inputs, **labels).loss < before
    assert model.eval()(**inputs)[0].shape[-1] == size == model.config.vocab_size
    assert (model.decoder.weight is model.get_input_embeddings().weight) == model.config.tie_word_embeddings


@every_head
@pytest.mark.parametrize("preset", ["bert", "modernbert"])
@pytest.mark.parametrize("optional", [{}, {"output_hidden_states": True}])
@pytest.mark.parametrize("everything", [False, True])
def test_a_text_of_only_padding_has_finite_predictions_losses_and_gradients(
    make: Build, head: str, preset: str, optional: dict[str, bool], everything: bool
) -> None:
    model, inputs, labels = make(head, preset)
    inputs["attention_mask"][slice(None) if everything else 1] = 0
    outputs = model.train()(**inputs, **labels, **optional)
    assert outputs.loss.isfinite()
    assert all(x.isfinite().all() for x in predictions(outputs))
    assert all(gradient.isfinite().all() for gradient in gradients(model, outputs.loss).values())
