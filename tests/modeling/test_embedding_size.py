"""Embeddings with another size than the layers are projected, for every preset and head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from sequence_encoder import (
    PRESETS,
    SequenceEncoderConfig,
    SequenceEncoderForMaskedLM,
    SequenceEncoderModel,
)

TinyConfig = Callable[..., SequenceEncoderConfig]
MakeBatch = Callable[..., tuple[torch.Tensor, torch.Tensor]]
both_sizes = pytest.mark.parametrize("size", [14, 34])


@both_sizes
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_packed_and_padded_paths_agree_and_saving_keeps_the_outputs(
    tiny_config: TinyConfig, randomize: Callable[..., Any], ragged: MakeBatch, tmp_path: Path, preset: str, size: int
) -> None:
    model = randomize(SequenceEncoderModel(tiny_config(preset, embedding_size=size)))
    ids, mask = ragged([5, 11, 2], "left")
    expected = model(ids, attention_mask=mask).last_hidden_state
    padded = model(ids, attention_mask=mask, output_hidden_states=True)
    torch.testing.assert_close(padded.last_hidden_state, expected, rtol=0, atol=1e-5)
    assert padded.hidden_states[0].shape[-1] == 24
    assert model.get_input_embeddings().weight.shape == (97, size)
    vectors = model.get_input_embeddings()(ids)
    found = model(inputs_embeds=vectors, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    model.save_pretrained(tmp_path)
    again = SequenceEncoderModel.from_pretrained(tmp_path)
    assert torch.equal(again(ids, attention_mask=mask).last_hidden_state, expected)


@both_sizes
def test_tied_embeddings_stay_tied_when_the_vocabulary_grows(
    tiny_config: TinyConfig, ragged: MakeBatch, size: int
) -> None:
    config = tiny_config("bert", embedding_size=size, tie_word_embeddings=True)
    model = SequenceEncoderForMaskedLM(config)
    model.resize_token_embeddings(101)
    assert model.decoder.weight is model.get_input_embeddings().weight
    ids, mask = ragged([5, 11, 2])
    assert model.eval()(ids, attention_mask=mask).logits.shape == (3, 11, 101)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"embedding_size": 0}, "embedding_size must be at least 1, or None, got 0"),
        ({"embedding_size": 13}, "needs an even embedding_size, got 13"),
        (
            {"embedding_size": 14, "tie_word_embeddings": True},
            "tie_word_embeddings=True needs prediction_head='dense'.*embedding_size=14.*hidden_size=24.*'linear'",
        ),
    ],
)
def test_invalid_embedding_sizes_are_rejected(tiny_config: TinyConfig, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictDataclassError, match=message):
        tiny_config(**overrides)


def test_embeddings_are_scaled_by_the_root_of_embedding_size(tiny_config: TinyConfig) -> None:
    embeddings = SequenceEncoderModel(tiny_config(embedding_size=14)).eval().embeddings
    vectors = torch.randn(1, 5, 14)
    waves = torch.tensor([0.0, 1.0] * 7)  # Sines and cosines of the first position.
    expected = embeddings.projection(vectors * 14**0.5 + waves)
    torch.testing.assert_close(embeddings(vectors, None, torch.zeros(1, 5, dtype=torch.long)), expected)


def test_projected_embeddings_are_normalised_before_the_first_layer(tiny_config: TinyConfig) -> None:
    """Without a projection, the norm of the embeddings has already normalised the input."""
    for size, normalised in ((None, False), (14, True)):
        config = tiny_config("modernbert", embedding_size=size)
        assert ("layers.0.attn_norm.weight" in SequenceEncoderModel(config).state_dict()) == normalised
