"""Changes of an optimized model and unusual calls of it have the results that they have without `optimize`."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from torch import nn
from transformers import BertModel, PreTrainedConfig, PreTrainedModel

from sequence_encoder import describe, optimize
from sequence_encoder.tests.fixtures.family_folders import build
from sequence_encoder.tests.fixtures.ragged_batches import assert_same, leaves_out_padding, ragged, states


def stepped(model: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    batch = ragged(model)
    (model(**batch)[0] * batch["attention_mask"][..., None]).square().mean().backward()
    optimizer.step()


def with_hook(model: Any) -> None:
    model.encoder.layer[0].attention.output.register_forward_hook(lambda module, inputs, output: output + 1)


def with_gradient_hook(model: Any) -> None:
    model.encoder.layer[0].attention.output.register_full_backward_pre_hook(lambda module, gradients: None)


def with_adapter(model: Any) -> None:
    config = peft.LoraConfig(target_modules=["query", "value"], init_lora_weights=False)
    torch.manual_seed(0)
    peft.inject_adapter_in_model(config, model)


@pytest.mark.parametrize(
    ("change", "still_without_padding"),
    [
        (lambda model: model.load_state_dict(build("bert", initializer_range=0.1)[0].state_dict()), True),
        (lambda model: model.resize_token_embeddings(90), True),
        (lambda model: model.encoder.layer[1].attention.self.key.weight.normal_(), True),
        (lambda model: model.to(torch.float64), True),
        (stepped, True),
        (with_hook, False),
        (with_adapter, False),
        (lambda model: setattr(model.encoder.layer[0], "forward", lambda states, *_, **__: states), False),
        (lambda model: model.encoder.layer.append(model.encoder.layer[0]), False),
        (lambda model: setattr(model.encoder.layer[0].intermediate, "intermediate_act_fn", nn.ReLU()), False),
    ],
    ids=["loaded", "resized", "in place", "float64", "optimizer", "hook", "adapter", "forward", "grown", "activation"],
)
def test_later_changes_of_a_model_count(change: Callable[[Any], Any], still_without_padding: bool) -> None:
    original, _ = build("bert")
    model = optimize(copy.deepcopy(original))
    states(model, ragged(model))
    with torch.no_grad() if change is not stepped else torch.enable_grad():
        for each in (original, model):
            torch.manual_seed(0)
            change(each)
    batch = ragged(model)
    assert_same(model, original, batch, atol=1e-4 if change is stepped else 1e-5)
    assert leaves_out_padding(model, batch) is still_without_padding


class Doubled(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, states: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        return 2 * self.inner(states, *args, **options)


class OwnBert(BertModel):
    def forward(self, *args: Any, **options: Any) -> Any:
        outputs = super().forward(*args, **options)
        outputs.last_hidden_state = outputs.last_hidden_state * 3
        return outputs


OwnBert.__name__ = "BertModel"


def with_mc_dropout(model: Any) -> None:
    model.encoder.layer[0].output.dropout.train()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_adapter, "encoder.layer.0.attention.self.query is not as the configuration describes it"),
        (with_mc_dropout, "its Dropout is in training mode alone"),
        (with_hook, "a hook or another forward is on its BertSelfOutput"),
        (with_gradient_hook, "a hook or another forward is on its BertSelfOutput"),
        (lambda model: setattr(model.encoder, "layer", model.encoder.layer[:1]), "encoder.layer.1 is not as"),
        (lambda model: model.encoder.layer.append(model.encoder.layer[0]), "encoder.layer.2 is not as"),
        (lambda model: setattr(model.config, "num_hidden_layers", 1), "encoder.layer.1 is not as"),
        (lambda model: model.encoder.layer.insert(1, Doubled(model.encoder.layer.pop(1))), "encoder.layer.1 is not"),
        (lambda model: setattr(model.encoder.layer[0].intermediate, "intermediate_act_fn", nn.ReLU()), "act_fn is not"),
        (lambda model: setattr(model, "__class__", OwnBert), "has another forward than that of transformers"),
    ],
    ids=["adapter", "mc dropout", "hook", "gradients", "pruned", "grown", "config", "wrapped", "activation", "class"],
)
def test_changed_models_compute_themselves(change: Callable[[Any], Any], reason: str) -> None:
    model, _ = build("bert")
    change(model)
    batch = ragged(model)
    torch.manual_seed(0)
    expected = states(model, batch)
    optimize(model)
    assert reason in describe(model)
    torch.manual_seed(0)
    torch.testing.assert_close(states(model, batch), expected, rtol=0, atol=0)


class RemoteBert(PreTrainedModel):
    """Code from the Hub whose class has the name of another one, and a configuration with other fields."""

    config_class = PreTrainedConfig

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.layers = nn.Linear(3, 3)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.layers(input_ids.float())


RemoteBert.__name__ = "BertModel"


def test_remote_code_with_the_name_of_another_class_is_left_alone() -> None:
    model = optimize(RemoteBert(PreTrainedConfig()))
    assert describe(model).endswith("as it was: this BertModel has another forward than that of transformers")


def test_weights_of_inference_mode_do_not_stay_in_training() -> None:
    model, _ = build("bert")
    batch = ragged(model)
    with torch.inference_mode():
        optimize(model)
        model(**batch)
        # Inference mode does not count changes of tensors that are made in it.
        made_inside, _ = build("bert")
        optimize(made_inside)
        before = states(made_inside, batch)
        made_inside.encoder.layer[0].attention.self.value.weight.zero_()
        assert (states(made_inside, batch) - before).abs().max() > 1e-3
    model.requires_grad_(False)
    model.embeddings.requires_grad_(True)
    model(**batch)[0].sum().backward()
    assert model.embeddings.LayerNorm.weight.grad.abs().sum() > 0


def test_inference_in_a_thread_leaves_the_gradients_of_another_alone() -> None:
    model, _ = build("bert")
    batch = ragged(optimize(model))
    link = model.__dict__["_linked_encoder"].encoder
    learning = link.prepare(training=False)
    states(model, batch)
    learning(**batch).last_hidden_state.sum().backward()
    assert model.encoder.layer[1].attention.self.query.weight.grad is not None


@pytest.mark.parametrize("when", ["before", "after"])
def test_dropouts_that_were_turned_off_stay_off(when: str) -> None:
    model, _ = build("bert")
    if when == "after":
        optimize(model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    optimize(model)
    batch = ragged(model)
    assert leaves_out_padding(model, batch)
    model.train()
    torch.testing.assert_close(states(model, batch), states(model, batch), rtol=0, atol=0)


def test_optimized_models_are_freed_at_once() -> None:
    model, _ = build("bert")
    states(optimize(model), ragged(model))
    gc.collect()
    gc.disable()
    try:
        weight = weakref.ref(model.get_input_embeddings().weight)
        del model
        assert weight() is None
    finally:
        gc.enable()


def test_wrong_and_unusual_arguments_are_those_of_the_class() -> None:
    original, _ = build("bert")
    model = optimize(copy.deepcopy(original))
    batch = ragged(model)
    segments = torch.zeros(1, 60, dtype=torch.long)
    assert_same(model, original, batch, token_type_ids=segments)
    replica = model._replicate_for_data_parallel()
    assert replica(**batch)[0].shape == (6, 60, 24)
    for wrong in ((batch["input_ids"],) * 2, (None,) * 30):
        with pytest.raises(TypeError):
            model(*wrong, input_ids=batch["input_ids"])
    for each in (model, original):
        with pytest.raises(RuntimeError, match="cannot reshape tensor of 0 elements"):
            each(input_ids=torch.ones(2, 0).long(), attention_mask=torch.ones(2, 0).long())


@pytest.mark.parametrize(
    "options",
    [
        {"output_hidden_states": True},
        {"output_attentions": True},
        {"position_ids": torch.arange(60).flip(0).expand(6, -1)},
        {"attention_mask": "left"},
        {"attention_mask": "wide"},
    ],
    ids=["hidden states", "attentions", "positions", "padding on the left", "4-D mask"],
)
def test_calls_that_differ_go_to_the_model_itself(options: dict[str, Any]) -> None:
    original, _ = build("bert", attn_implementation="eager")
    model = optimize(copy.deepcopy(original))
    batch = ragged(model)
    if options.get("attention_mask") == "left":
        batch["attention_mask"] = batch["attention_mask"].flip(1)
    if options.get("attention_mask") == "wide":
        batch["attention_mask"] = torch.ones(6, 1, 60, 60).tril()
    options = {name: value for name, value in options.items() if name != "attention_mask"}
    with torch.no_grad():
        found, expected = model(**batch, **options), original(**batch, **options)
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found.to_tuple(), expected.to_tuple(), rtol=0, atol=0)
