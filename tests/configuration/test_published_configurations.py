"""Published configurations convert, with small widths and few layers, or `convert` rejects them and names a field.

`published_configurations.json` holds the fields of `config.json` of published checkpoints, as their repositories on the
Hub state them. Fields that concern neither the architecture nor its class are left out.
"""

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
from sequence_encoder.conversion.inspection import inspect

PUBLISHED = json.loads((Path(__file__).parents[1] / "fixtures" / "published_configurations.json").read_text())
# Maps names of fields in code on the Hub to their names in transformers.
RENAMED = {
    "n_embd": "hidden_size",
    "n_inner": "intermediate_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "layer_norm_epsilon": "layer_norm_eps",
    "rotary_emb_base": "rope_theta",
    "clf_pooling": "classifier_pooling",
}
REJECTED = {
    "nomic-ai/nomic-embed-text-v1-unsupervised": "rotary_scaling_factor=2 is not supported",
    "nomic-ai/nomic-embed-text-v2-moe": "num_experts=8 is not supported",
    "nomic-ai/nomic-embed-text-v2-moe-unsupervised": "num_experts=8 is not supported",
    "jinaai/jina-embeddings-v3": "whose code is on the Hub",
    "hf-internal-testing/tiny-random-EuroBertForMaskedLM": "head_dim=64 is not supported",
    "junnyu/roformer_small_discriminator": "rotary_value=True is not supported",
    "junnyu/roformer_v2_chinese_char_base": "use_bias=False is not supported",
    "AmelieSchreiber/esm_mlmppi_ph50": "EsmForMaskedLM cannot be converted: token_dropout",
}
SINCE = {
    "gte": ("transformers", "5.18", "has GTE"),
    "deberta-v2": ("transformers", "5.20", "loads the head of DeBERTa's pretraining checkpoints"),
}
# The class of checkpoints that do not name it, and the fields that they do not state.
UNNAMED: dict[str, tuple[str | None, dict[str, Any]]] = {"deberta-v2": ("DebertaV2ForMaskedLM", {"legacy": False})}


def marks(name: str) -> list[pytest.MarkDecorator]:
    """Return the marks that skip a configuration if the installed release lacks its family."""
    fields = PUBLISHED["converted"][name]
    family = fields["model_type"]
    named = family in UNNAMED and "architectures" in fields
    return [] if named or family not in SINCE else [pytest.mark.since(*SINCE[family])]


def small(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a published configuration with small widths and token ids and few layers, under the names that it uses."""
    heads = fields.get("num_attention_heads") or fields["n_head"]
    # No family has a longer period of different layers.
    layers = min(fields.get("num_hidden_layers") or fields["n_layer"], 6)
    # Heads keep an even size, for rotary positions.
    sizes = {"vocab_size": 97, "hidden_size": 4 * heads, "intermediate_size": 3 * heads + 2, "attention_head_size": 4}
    sizes |= {"head_dim": 4, "pooler_hidden_size": sizes["hidden_size"], "num_hidden_layers": layers}
    tokens = {name: value % 97 for name, value in fields.items() if name.endswith("_token_id")}
    return {name: sizes.get(RENAMED.get(name, name), value) for name, value in fields.items()} | tokens


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in PUBLISHED["converted"]])
def test_a_published_configuration_keeps_its_outputs(tmp_path: Path, randomize: Callable[..., Any], name: str) -> None:
    fields = small(PUBLISHED["converted"][name])
    # The weights come from a model of transformers, which only knows the new names.
    today = {RENAMED.get(key, key): value for key, value in fields.items() if key != "auto_map"}
    class_name, unstated = UNNAMED.get(fields["model_type"], (None, {}))
    if "architectures" in fields:
        class_name, unstated = fields["architectures"][0], {}
    config = AutoConfig.for_model(**today, **unstated)
    original = randomize(getattr(transformers, class_name)(config) if class_name else AutoModel.from_config(config))
    original.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(fields))
    converted = convert(tmp_path)
    assert converted.config.num_hidden_layers == original.config.num_hidden_layers >= 3
    mask = (torch.arange(9) < torch.tensor([9, 4])[:, None]).long()
    ids = torch.randint(5, 97, (2, 9)) * mask + original.config.pad_token_id * (1 - mask)
    found, expected = (model(ids, attention_mask=mask)[0] for model in (converted, original))
    if found.shape[:2] == mask.shape:
        found, expected = found[mask.bool()], expected[mask.bool()]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", REJECTED)
def test_a_published_configuration_without_an_equivalent_is_rejected(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED["rejected"][name]))
    with pytest.raises(ValueError, match=REJECTED[name]):
        convert(tmp_path)


@pytest.mark.parametrize("name", PUBLISHED["with_code"])
def test_a_published_configuration_with_code_on_the_hub_can_be_converted(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED["with_code"][name]))
    found = inspect(tmp_path)
    assert found.remote_code
    assert found.obstacle is None
    assert not found.unknown_fields
