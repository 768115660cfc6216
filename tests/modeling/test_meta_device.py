"""A model on the meta device runs without values, which is how one counts its operations before buying the machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sequence_encoder import (
    PRESETS,
    SequenceEncoderConfig,
    SequenceEncoderForMaskedLM,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderForTokenClassification,
    SequenceEncoderModel,
)


def products_of_linear_layers(model: torch.nn.Module, ids: torch.Tensor) -> int:
    """Return the floating-point operations of linear layers. On a CPU, torch does not count those of attention."""
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids)
    counts = counter.get_flop_counts()["Global"]
    return counts.get(torch.ops.aten.addmm, 0) + counts.get(torch.ops.aten.mm, 0)


@pytest.mark.parametrize("preset", PRESETS)
def test_operations_can_be_counted_without_values(
    tiny_config: Callable[..., SequenceEncoderConfig], preset: str
) -> None:
    """Texts of one length, as on the CPU: how many operations padding saves depends on the values of a mask."""
    config = tiny_config(preset)
    ids = torch.randint(5, config.vocab_size, (2, 12), generator=torch.Generator().manual_seed(0))
    model = SequenceEncoderModel(config).eval()
    on_cpu = products_of_linear_layers(model, ids)
    assert products_of_linear_layers(model.to("meta"), ids.to("meta")) == on_cpu > 0


@pytest.mark.parametrize(
    ("head", "labels"),
    [
        (SequenceEncoderForMaskedLM, (2, 12)),
        (SequenceEncoderForTokenClassification, (2, 12)),
        (SequenceEncoderForSequenceClassification, (2,)),
    ],
)
def test_a_training_step_runs_without_values(
    tiny_config: Callable[..., SequenceEncoderConfig], head: Any, labels: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        model = head(tiny_config(num_labels=2)).train()
        ids, targets = torch.ones(2, 12, dtype=torch.long), torch.ones(labels, dtype=torch.long)
    model(input_ids=ids, labels=targets).loss.backward()
    assert all(weight.grad is None or weight.grad.shape == weight.shape for weight in model.parameters())
    assert model.get_input_embeddings().weight.grad is not None
