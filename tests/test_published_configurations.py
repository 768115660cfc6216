"""Published configurations are carried over at their full depth, or refused by the name of a field."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModel

from sequence_encoder import convert
from sequence_encoder.tests.published_configurations import PUBLISHED

# Names that fields have had in the code of families on the Hub, and their names in transformers.
OLD = {
    "n_embd": "hidden_size",
    "n_inner": "intermediate_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "layer_norm_epsilon": "layer_norm_eps",
    "rotary_emb_base": "rope_theta",
}
REFUSED = {
    "nomic-ai/nomic-embed-text-v2-moe": "num_experts=8 is not supported",
    "AmelieSchreiber/esm_mlmppi_ph50": "EsmForMaskedLM cannot be converted: token_dropout",
    "junnyu/roformer_small_discriminator": "rotary_value=True is not supported",
    "jinaai/jina-embeddings-v3": "position_embedding_type='rotary' is not supported",
}
SINCE = {"gte": ("transformers", "5.18", "has GTE")}


def small(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a published configuration with small widths, under the names that it uses."""
    heads = fields.get("num_attention_heads") or fields["n_head"]
    # Heads keep an even size, for rotary positions.
    sizes = {"vocab_size": 97, "hidden_size": 4 * heads, "intermediate_size": 3 * heads + 2}
    return {name: sizes.get(OLD.get(name, name), value) for name, value in fields.items()}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=[pytest.mark.since(*SINCE[fields["model_type"]])] if fields["model_type"] in SINCE else []
        )
        for name, fields in PUBLISHED.items()
        if name not in REFUSED
    ],
)
def test_a_published_configuration_is_carried_over(tmp_path: Path, randomize: Callable[..., Any], name: str) -> None:
    fields = small(PUBLISHED[name])
    # The weights come from a model of transformers that has the sizes under today's names.
    today = {OLD.get(key, key): value for key, value in fields.items()}
    config = AutoConfig.for_model(**today)
    named = fields.get("architectures")
    theirs = randomize(getattr(transformers, named[0])(config) if named else AutoModel.from_config(config))
    theirs.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(fields))
    ours = convert(tmp_path)
    assert ours.config.num_hidden_layers == len(ours.base_model.layers) >= 3
    mask = (torch.arange(9) < torch.tensor([9, 4])[:, None]).long()
    ids = torch.randint(5, 97, (2, 9)) * mask + theirs.config.pad_token_id * (1 - mask)
    found, expected = (model(ids, attention_mask=mask)[0][mask.bool()] for model in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_a_published_configuration_that_cannot_be_represented_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[name]))
    with pytest.raises(ValueError, match=REFUSED[name]):
        convert(tmp_path)
