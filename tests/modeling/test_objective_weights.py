"""The loss is the weighted sum of its objectives, and does not depend on gradient accumulation."""

from __future__ import annotations

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
from sequence_encoder.tests.fixtures.texts import LONG, TEXTS, tokenizer_of
from sequence_encoder.training.pretraining.objectives import Objectives, PretrainingCollator

Build = Callable[..., Any]
Batch = dict[str, Any]
NOTHING_MASKED = 1e-9
SOP_ALONE = Objectives(mlm_weight=0.0, sop_weight=2.0, bow_weight=0.0)

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
    objectives = Objectives(mlm_weight=mlm_weight, sop_weight=sop_weight, bow_weight=0.0)
    batch = batch_of(tokenizer, windows[:16], objectives)
    outputs = model.train(training)(**batch)
    masked = mean_loss_of_tokens(outputs, batch)
    order = F.cross_entropy(outputs.sop_logits, batch["sentence_order_label"])
    torch.testing.assert_close(outputs.mlm_loss, masked)
    torch.testing.assert_close(outputs.sop_loss, order)
    torch.testing.assert_close(outputs.loss, mlm_weight * masked + sop_weight * order)
    outputs.loss.backward()
    gradients(model)


@pytest.mark.parametrize(("mlm_weight", "sop_weight"), [(1.0, 2.0), (0.0, 2.0), (1.0, 0.0)])
def test_the_mean_states_of_some_texts_predict_their_tokens_in_training(
    tiny_config: Build,
    tokenizer: SequenceEncoderTokenizer,
    windows: list[Window],
    mlm_weight: float,
    sop_weight: float,
) -> None:
    objectives = Objectives(mlm_weight, sop_weight, bow_weight=3.0)
    batch = batch_of(tokenizer, windows, objectives)
    kind = SequenceEncoderForPreTraining if sop_weight else SequenceEncoderForMaskedLM
    model: Any = kind(config_of(tiny_config, tokenizer)).train()
    outputs = model(**batch)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch}
    states = model.model(**inputs).last_hidden_state
    losses = []
    for row, mask, tokens in zip(states, batch["attention_mask"].bool(), batch["bow_tokens"], strict=True):
        if present := set(tokens.tolist()) - {-100}:
            scores = model.decoder(model.head(row[mask].mean(dim=0))).log_softmax(dim=-1)
            losses.append(-scores[sorted(present)].mean())
    assert 0 < len(losses) < len(windows)
    torch.testing.assert_close(outputs.bow_loss, torch.stack(losses).mean())
    without = model(**{**batch, "bow_tokens": None})
    assert without.bow_loss is None
    torch.testing.assert_close(outputs.loss, without.loss + 3 * outputs.bow_loss)
    outputs.loss.backward()
    gradients(model)
    # Processes that share the head's weights must all compute it, even without such a text.
    empty = model(**{**batch, "bow_tokens": torch.full_like(batch["bow_tokens"], -100)})
    assert empty.bow_loss == 0
    assert empty.bow_loss.requires_grad
    assert model.eval()(**batch).bow_loss is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"attention_mask": torch.ones(1, 1, 6, 6)},
            r"bow_tokens needs an attention_mask \(B, S\), got .* 4 dimensions",
        ),
        ({"position_ids": torch.tensor([[0, 1, 2, 0, 1, 2]])}, "one text each; leave out position_ids"),
        ({"seq_idx": torch.tensor([[0, 0, 0, 1, 1, 1]])}, "one text each; leave out seq_idx"),
        ({"cu_seq_lens_q": torch.tensor([0, 3, 6])}, "one text each; leave out cu_seq_lens_q"),
    ],
    ids=["4-D mask", "positions", "numbers of texts", "bounds of texts"],
)
def test_only_rows_of_one_text_predict_their_tokens(tiny_config: Build, given: Batch, message: str) -> None:
    ids = torch.arange(1, 7)[None]
    with pytest.raises(ValueError, match=message):
        SequenceEncoderForMaskedLM(tiny_config()).train()(input_ids=ids, bow_tokens=ids, **given)


def test_batches_of_masked_diffusion_need_the_other_model(
    model: SequenceEncoderForPreTraining, tokenizer: SequenceEncoderTokenizer, windows: list[Window]
) -> None:
    batch = batch_of(tokenizer, windows, Objectives(objective="diffusion"))
    with pytest.raises(ValueError, match=r"label_weights.* needs SequenceEncoderForMaskedLM"):
        model(**batch)


def test_bags_of_words_without_masked_tokens_count_in_windows_without_a_cut(
    tokenizer: SequenceEncoderTokenizer, windows: list[Window]
) -> None:
    batch = batch_of(tokenizer, windows * 10, Objectives(mlm_weight=0))
    chosen = (batch["bow_tokens"] != -100).any(dim=1)
    assert chosen.any()
    assert (batch["sentence_order_label"][chosen] == -100).any()
    assert ((batch["labels"] != -100).sum(dim=1) == 1).all()


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


@pytest.mark.parametrize(
    "objectives", [Objectives(mlm_probability=NOTHING_MASKED, bow_weight=0.0), SOP_ALONE], ids=["mlm", "sop"]
)
def test_a_batch_without_targets_has_zero_gradients(
    model: SequenceEncoderForPreTraining, tokenizer: SequenceEncoderTokenizer, objectives: Objectives
) -> None:
    outputs = model(**batch_of(tokenizer, list(segment_windows([LONG], tokenizer, 16)), objectives))
    assert outputs.loss == 0
    outputs.loss.backward()
    assert not any(gradient.any() for gradient in gradients(model).values())


@pytest.mark.parametrize(
    "objectives", [SOP_ALONE, Objectives(0.5, 2.0), Objectives(sop_weight=0.0), Objectives(0.0, bow_weight=0.5)]
)
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
