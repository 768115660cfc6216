"""The fused linear layer and activation equal the separate modules, and never bypass hooks or gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from accelerate import disk_offload
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers.activations import ACT2FN

from sequence_encoder import SequenceEncoderModel
from sequence_encoder.modeling.cpu.linear import (
    can_fuse,
    can_fuse_gate,
    fused_linear,
    fused_linear_activation,
)
from sequence_encoder.modeling.feed_forward import GatedMLP


@pytest.mark.parametrize("act", ["relu", "gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "silu"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_fused_equals_separate(act: str, bias: bool, dtype: torch.dtype, tolerance: float) -> None:
    linear = nn.Linear(24, 40, bias=bias).to(dtype)
    for shape in ((24,), (7, 24), (1, 7, 24), (2, 152, 24)):
        x = torch.randn(shape, dtype=dtype)
        expected = ACT2FN[act](linear(x))
        with torch.no_grad():
            found = fused_linear_activation(linear.eval(), ACT2FN[act], x)
            torch.testing.assert_close(fused_linear(linear, x), linear(x), rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("act", ["relu", "gelu", "gelu_new", "silu"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_a_gated_layer_equals_separate_modules(
    tiny_config: Callable[..., Any], act: str, bias: bool, dtype: torch.dtype, tolerance: float
) -> None:
    mlp = GatedMLP(tiny_config("modernbert", hidden_act=act, mlp_bias=bias)).to(dtype).eval()
    for shape in ((24,), (2, 7, 24), (2, 152, 24)):
        x = torch.randn(shape, dtype=dtype)
        with torch.no_grad():
            gate, up = mlp.gate_up_proj(x).chunk(2, dim=-1)
            expected = mlp.down_proj(mlp.act(gate) * up)
            torch.testing.assert_close(mlp(x), expected, rtol=tolerance, atol=tolerance)
            supported = can_fuse(mlp.gate_up_proj, x) and act != "relu"
            assert can_fuse_gate(mlp.gate_up_proj, mlp.act, x) == supported or x.numel() < 256 * 24
        assert not can_fuse_gate(mlp.gate_up_proj, mlp.act, x)  # With gradients.
    handle = mlp.gate_up_proj.register_forward_hook(lambda module, given, output: 0 * output)
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), mlp.down_proj(0 * expected.new_ones(*shape[:-1], 40)))
    handle.remove()


def test_hooks_subclasses_and_gradients_are_kept(
    tiny_config: Callable[..., Any], randomize: Callable[..., Any]
) -> None:
    model = randomize(SequenceEncoderModel(tiny_config("bert")))
    ids = torch.randint(5, 97, (32, 9))
    seen = []
    handle = model.layers[1].mlp.up_proj.register_forward_hook(
        lambda module, args, output: seen.append(output) or 2 * output
    )
    with torch.no_grad():
        doubled = model(ids).last_hidden_state
    assert len(seen) == 1
    handle.remove()

    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    other = copy.deepcopy(model)
    other.layers[1].mlp.up_proj.__class__ = Doubled
    with torch.no_grad():
        torch.testing.assert_close(other(ids).last_hidden_state, doubled)
    model(ids).last_hidden_state.sum().backward()
    assert all(parameter.grad is not None for parameter in model.layers.parameters())


def test_offloaded_weights_are_loaded_first(
    tiny_config: Callable[..., Any], randomize: Callable[..., Any], tmp_path: Any
) -> None:
    model = randomize(SequenceEncoderModel(tiny_config("bert")))
    ids = torch.randint(5, 97, (32, 9))
    expected = model(ids).last_hidden_state
    offloaded = disk_offload(copy.deepcopy(model), tmp_path, execution_device=torch.device("cpu"))
    with torch.no_grad():
        torch.testing.assert_close(offloaded(ids).last_hidden_state, expected)


def test_an_activation_can_be_replaced_or_hooked(
    tiny_config: Callable[..., Any], randomize: Callable[..., Any]
) -> None:
    model = randomize(SequenceEncoderModel(tiny_config("bert")))
    ids = torch.randint(5, 97, (32, 9))
    seen: list[torch.Tensor] = []
    model.layers[0].mlp.act.register_forward_hook(lambda module, args, output: seen.append(output))
    model.layers[1].mlp.act = nn.Identity()
    expected = model(ids).last_hidden_state
    with torch.no_grad():
        torch.testing.assert_close(model(ids).last_hidden_state, expected)
    assert len(seen) == 2


def test_global_hooks_see_every_activation(tiny_config: Callable[..., Any], randomize: Callable[..., Any]) -> None:
    model = randomize(SequenceEncoderModel(tiny_config("bert")))
    seen: list[nn.Module] = []
    hook = nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.append(module))
    try:
        with torch.no_grad():
            model(torch.randint(5, 97, (32, 9)))
    finally:
        hook.remove()
    assert all(layer.mlp.act in seen for layer in model.layers)


@pytest.mark.since("transformers", "5.9", "builds traceable masks")
def test_traced_models_run(tiny_config: Callable[..., Any], randomize: Callable[..., Any]) -> None:
    model = randomize(SequenceEncoderModel(tiny_config("bert", return_dict=False)))
    ids = torch.randint(5, 97, (32, 9))
    with torch.no_grad():
        traced = torch.jit.trace(model, (ids,))
        torch.testing.assert_close(traced(ids)[0], model(ids)[0])


def test_selective_checkpointing_may_keep_products() -> None:
    linear, x = nn.Linear(24, 40), torch.randn(304, 24, requires_grad=True)
    inputs = [x, *linear.parameters()]

    def keep_products(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if "linear" in str(operator) else CheckpointPolicy.PREFER_RECOMPUTE

    contexts = partial(create_selective_checkpoint_contexts, keep_products)
    found = checkpoint(lambda x: fused_linear(linear, x).square(), x, use_reentrant=False, context_fn=contexts)
    gradients = (torch.autograd.grad(loss.sum(), inputs) for loss in (found, linear(x).square()))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)
