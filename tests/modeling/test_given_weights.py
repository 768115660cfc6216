"""Converted encoders and static encoders keep their weights inside users' own models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, PreTrainedModel

from sequence_encoder import SequenceEncoderConfig, SequenceEncoderModel, TaskAdapter, convert, static_encoder

CONFIG = BertConfig(
    hidden_size=24, num_attention_heads=3, intermediate_size=40, num_hidden_layers=2, vocab_size=50, num_labels=3
)
MODELS: dict[str, Callable[[], Any]] = {
    "an encoder of another family": lambda: convert(BertModel(CONFIG)),
    "an encoder in another family": lambda: convert(convert(BertModel(CONFIG)), to="bert"),
    "a frozen encoder with a classifier": lambda: convert(TaskAdapter(BertModel(CONFIG), num_classes=3)),
    "a table of token vectors": lambda: static_encoder(torch.randn(50, 24)),
}


class Whole(PreTrainedModel):
    """A user's model that adds an output layer to an encoder."""

    config_class = SequenceEncoderConfig

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__(SequenceEncoderConfig(num_hidden_layers=1, hidden_size=24, num_attention_heads=3))
        self.encoder = encoder
        self.output = torch.nn.Linear(24, 2)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.constant_(module.weight, 7.0)


@pytest.mark.parametrize("name", MODELS)
def test_post_init_of_a_larger_model_initialises_only_its_own_layers(name: str) -> None:
    encoder = MODELS[name]()
    before = {key: weight.clone() for key, weight in encoder.state_dict().items()}
    whole = Whole(encoder)
    assert (whole.output.weight == 7).all()
    changed = [key for key, weight in whole.encoder.state_dict().items() if not torch.equal(weight, before[key])]
    assert not changed


def test_a_new_encoder_is_initialised_once() -> None:
    encoder = SequenceEncoderModel(SequenceEncoderConfig(num_hidden_layers=1, hidden_size=24, num_attention_heads=3))
    before = encoder.embed_tokens.weight.clone()
    assert torch.equal(Whole(encoder).encoder.embed_tokens.weight, before)
