"""State-dict keys and public names are pinned, and plans that refer to modules by name match them."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sequence_encoder
from sequence_encoder import (
    PRESETS,
    SequenceEncoderConfig,
    SequenceEncoderForMaskedLM,
    SequenceEncoderForMultipleChoice,
    SequenceEncoderForPreTraining,
    SequenceEncoderForQuestionAnswering,
    SequenceEncoderForRetrieval,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderForTokenClassification,
    SequenceEncoderForZeroShotClassification,
    SequenceEncoderModel,
    SequenceEncoderPreTrainedModel,
)
from sequence_encoder.modeling.attention.self_attention import SelfAttention

TinyConfig = Callable[..., SequenceEncoderConfig]

PARTS = ["attn_norm", "mlp.down_proj", "mlp.up_proj", "mlp_norm", "self_attn.o_proj", "self_attn.qkv_proj"]
LAYER = [f"{part}.{kind}" for part in PARTS for kind in ("bias", "weight")]
MODERN_PARTS = ["mlp.down_proj", "mlp.gate_up_proj", "mlp_norm", "self_attn.o_proj", "self_attn.qkv_proj"]
MODERN_LAYER_0 = [f"{part}.weight" for part in MODERN_PARTS]
MODERN_LAYER = ["attn_norm.weight", *MODERN_LAYER_0]
NOMIC_LAYER = sorted([*MODERN_LAYER, "attn_norm.bias", "mlp_norm.bias"])
POOLER = ["pooler.dense.bias", "pooler.dense.weight"]
NORM = ["embeddings.norm.bias", "embeddings.norm.weight"]
POSITIONS = ["embeddings.positions.table.weight"]
TYPES = ["embeddings.types.weight"]
DISTANCES = [f"position_bias.{name}" for name in ("norm.bias", "norm.weight", "table.weight")]

# The keys outside the layers, of the layers, and of the pooler.
TRUNKS: dict[str, tuple[list[str], list[list[str]], list[str]]] = {
    "vanilla": (["embed_tokens.weight"], [LAYER, LAYER], []),
    "bert": (["embed_tokens.weight", *NORM, *POSITIONS, *TYPES], [LAYER, LAYER], POOLER),
    "roberta": (["embed_tokens.weight", *NORM, *POSITIONS, *TYPES], [LAYER, LAYER], POOLER),
    "distilbert": (["embed_tokens.weight", *NORM, *POSITIONS], [LAYER, LAYER], POOLER),
    "mpnet": (["embed_tokens.weight", *NORM, *POSITIONS, "position_bias.table.weight"], [LAYER, LAYER], POOLER),
    "nomic": (["embed_tokens.weight", *NORM, *TYPES], [NOMIC_LAYER, NOMIC_LAYER], POOLER),
    "eurobert": (["embed_tokens.weight", "norm.weight"], [MODERN_LAYER, MODERN_LAYER], POOLER),
    "deberta-v3": (["embed_tokens.weight", *NORM, *DISTANCES], [LAYER, LAYER], POOLER),
    "modernbert": (
        ["embed_tokens.weight", "embeddings.norm.weight", "norm.weight"],
        [MODERN_LAYER_0, MODERN_LAYER],
        [],
    ),
}
assert TRUNKS.keys() == PRESETS.keys()

DENSE_HEADS = {
    "vanilla": [],
    "bert": ["head.dense.bias", "head.dense.weight", "head.norm.bias", "head.norm.weight"],
    "eurobert": [],
    "modernbert": ["head.dense.weight", "head.norm.weight"],
}
CLASSIFIER = ["classifier.bias", "classifier.weight"]
DECODER = ["decoder.bias", "decoder.weight"]
ANSWERS = ["qa_outputs.bias", "qa_outputs.weight"]
PROJECTIONS = [
    f"{part}_projection.{layer}_proj.{kind}"
    for part in ("text", "label")
    for layer in ("up", "down")
    for kind in ("weight", "bias")
]
SOP = ["sop_classifier.bias", "sop_classifier.weight"]

# Per head: its own keys, whether it uses the pooler, and the field that can make it dense.
HEADS: dict[type[SequenceEncoderPreTrainedModel], tuple[list[str], bool, str]] = {
    SequenceEncoderForMaskedLM: (DECODER, False, "prediction_head"),
    SequenceEncoderForPreTraining: ([*DECODER, *SOP], True, "prediction_head"),
    SequenceEncoderForSequenceClassification: (CLASSIFIER, True, "classifier_head"),
    SequenceEncoderForMultipleChoice: (CLASSIFIER, True, "classifier_head"),
    SequenceEncoderForTokenClassification: (CLASSIFIER, False, "classifier_head"),
    SequenceEncoderForQuestionAnswering: (ANSWERS, False, "classifier_head"),
    SequenceEncoderForZeroShotClassification: (PROJECTIONS, True, ""),
}
every_preset = pytest.mark.parametrize("preset", sorted(PRESETS))
every_head = pytest.mark.parametrize("head", HEADS)
MODELS = [SequenceEncoderModel, SequenceEncoderForRetrieval, *HEADS]
# Heads and presets do not depend on each other.
every_model = pytest.mark.parametrize(
    ("model_class", "preset"),
    [*zip(MODELS, sorted(PRESETS), strict=False), *((SequenceEncoderModel, preset) for preset in sorted(PRESETS)[1:])],
)


def two_layers(tiny_config: TinyConfig, preset: str, **overrides: Any) -> SequenceEncoderConfig:
    pattern = {"layer_types": ["full_attention", "sliding_attention"]} if preset == "modernbert" else {}
    return tiny_config(preset, num_hidden_layers=2, **{**pattern, **overrides})


def trunk_keys(preset: str, pooler: bool) -> list[str]:
    outside, layers, pooled = TRUNKS[preset]
    inside = [f"layers.{index}.{key}" for index, layer in enumerate(layers) for key in layer]
    return [*outside, *inside, *(pooled if pooler else [])]


def test_the_package_exports_what_the_reference_documents() -> None:
    pages = (Path(__file__).parents[2] / "docs" / "reference").glob("*.rst")
    documented = [
        name for page in pages for name in re.findall(r"^\.\. (?:auto\w+|data):: (\w+)", page.read_text(), re.M)
    ]
    assert sorted(documented) == dir(sequence_encoder)
    assert set(sequence_encoder.__all__) < set(documented)
    first_page = (Path(__file__).parents[2] / "docs" / "reference" / "index.md").read_text()
    assert sorted(re.findall(r"`(\w+)` \|", first_page)) == sorted(sequence_encoder.__all__)
    for name in documented:
        assert getattr(getattr(sequence_encoder, name), "__name__", name) == name


@every_preset
def test_keys_of_the_trunk_are_pinned(tiny_config: TinyConfig, preset: str) -> None:
    config = two_layers(tiny_config, preset)
    for pooler in (True, False):
        model = SequenceEncoderModel(config, add_pooling_layer=pooler)
        assert sorted(model.state_dict()) == sorted(trunk_keys(preset, pooler))
        assert not dict(model.named_buffers())  # values outside the state dict are computed


@every_head
@pytest.mark.parametrize("preset", sorted(DENSE_HEADS))
def test_keys_of_the_heads_are_pinned(
    tiny_config: TinyConfig, head: type[SequenceEncoderPreTrainedModel], preset: str
) -> None:
    own, pooler, dense_head = HEADS[head]
    config = two_layers(tiny_config, preset)
    dense = DENSE_HEADS[preset] if getattr(config, dense_head, None) == "dense" else []
    own = own if config.decoder_bias else [key for key in own if key != "decoder.bias"]
    expected = [*(f"model.{key}" for key in trunk_keys(preset, pooler)), *dense, *own]
    assert sorted(head(config).state_dict()) == sorted(expected)


def matches(plan: dict[str, str], model: torch.nn.Module) -> dict[str, list[str]]:
    """Return the modules that match each pattern of a parallel plan, where `*` is the index of a layer."""
    names = [name for name, _ in model.named_modules()]
    return {key: [name for name in names if re.sub(r"\.\d+(?=\.|$)", ".*", name) == key] for key in plan}


@every_model
def test_tensor_parallel_plans_match_every_linear_layer(
    tiny_config: TinyConfig, model_class: type[SequenceEncoderPreTrainedModel], preset: str
) -> None:
    model = model_class(tiny_config(preset))
    found = matches(model.tp_plan, model)
    assert all(found.values()), found
    named = {name for names in found.values() for name in names}
    inner = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and "layers" in name}
    assert inner <= named


@pytest.mark.since("transformers", "5.14", "merges the plan of a head with that of its trunk")
@pytest.mark.parametrize("model_class", MODELS)
def test_tensor_parallel_plans_match_the_vocabulary_projection(
    tiny_config: TinyConfig, model_class: type[SequenceEncoderPreTrainedModel]
) -> None:
    model = model_class(tiny_config())
    assert ("decoder" in model.tp_plan) == hasattr(model, "decoder")


@pytest.mark.since("transformers", "5.15", "has a plan for FSDP that models inherit")
@every_model
def test_fsdp_plans_match_existing_modules(
    tiny_config: TinyConfig, model_class: type[SequenceEncoderPreTrainedModel], preset: str
) -> None:
    model = model_class(tiny_config(preset))
    found = matches(model.fsdp_plan, model)
    assert all(found.values()), found
    prefix = "" if issubclass(model_class, SequenceEncoderModel) else "model."
    layers = [f"{prefix}layers.{index}" for index in range(model.config.num_hidden_layers)]
    assert found[f"{prefix}layers.*"] == layers
    assert ("decoder" in found) == hasattr(model, "decoder")


def test_sharding_the_fused_projection_keeps_whole_heads(
    tiny_config: TinyConfig, randomize: Callable[..., Any]
) -> None:
    """Simulate "colwise" of `qkv_proj` and "rowwise" of `o_proj` on three ranks of one head each."""
    config = tiny_config("vanilla")
    config._attn_implementation = "sdpa"
    attention = randomize(SelfAttention(config, "full_attention"))
    hidden_states = torch.randn(2, 7, config.hidden_size)
    ranks = config.num_attention_heads
    total = attention.o_proj.bias.expand(2, 7, -1)
    for rank in range(ranks):
        shard = copy.deepcopy(attention)
        shard.o_proj.bias = None
        for layer, name, dim in (("qkv_proj", "weight", 0), ("qkv_proj", "bias", 0), ("o_proj", "weight", 1)):
            whole = getattr(getattr(attention, layer), name)
            setattr(getattr(shard, layer), name, torch.nn.Parameter(whole.chunk(ranks, dim)[rank]))
        total = total + shard(hidden_states)[0]
    torch.testing.assert_close(total, attention(hidden_states)[0], rtol=0, atol=1e-5)


def is_tied(model: Any) -> bool:
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("head", [SequenceEncoderForMaskedLM, SequenceEncoderForPreTraining])
@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_survive_saving_and_resizing(
    tiny_config: TinyConfig,
    randomize: Callable[..., Any],
    tmp_path: Path,
    head: type[SequenceEncoderPreTrainedModel],
    tied: bool,
) -> None:
    model = randomize(head(tiny_config("bert", tie_word_embeddings=tied)))
    assert is_tied(model) is tied
    model.save_pretrained(tmp_path)
    loaded = head.from_pretrained(tmp_path)
    assert is_tied(loaded) is tied

    loaded.resize_token_embeddings(101)
    assert is_tied(loaded) is tied
    assert loaded.config.vocab_size == 101
    assert loaded.decoder.weight.shape == (101, 24)
    assert loaded.decoder.bias.shape == (101,)
    assert torch.equal(loaded.decoder.weight[:97], model.decoder.weight)
    assert torch.equal(loaded.decoder.bias[:97], model.decoder.bias)
    assert torch.equal(loaded.model.embed_tokens.weight[:97], model.model.embed_tokens.weight)
    ids = torch.tensor([[5, 100, 98]])
    assert next(iter(loaded(ids).values())).shape == (1, 3, 101)


@every_model
def test_saving_and_loading_keep_every_bit(
    tiny_config: TinyConfig,
    randomize: Callable[..., Any],
    ragged: Callable[..., Any],
    tmp_path: Path,
    model_class: type[SequenceEncoderPreTrainedModel],
    preset: str,
) -> None:
    model = randomize(model_class(tiny_config(preset, num_labels=5)))
    model.save_pretrained(tmp_path)
    # A copy, because weights mapped from a file may be unaligned, which can change the order of sums.
    loaded = copy.deepcopy(model_class.from_pretrained(tmp_path))
    before, after = ({**m.config.to_dict(), "_name_or_path": ""} for m in (model, loaded))
    assert before == after
    assert not loaded.training
    ids, mask = ragged([5, 11, 3])
    if model_class is SequenceEncoderForMultipleChoice:
        ids, mask = ids[None], mask[None]
    with torch.no_grad():
        before, after = (m(input_ids=ids, attention_mask=mask) for m in (model, loaded))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("model_class", MODELS)
def test_the_signature_of_forward_lists_its_optional_arguments(
    model_class: type[SequenceEncoderPreTrainedModel],
) -> None:
    (options,) = inspect.signature(model_class.forward).parameters["kwargs"].annotation.__args__
    assert {"output_attentions", "output_hidden_states", "cu_seq_lens_q"} <= options.__annotations__.keys()
