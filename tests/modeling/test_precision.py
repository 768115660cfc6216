"""Models in float64 and float16 round nothing to float32, do not overflow and produce no NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sequence_encoder import modeling
from sequence_encoder.modeling.pooling import POOLINGS

Build = Callable[..., Any]

# Padding on either side that no real token's window reaches, and a row of only padding.
MASK = torch.tensor([[1] * 5 + [0] * 7, [0] * 10 + [1] * 2, [0] * 12, [1] * 12])
# Too long for dense attention with a window of one token.
LONG = torch.tensor([[1] * 70, [1] * 3 + [0] * 67])
PRESETS = ("vanilla", "bert", "roberta", "modernbert")
HEADS: dict[str, dict[str, torch.Tensor]] = {
    "MaskedLM": {"labels": torch.where(MASK == 1, 5, -100)},
    "PreTraining": {
        "labels": torch.where(MASK == 1, 5, -100),
        "sentence_order_label": torch.tensor([1, 0, -100, 1]),
        "num_items_in_batch": torch.tensor(19),
    },
    "SequenceClassification": {"labels": torch.tensor([0, 1, 0, 1])},
    "TokenClassification": {"labels": torch.where(MASK == 1, 1, -100)},
    "QuestionAnswering": {
        "start_positions": torch.tensor([1, 10, 99, 0]),
        "end_positions": torch.tensor([4, 11, 99, 11]),
    },
}


def small(tiny_config: Build, preset: str, **options: Any) -> Any:
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 12}
    window = {"sliding_window": 1} if preset == "modernbert" else {}
    config = tiny_config(preset, **sizes, **window, vocab_size=11, max_position_embeddings=80, **options)
    config._attn_implementation = "eager"
    return config


@pytest.mark.parametrize("padded", [False, True], ids=["packed", "padded"])
@pytest.mark.parametrize("mask", [MASK, LONG], ids=["short", "long"])
@pytest.mark.parametrize("preset", PRESETS)
def test_gradients_in_float64(
    tiny_config: Build, randomize: Build, preset: str, mask: torch.Tensor, padded: bool
) -> None:
    model = randomize(modeling.SequenceEncoderModel(small(tiny_config, preset))).double()
    embeds = torch.randn(*mask.shape, 8, dtype=torch.float64, requires_grad=True)

    def outputs(embeds: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = model(inputs_embeds=embeds, attention_mask=mask, output_hidden_states=padded)
        return found.last_hidden_state, found.pooler_output

    assert all(output.isfinite().all() for output in outputs(embeds))
    assert torch.autograd.gradcheck(outputs, embeds, fast_mode=True)
    assert torch.autograd.gradgradcheck(outputs, embeds, fast_mode=True)


@pytest.mark.parametrize(("head", "padded"), [*((head, False) for head in HEADS), ("MaskedLM", True)])
def test_losses_in_float64(tiny_config: Build, randomize: Build, head: str, padded: bool) -> None:
    model_class = getattr(modeling, f"SequenceEncoderFor{head}")
    model = randomize(model_class(small(tiny_config, "modernbert"))).double().train()
    names, weights = zip(*model.named_parameters(), strict=True)

    def loss(*weights: torch.Tensor) -> torch.Tensor:
        arguments = {"input_ids": MASK * 3, "attention_mask": MASK, "output_hidden_states": padded, **HEADS[head]}
        found = torch.func.functional_call(model, dict(zip(names, weights, strict=True)), kwargs=arguments).loss
        assert found.dtype == torch.float64
        return found

    assert torch.autograd.gradcheck(loss, weights, fast_mode=True)
    if head == "MaskedLM":
        assert torch.autograd.gradgradcheck(loss, weights, fast_mode=True)


@pytest.mark.parametrize("problem_type", ["regression", "multi_label_classification"])
def test_regression_and_multi_label_losses_in_float64(tiny_config: Build, problem_type: str) -> None:
    config = small(tiny_config, "bert", problem_type=problem_type, num_labels=3)
    model = modeling.SequenceEncoderForSequenceClassification(config).double()
    inputs = (torch.randn(4, 12, 8, dtype=torch.float64, requires_grad=True), torch.rand(4, 3, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda x, y: model(inputs_embeds=x, labels=y).loss, inputs, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_mean_pooling_of_many_tokens_does_not_overflow(dtype: torch.dtype) -> None:
    hidden_states = torch.full((2, 4096, 3), 25.0, dtype=dtype)
    real = torch.arange(4096) < torch.tensor([4000, 4096])[:, None]
    assert torch.equal(POOLINGS["mean"](hidden_states, real).to(dtype), hidden_states[:, 0])
