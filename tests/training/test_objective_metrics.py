"""Each objective's logged metrics are means over all its tokens or pairs, and a NaN loss ends training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import EvalPrediction, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from sequence_encoder import SequenceEncoderForMaskedLM, SequenceEncoderForPreTraining, SequenceEncoderTokenizer
from sequence_encoder.command_line import UsageError
from sequence_encoder.data.packs import EvaluationWindows, Pack, PackedWindows
from sequence_encoder.data.windows import Window, segment_windows
from sequence_encoder.tests.fixtures.texts import LONG, TEXTS, tokenizer_of
from sequence_encoder.training.pretraining.objective_metrics import (
    ObjectiveMetrics,
    compact_logits,
    means,
    objective_means,
    sums_of,
)
from sequence_encoder.training.pretraining.objectives import Objectives, PretrainingCollator

Build = Callable[..., Any]
Batch = dict[str, Any]

OBJECTIVES = {
    "both": Objectives(mlm_weight=0.5, sop_weight=2.0),
    "mlm": Objectives(sop_weight=0.0),
    "sop": Objectives(mlm_weight=0.0, sop_weight=2.0),
}
every_objective = pytest.mark.parametrize("name", OBJECTIVES)


@pytest.fixture(scope="module")
def tokenizer() -> SequenceEncoderTokenizer:
    return tokenizer_of()


@pytest.fixture
def model_for(
    tiny_config: Build, tokenizer: SequenceEncoderTokenizer, randomize: Build
) -> Callable[[str], PreTrainedModel]:
    """Return `model_for(name)`, which builds a model with the heads of the objectives and uneven predictions."""
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep", "mask")}

    def build(name: str) -> PreTrainedModel:
        kind = SequenceEncoderForPreTraining if OBJECTIVES[name].sop_weight else SequenceEncoderForMaskedLM
        torch.manual_seed(0)
        return randomize(kind(tiny_config("bert", vocab_size=len(tokenizer), type_vocab_size=2, **special)))

    return build


def windows_for(name: str, tokenizer: SequenceEncoderTokenizer) -> list[Window]:
    """Return windows, some of which have one segment and thus no sentence order."""
    return list(segment_windows([*TEXTS[:4], LONG], tokenizer, 64, pairs=bool(OBJECTIVES[name].sop_weight)))


def packs_for(name: str, tokenizer: SequenceEncoderTokenizer) -> PackedWindows:
    return PackedWindows(windows_for(name, tokenizer), max_tokens=300, show_progress=False)


def batches_for(name: str, tokenizer: SequenceEncoderTokenizer, packs: Sequence[Pack]) -> list[Batch]:
    """Return batches of 1, 2, 3 and so on packs."""
    collate = PretrainingCollator(tokenizer, OBJECTIVES[name])
    batches, start = [], 0
    while start < len(packs):
        size = len(batches) + 1
        batches.append(collate(packs[start : start + size]))
        start += size
    assert len(batches) > 2
    return batches


@torch.no_grad()
def reference_metrics(model: PreTrainedModel, batches: list[Batch], name: str) -> dict[str, float]:
    """Return loss and accuracy over all masked tokens and all pairs, computed from a forward pass without labels."""
    tokens: list[tuple[torch.Tensor, torch.Tensor]] = []
    orders: list[tuple[torch.Tensor, torch.Tensor]] = []
    for batch in batches:
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "token_type_ids") if key in batch}
        outputs = model.eval()(**inputs)
        masked = batch["labels"] != -100
        tokens.append((outputs.get("prediction_logits", outputs.get("logits"))[masked], batch["labels"][masked]))
        if "sentence_order_label" in batch:
            pairs = batch["sentence_order_label"] != -100
            orders.append((outputs.sop_logits[pairs], batch["sentence_order_label"][pairs]))
    expected = {}
    for objective, answers in (("mlm", tokens), ("sop", orders)):
        if answers and getattr(OBJECTIVES[name], f"{objective}_weight"):
            logits, labels = map(torch.cat, zip(*answers, strict=True))
            if not len(labels):
                continue
            expected[f"{objective}_loss"] = float(F.cross_entropy(logits, labels))
            expected[f"{objective}_accuracy"] = float((logits.argmax(-1) == labels).float().mean())
    return expected


def rows_of(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return what `Trainer` keeps of a batch during evaluation."""
    with torch.no_grad():
        outputs = model.eval()(**batch)
    ignored = {"loss", *model.config.keys_to_ignore_at_inference}
    logits = tuple(value for key, value in outputs.items() if key not in ignored)
    labels = tuple(batch[key] for key in ("labels", "sentence_order_label") if key in batch)
    return compact_logits(*(values if len(values) > 1 else values[0] for values in (logits, labels)))


@every_objective
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("split", [False, True])
def test_sums_over_batches_give_means_over_all_tokens_and_pairs(
    model_for: Build, tokenizer: SequenceEncoderTokenizer, name: str, training: bool, split: bool
) -> None:
    """This includes gradient accumulation, where `Trainer` divides losses by the number of labels of the whole step."""
    model, batches = model_for(name), batches_for(name, tokenizer, list(packs_for(name, tokenizer)))
    items = {"num_items_in_batch": sum((batch["labels"] != -100).sum() for batch in batches)} if split else {}
    # The model has no dropout, so that training mode changes no predictions.
    model.train(training)
    with torch.no_grad():
        sums = sum(sums_of({**batch, **items}, model(**batch, **items)) for batch in batches)
        # With a divisor of 1, the loss is the sum over the texts, each weighted by its masked tokens.
        bags = sum(model.train()(**batch, num_items_in_batch=1).bow_loss for batch in batches)
    texts = [(batch["bow_tokens"] != -100).any(dim=1) for batch in batches]
    masked = sum((batch["labels"][chosen] != -100).sum() for batch, chosen in zip(batches, texts, strict=True))
    found = means(sums)
    assert ("bow_loss" in found) == training
    if training:
        assert found.pop("bow_loss") == pytest.approx(float(bags / masked), rel=1e-5 if split else 0.05)
    model.train(training)
    assert found == pytest.approx(reference_metrics(model, batches, name), rel=1e-5)
    trained = {"both": ("mlm", "sop"), "mlm": ("mlm",), "sop": ("sop",)}[name]
    assert set(found) == {f"{objective}_{what}" for objective in trained for what in ("loss", "accuracy")}


@every_objective
def test_evaluation_gives_the_same_means(model_for: Build, tokenizer: SequenceEncoderTokenizer, name: str) -> None:
    model = model_for(name)
    batches = batches_for(name, tokenizer, list(EvaluationWindows(windows_for(name, tokenizer))))
    rows = torch.cat([rows_of(model, batch) for batch in batches])
    assert len(rows) == sum(len(batch["input_ids"]) for batch in batches)
    found = objective_means(EvalPrediction(predictions=rows.numpy(), label_ids=None))
    assert found == pytest.approx(reference_metrics(model, batches, name), rel=1e-5)
    # Each row belongs to one text, because several processes duplicate some rows and drop them later.
    last = batches[-1]
    for place, row in enumerate(rows_of(model, last)):
        text = {key: value[place : place + 1] for key, value in last.items() if isinstance(value, torch.Tensor)}
        found = objective_means(EvalPrediction(predictions=row[None].numpy(), label_ids=None))
        assert found == pytest.approx(reference_metrics(model, [text], name), rel=1e-4)


def arguments_for(folder: Path, **options: Any) -> TrainingArguments:
    defaults = {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 16,
        "gradient_accumulation_steps": 2,
        "logging_steps": 2,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return TrainingArguments(**{**defaults, **options})


class Watched:
    """A `Trainer` with objective metrics."""

    def __init__(
        self,
        model: PreTrainedModel,
        name: str,
        folder: Path,
        callbacks: list[TrainerCallback] | None = None,
        **options: Any,
    ) -> None:
        tokenizer = tokenizer_of()
        self.metrics = ObjectiveMetrics(operations_per_token=10.0, peak=1e6)
        self.trainer = Trainer(
            model,
            arguments_for(folder, **options),
            train_dataset=packs_for(name, tokenizer),
            eval_dataset=EvaluationWindows(windows_for(name, tokenizer)),
            data_collator=PretrainingCollator(tokenizer, OBJECTIVES[name]),
            compute_metrics=objective_means,
            preprocess_logits_for_metrics=compact_logits,
            callbacks=callbacks,
        )
        self.metrics.watch(self.trainer)

    def logs(self, key: str = "loss") -> list[dict[str, float]]:
        return [log for log in self.trainer.state.log_history if key in log]


@every_objective
def test_trainer_logs_have_the_means_over_all_steps_since_the_last_log(
    model_for: Build, tokenizer: SequenceEncoderTokenizer, tmp_path: Path, name: str
) -> None:
    model = model_for(name)
    collate = PretrainingCollator(tokenizer, OBJECTIVES[name])
    batches = [collate([pack]) for pack in packs_for(name, tokenizer)][:8]
    # An evaluation between two logs must not change them. With a learning rate of 0, the model does not change.
    watched = Watched(model, name, tmp_path, learning_rate=0.0, eval_strategy="steps", eval_steps=3)
    watched.trainer.train()
    logs = watched.logs()
    assert len(logs) == 2
    for log, seen in zip(logs, (batches[:4], batches[4:]), strict=True):
        expected = reference_metrics(model, seen, name)
        assert {key: log[key] for key in expected} == pytest.approx(expected, rel=1e-4)
        assert [key for key in log if key.startswith(("mlm_", "sop_")) and key not in expected] == []
    # The batches have different numbers of labels, so that a mean over batches would differ.
    assert len({int((batch["labels"] != -100).sum()) for batch in batches}) > 1


@pytest.mark.parametrize(
    "saving",
    [
        {"save_strategy": "steps", "save_steps": 3, "logging_steps": 2},
        {"save_strategy": "epoch", "logging_strategy": "no"},
        {"save_strategy": "no", "logging_strategy": "no"},
    ],
)
@pytest.mark.parametrize("cause", ["loss", "last step"])
def test_training_stops_at_nan_before_anything_is_saved(
    model_for: Build, tmp_path: Path, saving: dict[str, Any], cause: str
) -> None:
    class Break(TrainerCallback):
        """Make weights NaN before a step, or infinite after it."""

        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
            if cause == "loss" and state.global_step == 1:
                model.decoder.bias.data.fill_(math.nan)

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
            ends = {"steps": args.save_steps, "epoch": state.max_steps // 2, "no": state.max_steps}
            if cause == "last step" and state.global_step == ends[args.save_strategy]:
                model.decoder.bias.data.fill_(math.inf)

    watched = Watched(
        model_for("both"),
        "both",
        tmp_path,
        gradient_accumulation_steps=4,
        num_train_epochs=2,
        **{"max_steps": -1, **saving},
    )
    # It runs before the metrics, as if the optimizer had broken the weights.
    watched.trainer.callback_handler.callbacks.insert(1, Break())
    with pytest.raises(UsageError, match=r"loss became NaN or infinite at step .*--resume"):
        watched.trainer.train()
    assert list(tmp_path.glob("checkpoint-*")) == []
