"""Prepacked weights give the same results as plain ones, follow every change, and are never saved."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModel

from sequence_encoder import SequenceEncoderModel, SequenceEncoderTokenizer
from sequence_encoder.modeling.cpu import prepacked
from sequence_encoder.modeling.cpu.shapes import has_onednn

Build = Callable[..., Any]
# A few rows, for which oneDNN is only used in bfloat16, and many.
FEW, MANY = [9, 4, 7], [40, 31, 25] * 3

pytestmark = pytest.mark.skipif(not has_onednn(torch.float32), reason="torch was built without oneDNN")


class Products(TorchDispatchMode):
    """Counts products of prepacked weights."""

    prepacked = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "_linear_pointwise" in str(func):
            weight = args[1] if "binary" not in str(func) else args[2]
            self.prepacked += weight.layout == torch._mkldnn
        return func(*args, **(kwargs or {}))


class ProductsOfTable(TorchDispatchMode):
    """Counts products of a weight with a table of so many rows."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows, self.count = rows, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if any(name in str(func) for name in ("addmm", "_linear_pointwise")):
            self.count += found.shape[0] == self.rows
        return found


@torch.no_grad()
def encoded(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, int]:
    """Return the vectors of a batch, and the number of products of prepacked weights."""
    with Products() as products:
        found = model(batch[0], attention_mask=batch[1]).last_hidden_state
    return found, products.prepacked


@pytest.fixture
def model(tiny_config: Build, randomize: Build) -> SequenceEncoderModel:
    return randomize(SequenceEncoderModel(tiny_config("bert")))


@pytest.mark.parametrize("preset", ["bert", "modernbert", "eurobert", "deberta-v3"])
@pytest.mark.parametrize("lengths", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_outputs_are_those_of_plain_weights(
    tiny_config: Build,
    randomize: Build,
    ragged: Build,
    preset: str,
    lengths: list[int],
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    if not has_onednn(dtype):
        pytest.skip("this processor has no product in bfloat16")
    model = randomize(SequenceEncoderModel(tiny_config(preset))).to(dtype)
    batch = ragged(lengths)
    expected, none = encoded(model, batch)
    model.prepack_weights()
    for _ in range(2):
        found, used = encoded(model, batch)
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
        assert (used >= 4 * 3) == (lengths == MANY or dtype == torch.bfloat16)
    padded = model(batch[0], attention_mask=batch[1], output_hidden_states=True).last_hidden_state
    torch.testing.assert_close(padded, expected, atol=tolerance, rtol=tolerance)
    model.prepack_weights(False)
    again, last = encoded(model, batch)
    assert torch.equal(again, expected)
    assert none == last == 0


def add_in_place(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        parameter.add_(0.1)
    return model


def assign_data(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.1
    return model


def load(model: nn.Module) -> nn.Module:
    model.load_state_dict({name: tensor + 0.1 for name, tensor in model.state_dict().items()})
    return model


def replace_layers(model: nn.Module) -> nn.Module:
    for layer in model.layers:
        layer.mlp.up_proj = nn.Linear(24, 40).eval()
    return model


@pytest.mark.parametrize(
    "change", [add_in_place, assign_data, load, replace_layers, torch.nn.Module.double, torch.nn.Module.bfloat16]
)
@torch.no_grad()
def test_a_change_of_the_weights_is_followed(model: SequenceEncoderModel, ragged: Build, change: Any) -> None:
    model.prepack_weights()
    batch = ragged(MANY)
    before, used = encoded(model, batch)
    assert used
    changed = change(model)
    found, _ = encoded(changed, batch)
    plain = copy.deepcopy(changed)
    plain.prepack_weights(False)
    expected, _ = encoded(plain, batch)
    tolerance = 0.1 if change is torch.nn.Module.bfloat16 else 1e-5
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    if found.dtype == torch.float32:
        assert not torch.allclose(found, before, atol=1e-3)


@pytest.mark.parametrize("norm", ["layer_norm", "none"])
@torch.no_grad()
def test_distances_are_projected_once(tiny_config: Build, randomize: Build, ragged: Build, norm: str) -> None:
    model = randomize(SequenceEncoderModel(tiny_config("deberta-v3", norm_rel_ebd=norm))).eval()
    plain = copy.deepcopy(model)
    model.prepack_weights()
    with ProductsOfTable(len(model.position_bias.table.weight)) as products:
        for lengths in (MANY, FEW):
            found, _ = encoded(model, ragged(lengths))
            torch.testing.assert_close(found, encoded(plain, ragged(lengths))[0], atol=1e-5, rtol=1e-5)
    assert products.count == len(model.layers)
    names = ["position_bias.table.weight", "layers.1.self_attn.qkv_proj.weight", "layers.1.self_attn.qkv_proj.bias"]
    for name in (*names, *(["position_bias.norm.bias"] if norm == "layer_norm" else [])):
        for each in (model, plain):
            parameter = each.get_parameter(name)
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        for batch in (ragged(MANY), ragged(FEW)):
            torch.testing.assert_close(encoded(model, batch)[0], encoded(plain, batch)[0], atol=1e-5, rtol=1e-5)


def test_training_does_not_use_them(model: SequenceEncoderModel, ragged: Build) -> None:
    ids, mask = ragged(MANY)
    expected = model(ids, attention_mask=mask).last_hidden_state
    model.prepack_weights()
    with Products() as products:
        found = model(ids, attention_mask=mask).last_hidden_state
        found.sum().backward()
        with torch.no_grad():
            model.train()(ids, attention_mask=mask)
    assert torch.equal(found, expected)
    assert products.prepacked == 0
    assert all(parameter.grad is not None for parameter in model.layers.parameters())


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("training", [True, False])
def test_fused_optimizers_are_followed(
    model: SequenceEncoderModel, ragged: Build, optimizer: Any, training: bool
) -> None:
    """They do not raise the version of the weights that they change."""
    ids, mask = batch = ragged(MANY)
    model.prepack_weights()
    before, _ = encoded(model, batch)
    step = optimizer(model.parameters(), lr=0.1, fused=True)
    model.train(training)(ids, attention_mask=mask).last_hidden_state.square().sum().backward()
    encoded(model.eval(), batch)
    step.step()
    found, used = encoded(model, batch)
    assert used
    assert not torch.allclose(found, before, atol=1e-2)
    model.prepack_weights(False)
    torch.testing.assert_close(found, encoded(model, batch)[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_weights_in_reused_memory_are_other_weights(model: SequenceEncoderModel, ragged: Build) -> None:
    ids, mask = batch = ragged(MANY)
    model.prepack_weights()
    weights = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for change in (0.0, 0.1, 0.2, 0.3):
        given = {name: parameter + change for name, parameter in weights.items()}
        found = torch.func.functional_call(model, given, (ids, mask)).last_hidden_state
        plain = copy.deepcopy(model)
        plain.prepack_weights(False)
        plain.load_state_dict(given)
        torch.testing.assert_close(found, encoded(plain, batch)[0], atol=1e-4, rtol=1e-4)
        del given
    for layer in model.layers:
        layer.self_attn.o_proj.weight.data = layer.self_attn.o_proj.weight.data.t()
        layer.self_attn.o_proj.bias = nn.Parameter(torch.randn(24, 3)[:, 1])
    found, _ = encoded(model.bfloat16().float(), batch)
    model.prepack_weights(False)
    torch.testing.assert_close(found, encoded(model, batch)[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_method_follows_changes_that_torch_does_not_count(model: SequenceEncoderModel, ragged: Build) -> None:
    model.prepack_weights()
    batch = ragged(MANY)
    encoded(model, batch)
    for parameter in model.parameters():
        parameter.data.add_(0.1)
    model.prepack_weights()
    found, used = encoded(model, batch)
    assert used
    model.prepack_weights(False)
    torch.testing.assert_close(found, encoded(model, batch)[0], atol=1e-5, rtol=1e-5)


def test_hooks_and_other_classes_are_kept(model: SequenceEncoderModel, ragged: Build) -> None:
    model.prepack_weights()
    batch, seen = ragged(MANY), []
    _, before = encoded(model, batch)
    handle = model.layers[0].mlp.up_proj.register_forward_hook(lambda module, args, output: seen.append(output))
    model.layers[1].mlp.act.register_forward_hook(lambda module, args, output: seen.append(output))
    _, used = encoded(model, batch)
    assert len(seen) == 2
    # The layer in front of the hooked activation can still use its copy.
    assert used == before - 1
    handle.remove()

    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    expected, _ = encoded(model, batch)
    model.layers[2].mlp.down_proj.__class__ = Doubled
    found, used = encoded(model, batch)
    assert used == before - 1
    assert not torch.allclose(found, expected, atol=1e-3)


def test_copies_and_saved_models_have_the_weights_alone(
    model: SequenceEncoderModel, ragged: Build, tmp_path: Path
) -> None:
    batch = ragged(MANY)
    names = model.state_dict().keys()
    model.prepack_weights()
    expected, used = encoded(model, batch)
    size = len(pickle.dumps(model))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        found, count = encoded(other, batch)
        assert torch.equal(found, expected)
        assert count == used
    model.prepack_weights(False)
    assert len(pickle.dumps(model)) == pytest.approx(size, rel=0.02)
    model.prepack_weights()
    assert model.state_dict().keys() == names
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(encoded(AutoModel.from_pretrained(tmp_path), batch)[0], expected)


@pytest.mark.since("torch", "2.7", "compiles the wrappers of transformers models")
def test_compiled_and_exported_models_do_not_use_them(model: SequenceEncoderModel, ragged: Build) -> None:
    ids, mask = ragged(MANY)
    expected = model(ids, attention_mask=mask).last_hidden_state
    model.prepack_weights()
    torch.compiler.reset()
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)(ids, attention_mask=mask).last_hidden_state
        exported = torch.export.export(model, (), {"input_ids": ids, "attention_mask": mask}, strict=False)
        assert "_linear_pointwise" not in str(exported.graph)
        model.config.return_dict = False
        traced = torch.jit.trace(model, (ids,))
    torch.testing.assert_close(compiled, expected)
    assert "_linear_pointwise" not in str(traced.inlined_graph)


def test_encode_prepacks_weights_while_it_runs(
    tiny_config: Build, randomize: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["the quick brown fox", "jumps", "over the lazy dog"] * 30
    tokenizer = SequenceEncoderTokenizer.train_from_iterator(texts, vocab_size=97, show_progress=False)
    model = randomize(SequenceEncoderModel(tiny_config("modernbert", vocab_size=len(tokenizer))))
    plain = {*model.layers[0].mlp.down_proj.__dict__}
    with Products() as few:
        expected = model.encode(texts, tokenizer)
    monkeypatch.setattr(prepacked, "_LEAST_TOKENS", 1)
    with Products() as many:
        found = model.encode(texts, tokenizer)
    assert (few.prepacked, bool(many.prepacked)) == (0, True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert {*model.layers[0].mlp.down_proj.__dict__} == plain
    # A copy that another thread makes meanwhile keeps none of them.
    with prepacked.prepacked_for(model.layers, 1):
        copies = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    assert not any(prepacked.is_prepacked(module) for each in copies for module in each.modules())
    # What the user has prepacked stays.
    model.prepack_weights()
    model.encode(texts, tokenizer)
    assert {*model.layers[0].mlp.down_proj.__dict__} == plain | {"prepacked"}
