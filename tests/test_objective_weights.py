"""The loss is the weighted sum of its objectives, and does not depend on gradient accumulation."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments

from sequence_encoder import SequenceEncoderForMaskedLM, SequenceEncoderForPreTraining, SequenceEncoderTokenizer
from sequence_encoder.data.packs import Pack, PackedWindows
from sequence_encoder.data.windows import Window, segment_windows
from sequence_encoder.tests.texts import LONG, TEXTS, tokenizer_of
from sequence_encoder.training.pretraining.objectives import Objectives, PretrainingCollator

Build = Callable[..., Any]
Batch = dict[str, Any]
NOTHING_MASKED = 1e-9
SOP_ALONE = Objectives(mlm_weight=0.0, sop_weight=2.0)

in_training_and_evaluation = pytest.mark.parametrize("training", [True, False])


@pytest.fixture(scope="module")
def tokenizer() -> SequenceEncoderTokenizer:
    return tokenizer_of()


@pytest.fixture(scope="module")
def windows(tokenizer: SequenceEncoderTokenizer) -> list[Window]:
    """Return windows of one and of two segments."""
    return list(segment_windows([*TEXTS, LONG], tokenizer, 64))


@pytest.fixture
def model(tiny_config: Build, tokenizer: SequenceEncoderTokenizer) -> SequenceEncoderForPreTraining:
    return SequenceEncoderForPreTraining(config_of(tiny_config, tokenizer)).train()


def config_of(tiny_config: Build, tokenizer: SequenceEncoderTokenizer) -> Any:
    names = ("pad", "cls", "sep", "mask")
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}
    return tiny_config("bert", vocab_size=len(tokenizer), type_vocab_size=2, **special)


def batch_of(
    tokenizer: SequenceEncoderTokenizer, windows: list[Window], objectives: Objectives | None = None, seed: int = 0
) -> Batch:
    pack: Pack = {"windows": windows, "seed": [seed], "progress": 0.0}
    return PretrainingCollator(tokenizer, objectives)([pack])


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert found
    assert [name for name, gradient in found.items() if not gradient.isfinite().all()] == []
    return found


def mean_loss_of_tokens(outputs: Any, batch: Batch) -> torch.Tensor:
    """Return the mean loss over masked tokens, which are the only ones with logits in training mode."""
    logits, labels = outputs.prediction_logits, batch["labels"]
    logits = logits if logits.dim() == 2 else logits[labels != -100]
    return F.cross_entropy(logits, labels[labels != -100])


@in_training_and_evaluation
@pytest.mark.parametrize(("mlm_weight", "sop_weight"), [(1.0, 1.0), (0.5, 3.0), (2.0, 0.25)])
def test_the_loss_is_the_weighted_sum_of_both_objectives(
    model: SequenceEncoderForPreTraining,
    tokenizer: SequenceEncoderTokenizer,
    windows: list[Window],
    mlm_weight: float,
    sop_weight: float,
    training: bool,
) -> None:
    batch = batch_of(tokenizer, windows[:16], Objectives(mlm_weight=mlm_weight, sop_weight=sop_weight))
    outputs = model.train(training)(**batch)
    masked = mean_loss_of_tokens(outputs, batch)
    order = F.cross_entropy(outputs.sop_logits, batch["sentence_order_label"])
    torch.testing.assert_close(outputs.mlm_loss, masked)
    torch.testing.assert_close(outputs.sop_loss, order)
    torch.testing.assert_close(outputs.loss, mlm_weight * masked + sop_weight * order)
    outputs.loss.backward()
    gradients(model)


def test_a_weight_scales_only_the_gradients_of_its_objective(
    model: SequenceEncoderForPreTraining, tokenizer: SequenceEncoderTokenizer, windows: list[Window]
) -> None:
    plain, heavy = model, copy.deepcopy(model)
    plain(**batch_of(tokenizer, windows[:16])).loss.backward()
    heavy(**batch_of(tokenizer, windows[:16], Objectives(sop_weight=4.0))).loss.backward()
    torch.testing.assert_close(heavy.sop_classifier.weight.grad, 4 * plain.sop_classifier.weight.grad)
    torch.testing.assert_close(heavy.head.dense.weight.grad, plain.head.dense.weight.grad)


@in_training_and_evaluation
def test_without_mlm_weight_no_token_is_predicted(
    model: SequenceEncoderForPreTraining, tokenizer: SequenceEncoderTokenizer, windows: list[Window], training: bool
) -> None:
    batch = batch_of(tokenizer, windows[:16], SOP_ALONE)
    outputs = model.train(training)(**batch)
    assert outputs.prediction_logits is None
    assert outputs.mlm_loss is None
    expected = F.cross_entropy(outputs.sop_logits, batch["sentence_order_label"])
    torch.testing.assert_close(outputs.loss, 2 * expected)
    outputs.loss.backward()
    moved = gradients(model)
    assert moved["sop_classifier.weight"].any()
    assert not [name for name in moved if name.startswith(("head.", "decoder."))]


def test_without_sentence_order_a_masked_language_model_suffices(
    tiny_config: Build, tokenizer: SequenceEncoderTokenizer, windows: list[Window]
) -> None:
    model = SequenceEncoderForMaskedLM(config_of(tiny_config, tokenizer)).train()
    batch = batch_of(tokenizer, windows[:16], Objectives(sop_weight=0.0))
    outputs = model(**batch)
    torch.testing.assert_close(outputs.loss, F.cross_entropy(outputs.logits, batch["labels"][batch["labels"] != -100]))


@in_training_and_evaluation
def test_a_batch_without_masked_tokens_has_the_sentence_order_loss(
    model: SequenceEncoderForPreTraining, tokenizer: SequenceEncoderTokenizer, windows: list[Window], training: bool
) -> None:
    batch = batch_of(tokenizer, windows[:16], Objectives(mlm_probability=NOTHING_MASKED))
    assert (batch["labels"] == -100).all()
    outputs = model.train(training)(**batch)
    torch.testing.assert_close(outputs.loss, F.cross_entropy(outputs.sop_logits, batch["sentence_order_label"]))
    outputs.loss.backward()
    gradients(model)


@in_training_and_evaluation
def test_a_batch_of_single_segments_has_the_masked_token_loss(
    model: SequenceEncoderForPreTraining, tokenizer: SequenceEncoderTokenizer, training: bool
) -> None:
    batch = batch_of(tokenizer, list(segment_windows([LONG], tokenizer, 16)))
    assert (batch["sentence_order_label"] == -100).all()
    outputs = model.train(training)(**batch)
    torch.testing.assert_close(outputs.loss, mean_loss_of_tokens(outputs, batch))
    outputs.loss.backward()
    gradients(model)


@pytest.mark.parametrize("objectives", [Objectives(mlm_probability=NOTHING_MASKED), SOP_ALONE], ids=["mlm", "sop"])
def test_a_batch_without_targets_has_zero_gradients(
    model: SequenceEncoderForPreTraining, tokenizer: SequenceEncoderTokenizer, objectives: Objectives
) -> None:
    outputs = model(**batch_of(tokenizer, list(segment_windows([LONG], tokenizer, 16)), objectives))
    assert outputs.loss == 0
    outputs.loss.backward()
    assert not any(gradient.any() for gradient in gradients(model).values())


@pytest.mark.parametrize("sizes", [[24], [1, 23], [12, 12], [3, 4, 5, 12]])
def test_gradient_accumulation_does_not_change_the_sentence_order_loss(
    model: SequenceEncoderForPreTraining, tokenizer: SequenceEncoderTokenizer, windows: list[Window], sizes: list[int]
) -> None:
    # Some windows have one segment.
    some = [*windows[: sum(sizes) - 4], *segment_windows([LONG], tokenizer, 40)][: sum(sizes)]
    batches, start = [], 0
    for seed, size in enumerate(sizes):
        batches.append(batch_of(tokenizer, some[start : start + size], SOP_ALONE, seed))
        start += size
    # `Trainer` counts these items.
    count = sum(int((batch["labels"] != -100).sum()) for batch in batches)
    scores, losses = [], []
    for batch in batches:
        outputs = model(**batch, num_items_in_batch=count)
        outputs.sop_logits.retain_grad()
        outputs.loss.backward()
        scores.append(outputs.sop_logits)
        losses.append(outputs.loss)
    orders = torch.cat([batch["sentence_order_label"] for batch in batches])
    assert 0 < (orders == -100).sum() < len(orders)
    together = torch.cat(scores).detach().requires_grad_()
    expected = 2 * F.cross_entropy(together, orders)
    expected.backward()
    torch.testing.assert_close(torch.stack(losses).sum(), expected)
    torch.testing.assert_close(torch.cat([score.grad for score in scores]), together.grad)


def test_gradient_accumulation_does_not_change_the_weight_of_sentence_order(
    model: SequenceEncoderForPreTraining, tokenizer: SequenceEncoderTokenizer, windows: list[Window]
) -> None:
    # A classifier of zeros has the same loss for every pair.
    torch.nn.init.zeros_(model.sop_classifier.weight)
    torch.nn.init.zeros_(model.sop_classifier.bias)
    pairs = [window for window in windows if window["cut"]]
    batches = [batch_of(tokenizer, pairs[:5]), batch_of(tokenizer, pairs[5:8], seed=1)]
    count = sum(int((batch["labels"] != -100).sum()) for batch in batches)
    split = sum(model(**batch, num_items_in_batch=count).sop_loss for batch in batches)
    assert float(split) == pytest.approx(math.log(2), rel=1e-5)
    assert float(model(**batches[0]).sop_loss) == pytest.approx(math.log(2), rel=1e-5)


@pytest.mark.parametrize("objectives", [SOP_ALONE, Objectives(0.5, 2.0), Objectives(sop_weight=0.0)])
def test_gradient_accumulation_does_not_change_a_trainer_step(
    tiny_config: Build,
    tokenizer: SequenceEncoderTokenizer,
    windows: list[Window],
    tmp_path: Path,
    objectives: Objectives,
) -> None:
    packs = PackedWindows(windows, 256, show_progress=False)
    kind = SequenceEncoderForPreTraining if objectives.sop_weight else SequenceEncoderForMaskedLM
    weights, losses = [], []
    for batch, accumulation in ((8, 1), (1, 8)):
        torch.manual_seed(0)
        model = kind(config_of(tiny_config, tokenizer))
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=1,
            optim="sgd",
            learning_rate=0.1,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            train_sampling_strategy="sequential",
            remove_unused_columns=False,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        collate = PretrainingCollator(tokenizer, objectives)
        trainer = Trainer(model, arguments, train_dataset=packs, data_collator=collate)
        losses.append(trainer.train().training_loss)
        weights.append({name: weight.detach() for name, weight in model.named_parameters()})
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    torch.testing.assert_close(*weights, atol=1e-6, rtol=1e-4)


def test_an_unmodified_trainer_learns_from_packs(
    model: SequenceEncoderForPreTraining, tokenizer: SequenceEncoderTokenizer, windows: list[Window], tmp_path: Path
) -> None:
    held_out = batch_of(tokenizer, windows, seed=1)
    with torch.inference_mode():
        before = model.eval()(**held_out)
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=20,
        per_device_train_batch_size=1,
        learning_rate=1e-2,
        remove_unused_columns=False,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    packs = PackedWindows(windows, 512, show_progress=False)
    Trainer(model, arguments, train_dataset=packs, data_collator=PretrainingCollator(tokenizer)).train()
    with torch.inference_mode():
        after = model.eval()(**held_out)
    assert 0 < after.mlm_loss < before.mlm_loss
    assert 0 < after.loss < before.loss
