"""Layers that share their weights compute what separate layers with the same weights compute, and their gradients add.

The separate layers are copies of the shared ones, so that both models have the same parts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from sequence_encoder import (
    PRESETS,
    Objectives,
    SequenceEncoderForMaskedLM,
    SequenceEncoderModel,
)
from sequence_encoder.hub.card.card import model_card
from sequence_encoder.tests.fixtures.comparisons import assert_same
from sequence_encoder.training.pretraining.trainer import operations_per_token

Build = Callable[..., Any]
LENGTHS = [5, 11, 1, 7]
FULL, SLIDING = "full_attention", "sliding_attention"
# The groups of three layers are (0, 0, 0) and (0, 0, 1).
TYPES = {1: [SLIDING] * 3, 2: [SLIDING, SLIDING, FULL]}
every_preset = pytest.mark.parametrize("preset", sorted(PRESETS))
some_presets = pytest.mark.parametrize("preset", ["bert", "modernbert"])
every_number = pytest.mark.parametrize("groups", TYPES)
both_paths = pytest.mark.parametrize("path", [{}, {"output_hidden_states": True}], ids=["packed", "padded"])


@pytest.fixture
def shared(tiny_config: Build, randomize: Build) -> Build:
    """Return `shared(preset, groups, model_class)`, which builds a tiny model of three layers in groups."""

    def build(preset: str, groups: int, model_class: Any = SequenceEncoderModel, **overrides: Any) -> Any:
        types = {"layer_types": TYPES[groups]} if preset == "modernbert" else {}
        return randomize(model_class(tiny_config(preset, num_hidden_groups=groups, **{**types, **overrides})))

    return build


def separate(model: Any) -> Any:
    """Return a copy of a model with a copy of its layer at each depth."""
    copied = copy.deepcopy(model)
    trunk = copied.base_model
    trunk.layers = torch.nn.ModuleList(copy.deepcopy(trunk.layers[group]) for group in model.config.layer_groups)
    copied.config.num_hidden_groups = None
    return copied


def gradients_by_group(model: Any, groups: list[int]) -> dict[str, torch.Tensor]:
    """Return the gradients by name, with those of separate layers added for each group."""
    found: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        start, _, rest = name.partition("layers.")
        if rest:
            depth, _, part = rest.partition(".")
            name = f"{start}layers.{groups[int(depth)]}.{part}"
        found[name] = found.get(name, 0) + parameter.grad
    return found


@every_preset
@every_number
@pytest.mark.parametrize("side", ["right", "left"])
def test_packed_padded_alone_and_separate_layers_agree(
    shared: Build, ragged: Build, preset: str, groups: int, side: str
) -> None:
    model = shared(preset, groups)
    ids, mask = ragged(LENGTHS, side)
    packed, padded = model(ids, mask), model(ids, mask, output_hidden_states=True)
    apart = separate(model)(ids, mask, output_hidden_states=True)
    for outputs in (padded, apart):
        assert_same(outputs.last_hidden_state, packed.last_hidden_state)
        assert_same(outputs.pooler_output, packed.pooler_output)
    assert len(padded.hidden_states) == len(apart.hidden_states) == 4
    for one, other in zip(padded.hidden_states, apart.hidden_states, strict=True):
        assert torch.equal(one[mask == 1], other[mask == 1])
    for row, real in enumerate(mask == 1):
        assert_same(model(ids[row][real][None]).last_hidden_state[0], packed.last_hidden_state[row][real])


@every_preset
@every_number
@both_paths
def test_gradients_of_shared_weights_are_sums(
    shared: Build, ragged: Build, preset: str, groups: int, path: dict[str, bool]
) -> None:
    model = shared(preset, groups).train()
    apart = separate(model)
    ids, mask = ragged(LENGTHS)
    weight = torch.randn(*ids.shape, 24)
    for each in (model, apart):
        (each(ids, mask, **path).last_hidden_state * weight).sum().backward()
        for name, parameter in each.named_parameters():
            if "pooler" in name:
                parameter.grad = torch.zeros_like(parameter)
    depths = list(range(groups))
    found, expected = gradients_by_group(model, depths), gradients_by_group(apart, model.config.layer_groups)
    assert found.keys() == expected.keys()
    for name in expected:
        assert_same(found[name], expected[name])


@some_presets
@every_number
@pytest.mark.parametrize("checkpointing", [None, {"use_reentrant": True}, {"use_reentrant": False}])
def test_only_the_last_layer_skips_tokens(
    shared: Build, ragged: Build, preset: str, groups: int, checkpointing: dict[str, bool] | None
) -> None:
    model = shared(preset, groups, SequenceEncoderForMaskedLM, hidden_dropout=0.0).train()
    if checkpointing is not None:
        model.gradient_checkpointing_enable(checkpointing)
    ids, mask = ragged(LENGTHS)
    masked = (torch.rand(ids.shape) < 0.4) & (mask == 1)
    labels = ids.masked_fill(~masked, -100)
    sizes: list[int] = []
    hook = model.model.layers[-1].mlp.register_forward_pre_hook(
        lambda module, args: sizes.append(args[0].shape[:-1].numel())
    )
    loss = model(ids, mask, labels=labels).loss
    hook.remove()
    assert sizes == [sum(LENGTHS)] * (3 // groups - 1) + [int(masked.sum())]
    loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.gradient_checkpointing_disable()
    model.zero_grad()
    expected = model(ids, mask, labels=labels, output_hidden_states=True).loss  # Computes all tokens.
    expected.backward()
    assert_same(loss, expected)
    for name, parameter in model.named_parameters():
        assert_same(found[name], parameter.grad)


@pytest.mark.since("torch", "2.7", "compiles what wraps the models of transformers")
def test_compiled_and_exported_models_compute_the_same(shared: Build, ragged: Build) -> None:
    model = shared("modernbert", 2)
    ids, mask = ragged(LENGTHS, "left")
    expected = model(ids, attention_mask=mask)
    torch.compiler.reset()  # Torch limits how often a process compiles the same code, as other tests do.
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_same(compiled(ids, attention_mask=mask).last_hidden_state, expected.last_hidden_state)
    exported = torch.export.export(model, (), {"input_ids": ids, "attention_mask": mask}, strict=False)
    found = exported.module()(input_ids=ids, attention_mask=mask)
    assert_same(found.last_hidden_state, expected.last_hidden_state)
    assert len(exported.state_dict) == len(model.state_dict())


@every_preset
@every_number
def test_weights_are_held_saved_and_counted_once(
    shared: Build, ragged: Build, tmp_path: Path, preset: str, groups: int
) -> None:
    model = shared(preset, groups)
    keys = {key.split(".")[1] for key in model.state_dict() if key.startswith("layers.")}
    assert keys == {str(group) for group in range(groups)}
    model.save_pretrained(tmp_path)
    again = SequenceEncoderModel.from_pretrained(tmp_path)
    assert (again.config.num_hidden_groups, again.num_parameters()) == (groups, model.num_parameters())
    ids, mask = ragged(LENGTHS)
    assert torch.equal(again(ids, mask).last_hidden_state, model(ids, mask).last_hidden_state)
    words = {1: "| 3 that share their weights, with", 2: "| 3 that share their weights in 2 groups, with"}
    assert words[groups] in model_card(model, "user/name").text
    assert f"{model.num_parameters():,}" in model_card(model, "user/name").text


@every_number
def test_operations_count_weights_once_for_each_layer(shared: Build, groups: int) -> None:
    """The share of a device's peak is computed from them."""
    model = shared("bert", groups, SequenceEncoderForMaskedLM)
    run: Any = SimpleNamespace(model=SimpleNamespace(max_length=64), objectives=Objectives(sop_weight=0.0))
    assert operations_per_token(model, run) == operations_per_token(separate(model), run)


@every_number
def test_an_adapter_of_a_layer_is_shared_too(shared: Build, ragged: Build, groups: int) -> None:
    model = shared("bert", groups)
    ids, mask = ragged(LENGTHS)
    before = model(ids, mask).last_hidden_state
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=3, init_lora_weights=False)).eval()
    matrices = [name for name, module in adapted.named_modules() if isinstance(module, peft.tuners.lora.Linear)]
    assert len(matrices) == 4 * groups
    changed = adapted(input_ids=ids, attention_mask=mask).last_hidden_state
    assert not torch.allclose(changed, before, atol=1e-3)
    changed.sum().backward()
    trained = [parameter.grad for parameter in adapted.parameters() if parameter.requires_grad]
    assert trained
    assert all(gradient is not None for gradient in trained)
    merged = adapted.merge_and_unload()
    assert_same(merged(ids, mask).last_hidden_state, changed)


@pytest.mark.parametrize("alone", [True, False])
def test_a_norm_that_only_other_layers_need_is_kept(tiny_config: Build, alone: bool) -> None:
    """The first layer has no attention norm of its own after `embedding_norm`, unless a later layer shares it."""
    types = [FULL] + [SLIDING] * 2 if alone else [SLIDING, SLIDING, FULL]
    config = tiny_config("modernbert", num_hidden_layers=3, layer_types=types, num_hidden_groups=None if alone else 2)
    assert ("layers.0.attn_norm.weight" in SequenceEncoderModel(config).state_dict()) != alone


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"num_hidden_groups": 0}, "num_hidden_groups must be from 1 to num_hidden_layers=3, or None, got 0"),
        ({"num_hidden_groups": -1}, "from 1 to num_hidden_layers=3, or None, got -1"),
        ({"num_hidden_groups": 4}, "from 1 to num_hidden_layers=3, or None, got 4"),
        ({"num_hidden_groups": 10**12}, "from 1 to num_hidden_layers=3, or None, got 1000000000000"),
        ({"num_hidden_groups": 1, "num_hidden_layers": 0}, "from 1 to num_hidden_layers=0, or None, got 1"),
        ({"num_hidden_groups": 1.0}, "num_hidden_groups"),
        (
            {"num_hidden_groups": 2, "layer_types": [FULL, SLIDING], "sliding_window": 3},
            "layer_types has 'full_attention' for layer 0 and 'sliding_attention' for layer 1, which share their "
            "weights; pass one type for each of the 2 groups",
        ),
    ],
)
def test_groups_that_do_not_fit_are_rejected(tiny_config: Build, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictDataclassError, match=message):
        tiny_config(**overrides)
