"""Evaluations of masked diffusion only predict masked tokens, in one call of the whole model, and sum their losses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import TrainingArguments

from sequence_encoder import SequenceEncoderForMaskedLM
from sequence_encoder.tests.texts import tokenizer_of
from sequence_encoder.training.diffusion_trainer import DiffusionTrainer

PAD = 0


class Whole(nn.Module):
    """A model in a wrapper, as those of several processes are."""

    def __init__(self, model: SequenceEncoderForMaskedLM, compiled: bool) -> None:
        super().__init__()
        self.model, self.compiled = model, compiled
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, **inputs: Any) -> Any:
        # A model that is traced predicts all tokens.
        self.model.predicts_labels_only &= not self.compiled
        outputs = self.model(**inputs)
        self.sizes.append(tuple(outputs.logits.shape))
        return outputs


@pytest.fixture
def trainer(tiny_config: Callable[..., Any], tmp_path: Path) -> DiffusionTrainer:
    torch.manual_seed(0)
    model = SequenceEncoderForMaskedLM(tiny_config("bert", vocab_size=40)).eval()
    options = {"report_to": [], "use_cpu": True}
    return DiffusionTrainer(model, TrainingArguments(str(tmp_path), **options), processing_class=tokenizer_of())


@pytest.mark.parametrize("compiled", [False, True])
@torch.no_grad()
def test_sums_count_texts_and_leave_out_what_stays_empty(trainer: DiffusionTrainer, compiled: bool) -> None:
    model: Any = trainer.model
    ids = torch.tensor([[2, 7, 8, 9, 3], [2, 7, 6, 3, 1]])
    labels = torch.tensor([[-100, 7, 5, PAD, 3], [-100, 7, 6, 3, -100]])
    weights = torch.tensor([[0, 0, 2.0, 2.0, 0], [0, 4.0, 0, 0, 0]])
    inputs = {"input_ids": ids, "attention_mask": (ids != 1).long(), "labels": labels, "label_weights": weights}
    whole = Whole(model, compiled)
    loss, sums, counts = trainer.prediction_step(whole, inputs, False)
    # The whole model is called once, since its parts may be divided between processes.
    assert whole.sizes == [(2, 5, 40) if compiled else (3, 40)]
    logits = model(ids, inputs["attention_mask"]).logits
    nats = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(2, 5)
    right = (logits.argmax(-1) == labels).float()
    expected = [
        [2 * (nats[0, 2] + nats[0, 3]), nats[0, 2], right[0, 2], 1],
        [4 * nats[1, 1], nats[1, 1], right[1, 1], 1],
    ]
    torch.testing.assert_close(sums, torch.tensor(expected))
    assert counts.tolist() == [3, 3]
    torch.testing.assert_close(loss, (nats * weights).sum() / 7)
    assert trainer.prediction_step(whole, inputs, True)[1:] == (None, None)
    assert model(**inputs).logits.shape == (2, 5, 40)
