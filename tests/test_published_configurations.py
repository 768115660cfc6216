"""Published configurations are carried over at their full depth, or refused by the name of a field."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig

from sequence_encoder import convert
from sequence_encoder.tests.published_configurations import PUBLISHED

REFUSED = {"hf-internal-testing/tiny-random-EuroBertForMaskedLM": "head_dim=64 is not supported"}


def small(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a published configuration with small widths, and with special tokens of a small vocabulary."""
    heads = fields["num_attention_heads"]
    # Heads keep an even size, for rotary positions.
    sizes = {"vocab_size": 97, "hidden_size": 4 * heads, "intermediate_size": 3 * heads + 2}
    tokens = {name: value % 97 for name, value in fields.items() if name.endswith("_token_id")}
    return {**fields, **sizes, **tokens}


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name not in REFUSED])
def test_a_published_configuration_is_carried_over(tmp_path: Path, randomize: Callable[..., Any], name: str) -> None:
    fields = small(PUBLISHED[name])
    model_class = getattr(transformers, fields["architectures"][0])
    own = {key: value for key, value in fields.items() if key != "auto_map"}
    theirs = randomize(model_class(AutoConfig.for_model(**own)))
    theirs.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(fields))
    ours = convert(tmp_path)
    assert ours.config.num_hidden_layers == fields["num_hidden_layers"]
    mask = (torch.arange(9) < torch.tensor([9, 4])[:, None]).long()
    ids = torch.randint(5, 97, (2, 9)) * mask + theirs.config.pad_token_id * (1 - mask)
    found, expected = (model(ids, attention_mask=mask)[0][mask.bool()] for model in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_a_published_configuration_that_cannot_be_represented_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[name]))
    with pytest.raises(ValueError, match=REFUSED[name]):
        convert(tmp_path)
