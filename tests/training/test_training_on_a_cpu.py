"""The CPU kernels for training give the losses and gradients of torch's operators, and save memory."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sequence_encoder import SequenceEncoderForMaskedLM, SequenceEncoderModel
from sequence_encoder.modeling.attention import grouped as attention_in_groups
from sequence_encoder.modeling.attention import groups as attention_groups
from sequence_encoder.modeling.attention.banded import BandedAttention
from sequence_encoder.modeling.attention.grouped import GroupedAttention
from sequence_encoder.modeling.attention.groups import group_runs
from sequence_encoder.modeling.cpu import cross_entropy as chunked_cross_entropy
from sequence_encoder.modeling.cpu import gated
from sequence_encoder.modeling.cpu.dropout import Dropout
from sequence_encoder.modeling.cpu.eligibility import is_eager_on_cpu
from sequence_encoder.modeling.cpu.linear import fused_linear
from sequence_encoder.modeling.feed_forward import GatedMLP
from sequence_encoder.modeling.heads.losses import cross_entropy, masked_lm_loss_of_states
from sequence_encoder.modeling.packing import PackedBatch

TOLERANCES = [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)]
Build = Callable[..., Any]


def gradients(outputs: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    weight = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1)).to(outputs.dtype)
    return list(torch.autograd.grad((outputs * weight).sum(), inputs))


def assert_close(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        largest = float(other.abs().max()) if other.numel() else 0.0
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * max(1.0, largest))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.73])
def test_dropout_drops_its_share_and_scales_the_rest(dtype: torch.dtype, p: float) -> None:
    x = torch.full((301, 211), 3.0, dtype=dtype, requires_grad=True)
    kept = Dropout(p)(x)
    assert abs(float((kept == 0).double().mean()) - p) < 0.01
    torch.testing.assert_close(kept[kept != 0].mean(), torch.tensor(3 / (1 - p), dtype=dtype), rtol=1e-2, atol=0)
    (gradient,) = torch.autograd.grad(kept.sum(), x)
    torch.testing.assert_close(gradient * 3, kept, rtol=1e-2, atol=0)
    # Neither rows nor columns share a dropout pattern.
    assert len({tuple(row) for row in (kept == 0).tolist()}) == 301
    assert len({tuple(row) for row in (kept == 0).T.tolist()}) == 211


@pytest.mark.parametrize("recompute", ["reentrant", "non-reentrant"])
def test_gradient_checkpointing_repeats_the_same_dropout(tiny_config: Build, ragged: Build, recompute: str) -> None:
    rates = {f"{name}_dropout": 0.2 for name in ("hidden", "attention", "mlp", "embedding")}
    ids, mask = ragged([9, 4, 6])
    found = []
    for checkpointed in (False, True):
        torch.manual_seed(3)
        model = SequenceEncoderModel(tiny_config("bert", **rates)).train()
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": recompute == "reentrant"})
        torch.manual_seed(4)
        hidden = model(ids, mask).last_hidden_state
        hidden.square().sum().backward()
        found.append([hidden.detach(), *(parameter.grad for parameter in model.layers.parameters())])
    assert_close(found[1], found[0], 1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_have_the_gradients_of_torch(dtype: torch.dtype, tolerance: float, bias: bool) -> None:
    linear = nn.Linear(24, 40, bias=bias).to(dtype)
    for shape in ((24,), (7, 24), (2, 7, 24), (0, 24)):
        x = torch.randn(shape, dtype=dtype, requires_grad=True)
        inputs = [x, *linear.parameters()]
        assert_close(gradients(fused_linear(linear, x), inputs), gradients(linear(x), inputs), tolerance)
    for frozen in combinations(inputs, 1):
        rest = [tensor for tensor in inputs if tensor is not frozen[0]]
        frozen[0].requires_grad_(False)
        assert_close(gradients(fused_linear(linear, x), rest), gradients(linear(x), rest), tolerance)
        frozen[0].requires_grad_()


@pytest.mark.parametrize("preset", ["bert", "modernbert"])
def test_batched_gradients_equal_single_ones(tiny_config: Build, ragged: Build, preset: str) -> None:
    config = tiny_config(preset, hidden_dropout=0.2, mlp_dropout=0.2)
    config._attn_implementation = "eager"
    model = SequenceEncoderModel(config).train()
    hidden = model(*ragged([5, 3])).last_hidden_state
    weight = model.layers[0].mlp.down_proj.weight
    directions = torch.randn(3, *hidden.shape)
    (at_once,) = torch.autograd.grad(hidden, weight, directions, is_grads_batched=True, retain_graph=True)
    one_by_one = [torch.autograd.grad(hidden, weight, one, retain_graph=True)[0] for one in directions]
    torch.testing.assert_close(at_once, torch.stack(one_by_one), rtol=1e-4, atol=1e-4)


def make_gated(dtype: torch.dtype, tiny_config: Build, **overrides: Any) -> tuple[GatedMLP, torch.Tensor]:
    mlp = GatedMLP(tiny_config("modernbert", mlp_bias=True, **overrides)).to(dtype)
    return mlp, torch.randn(1, 608, 24, dtype=dtype, requires_grad=True)


def plain_gated(mlp: GatedMLP, x: torch.Tensor) -> torch.Tensor:
    gate, up = mlp.gate_up_proj(x).chunk(2, dim=-1)
    return mlp.down_proj(mlp.act(gate) * up)


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("act", ["gelu", "silu", "relu", "gelu_new"])
def test_gated_layers_have_the_gradients_of_torch(
    monkeypatch: pytest.MonkeyPatch, tiny_config: Build, dtype: torch.dtype, tolerance: float, act: str
) -> None:
    monkeypatch.setattr(gated, "_GATED_AT_ONCE", 256)
    mlp, x = make_gated(dtype, tiny_config, hidden_act=act)
    inputs = [x, *mlp.parameters()]
    torch.testing.assert_close(mlp(x), plain_gated(mlp, x), rtol=tolerance, atol=tolerance)
    assert_close(gradients(mlp(x), inputs), gradients(plain_gated(mlp, x), inputs), tolerance)
    torch.testing.assert_close(mlp(x[0, 0]), plain_gated(mlp, x[0, 0]), rtol=tolerance, atol=tolerance)
    mlp.down_proj.requires_grad_(False)
    assert_close(gradients(mlp(x), [x]), gradients(plain_gated(mlp, x), [x]), tolerance)


def test_gated_layers_save_only_gate_and_up_for_backward(tiny_config: Build) -> None:
    mlp, x = make_gated(torch.float32, tiny_config)

    def kept(run: Callable[[], torch.Tensor]) -> int:
        sizes: dict[int, int] = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.update({tensor.data_ptr(): tensor.untyped_storage().nbytes()}) or tensor, lambda t: t
        ):
            result = run()
        assert result.requires_grad
        own = {parameter.data_ptr() for parameter in mlp.parameters()} | {x.data_ptr()}
        return sum(size for pointer, size in sizes.items() if pointer not in own)

    gate_and_up = 608 * 2 * 40 * 4
    assert kept(lambda: mlp(x)) == gate_and_up
    assert kept(lambda: plain_gated(mlp, x)) >= 2 * gate_and_up


def test_hooks_and_subclasses_in_a_gated_layer_are_called(tiny_config: Build) -> None:
    mlp, x = make_gated(torch.float32, tiny_config)
    expected = mlp(x)
    seen: list[torch.Tensor] = []
    handles = [
        module.register_forward_hook(lambda module, args, output: seen.append(output))
        for module in (mlp.act, mlp.dropout, mlp.down_proj)
    ]
    torch.testing.assert_close(mlp(x), expected)
    assert len(seen) == 3
    for handle in handles:
        handle.remove()

    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    mlp.down_proj.__class__ = Doubled
    torch.testing.assert_close(mlp(x), 2 * expected)


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("chunk", [60, 1 << 19])
def test_chunked_cross_entropy_equals_that_of_torch(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tolerance: float, chunk: int
) -> None:
    monkeypatch.setattr(chunked_cross_entropy, "_CHUNK", chunk)
    logits = (3 * torch.randn(17, 29)).to(dtype).requires_grad_()
    labels = torch.randint(0, 29, (17,))
    labels[[2, 16]] = -100
    found = chunked_cross_entropy.chunked_cross_entropy(logits, labels, -100)
    expected = F.cross_entropy(logits.float(), labels, reduction="sum")
    torch.testing.assert_close(found, expected)
    assert_close(gradients(found, [logits]), gradients(expected, [logits]), tolerance)
    nothing = chunked_cross_entropy.chunked_cross_entropy(logits, torch.full_like(labels, -100), -100)
    assert float(nothing) == 0
    assert not torch.autograd.grad(nothing, logits)[0].any()


def test_weighted_cross_entropy_has_gradients_of_all_kinds() -> None:
    logits = torch.randn(17, 29, dtype=torch.float64, requires_grad=True)
    labels, weights = torch.randint(0, 29, (17,)), torch.rand(17, dtype=torch.float64)
    labels[3], weights[5] = -100, 0
    found = 0.5 * chunked_cross_entropy.chunked_cross_entropy(logits, labels, -100, weights)
    expected = 0.5 * (F.cross_entropy(logits, labels, reduction="none") * weights).sum()
    torch.testing.assert_close(found, expected)
    of_logits = torch.autograd.grad(expected, logits, create_graph=True)[0]
    for _ in range(2):
        torch.testing.assert_close(torch.autograd.grad(found, logits, retain_graph=True)[0], of_logits)
    again = torch.autograd.grad(found, logits, create_graph=True)[0]
    seconds = (torch.autograd.grad(first.square().sum(), logits)[0] for first in (again, of_logits))
    torch.testing.assert_close(*seconds)


def test_a_label_whose_probability_is_zero_in_float32_has_a_finite_loss() -> None:
    logits = torch.tensor([[150.0, 0.0, 1.0], [0.0, 95.0, 2.0], [1.0, 2.0, 3.0]], requires_grad=True)
    labels = torch.tensor([1, 0, 0])
    found = chunked_cross_entropy.chunked_cross_entropy(logits, labels, -100)
    expected = F.cross_entropy(logits, labels, reduction="sum")
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (found, expected)))


def test_training_without_logits_has_the_same_gradients_of_all_kinds(tiny_config: Build, ragged: Build) -> None:
    model = SequenceEncoderForMaskedLM(tiny_config("modernbert")).train().double()
    model.config._attn_implementation = "eager"
    ids, mask = ragged([7, 5, 3])
    labels = ids.masked_fill((mask == 0) | (ids % 3 == 0), -100)
    weights, parameters, found = torch.rand(labels.shape), list(model.parameters()), []
    for returned in (True, False):
        model.returns_training_logits = returned
        outputs = model(ids, mask, labels=labels, label_weights=weights)
        assert (outputs.logits is not None) == returned
        loss = 0.5 * outputs.loss
        first, second = (torch.autograd.grad(loss, parameters, retain_graph=True) for _ in range(2))
        again = torch.autograd.grad(loss, parameters, create_graph=True)
        of_again = torch.autograd.grad(sum(each.square().sum() for each in again), parameters)
        found.append([loss, *first, *second, *again, *of_again])
    assert_close(found[1], found[0], 1e-9)
    assert model.eval()(ids, mask, labels=labels).logits.shape == (*ids.shape, model.config.vocab_size)


def test_training_without_logits_calls_what_users_replaced(tiny_config: Build, ragged: Build) -> None:
    model = SequenceEncoderForMaskedLM(tiny_config("modernbert")).train()
    model.returns_training_logits = False
    ids, mask = ragged([7, 5])
    seen: list[torch.Tensor] = []
    with model.decoder.register_forward_hook(lambda module, args, output: seen.append(output)):
        expected = model(ids, mask, labels=ids).loss
    assert len(seen) == 1
    torch.testing.assert_close(model(ids, mask, labels=ids).loss, expected)
    model.loss_function = lambda logits, labels, **kwargs: logits.sum()
    outputs = model(ids, mask, labels=ids)
    torch.testing.assert_close(outputs.loss, outputs.logits.sum())


def test_a_scaled_loss_keeps_small_gradients_in_float16() -> None:
    logits, labels = (3 * torch.randn(3000, 300)).half().requires_grad_(), torch.randint(0, 300, (3000,))
    loss = cross_entropy(logits, labels)
    assert (torch.autograd.grad(65536 * loss, logits)[0] == 0).float().mean() < 0.01
    decoder = nn.Linear(300, 300, bias=False).half()
    nn.init.eye_(decoder.weight)
    loss = masked_lm_loss_of_states(decoder, logits, labels)
    assert (torch.autograd.grad(65536 * loss, logits)[0] == 0).float().mean() < 0.01


@pytest.mark.parametrize("of_bias", [lambda size: torch.randn(size, 3)[:, 0], lambda size: torch.randn(1).expand(size)])
def test_biases_with_strides_give_the_outputs_and_gradients_of_torch(
    tiny_config: Build, of_bias: Callable[[int], torch.Tensor]
) -> None:
    mlp, x = make_gated(torch.float32, tiny_config)
    decoder, labels = nn.Linear(24, 97), torch.randint(0, 97, (608,))
    for linear in (mlp.gate_up_proj, mlp.down_proj, decoder):
        linear.bias.data = of_bias(len(linear.bias))
    inputs = [x, *mlp.parameters(), *decoder.parameters()]
    found = masked_lm_loss_of_states(decoder, mlp(x)[0], labels)
    expected = F.cross_entropy(decoder(plain_gated(mlp, x)[0]), labels)
    torch.testing.assert_close(found, expected)
    assert_close(gradients(found, inputs), gradients(expected, inputs), 1e-5)


@pytest.mark.parametrize("cost", [0, 200, 10**9], ids=["alone", "some", "together"])
@pytest.mark.parametrize("window", [None, 2])
def test_attention_dropout_has_correct_gradients_and_mean(
    monkeypatch: pytest.MonkeyPatch, cost: int, window: int | None
) -> None:
    monkeypatch.setattr(attention_groups, "GROUP_COST", cost)
    lengths = [3, 7, 1, 3, 6]
    mask = torch.arange(7)[None, :] < torch.tensor(lengths)[:, None]
    attend = GroupedAttention(PackedBatch.from_padded((5, 7), torch.device("cpu"), mask))

    def attention(*qkv: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(7)
        return attend(nn.Module(), sdpa_attention_forward, qkv, window, dropout=0.4, scaling=0.5)

    inputs = [x.requires_grad_() for x in torch.randn(3, 1, 20, 2, 4, dtype=torch.float64).unbind()]
    assert torch.autograd.gradcheck(attention, inputs, fast_mode=True)
    torch.manual_seed(7)
    torch.testing.assert_close(attention(*inputs), attention(*inputs))
    # On average, dropout does not change the output.
    exact = attend(nn.Module(), sdpa_attention_forward, tuple(inputs), window, dropout=0.0, scaling=0.5)
    with torch.no_grad():
        draws = [
            attend(nn.Module(), sdpa_attention_forward, tuple(inputs), window, dropout=0.4, scaling=0.5)
            for _ in range(300)
        ]
    torch.testing.assert_close(torch.stack(draws).mean(0), exact, rtol=0, atol=0.2)


@pytest.mark.parametrize("queries", [1, 2])
@pytest.mark.parametrize("window", [None, 2])
def test_groups_rotate_queries_and_keys_like_other_attention(
    monkeypatch: pytest.MonkeyPatch, queries: int, window: int | None
) -> None:
    monkeypatch.setattr(attention_groups, "GROUP_COST", 200)
    mask = torch.arange(7)[None, :] < torch.tensor([3, 7, 1, 3, 6])[:, None]
    packed = PackedBatch.from_padded((5, 7), torch.device("cpu"), mask)
    heads = torch.randn(1, 20, 2, queries + 2, 4, dtype=torch.float64, requires_grad=True)
    cos, sin = torch.randn(2, 1, 20, 2, dtype=torch.float64)
    rotation = (torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1))
    weights = torch.randn(1, 20, 2 * queries, 4, dtype=torch.float64)
    module = nn.Module()
    module.is_causal = False

    def run(attend: BandedAttention, function: Any) -> tuple[torch.Tensor, torch.Tensor]:
        output = attend.from_heads(module, function, heads, rotation, window, dropout=0.0, scaling=0.5)
        return output, torch.autograd.grad((output * weights).sum(), heads)[0]

    # All sequences are in groups, which do not call the function.
    found = run(GroupedAttention(packed), None)
    torch.testing.assert_close(found, run(BandedAttention(packed), sdpa_attention_forward))


def test_padding_in_a_group_keeps_gradients_finite() -> None:
    mask = torch.arange(24)[None, :] < torch.tensor([10, 24])[:, None]
    attend = GroupedAttention(PackedBatch.from_padded((2, 24), torch.device("cpu"), mask))
    qkv = [torch.full((1, 34, 2, 4), value, dtype=torch.float16, requires_grad=True) for value in (9.0, -9.0, 1.0)]
    attend(nn.Module(), sdpa_attention_forward, tuple(qkv), 3, dropout=0.1, scaling=0.5).sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in qkv)


def test_groups_have_the_minimum_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_groups, "GROUP_COST", 500)
    runs = [(2, 3), (1, 5), (4, 6), (1, 11), (3, 12), (1, 20)]

    def cost(groups: list[list[tuple[int, int]]]) -> int:
        return sum(500 + 2 * sum(count for count, _ in group) * group[-1][1] ** 2 for group in groups)

    found = group_runs(runs, heads=2, dtype=torch.float32)
    assert [run for group in found for run in group] == runs
    cuts = [cut for size in range(len(runs)) for cut in combinations(range(1, len(runs)), size)]
    assert cost(found) == min(
        cost([runs[a:b] for a, b in zip((0, *cut), (*cut, len(runs)), strict=True)]) for cut in cuts
    )
    assert 1 < len(found) < len(runs)


def test_long_texts_and_other_masks_use_the_attention_function(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = torch.arange(7)[None, :] < torch.tensor([3, 7, 4, 5])[:, None]
    packed = PackedBatch.from_padded((4, 7), torch.device("cpu"), mask)
    qkv = torch.randn(3, 1, 19, 2, 4).unbind()
    seen: list[int] = []

    def function(module: nn.Module, q: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(q.shape[2])
        return sdpa_attention_forward(module, q, *args, **kwargs)

    def run(attend: type[BandedAttention], **kwargs: Any) -> torch.Tensor:
        module = nn.Module()
        module.is_causal = False
        return attend(packed)(module, function, qkv, None, dropout=0.0, scaling=0.5, **kwargs)

    expected = run(BandedAttention)
    assert seen == [3, 4, 5, 7]
    torch.testing.assert_close(run(GroupedAttention), expected)
    assert seen == [3, 4, 5, 7]
    monkeypatch.setattr(attention_in_groups, "LONGEST_TRAINED", 4)
    torch.testing.assert_close(run(GroupedAttention), expected)
    assert seen == [3, 4, 5, 7, 5, 7]
    monkeypatch.setattr(attention_in_groups, "LONGEST_TRAINED", 7)
    torch.testing.assert_close(run(GroupedAttention, is_causal=True), run(BandedAttention, is_causal=True))


@pytest.mark.parametrize("preset", ["vanilla", "bert", "modernbert"])
@pytest.mark.parametrize("halved", [False, True])
def test_a_training_step_equals_that_of_the_plain_layers(
    monkeypatch: pytest.MonkeyPatch, tiny_config: Build, ragged: Build, preset: str, halved: bool
) -> None:
    model = SequenceEncoderForMaskedLM(tiny_config(preset)).train()
    ids, mask = ragged([9, 4, 6, 9] * 10)
    labels = ids.masked_fill(torch.rand(ids.shape) < 0.6, -100).masked_fill(mask == 0, -100)

    def step() -> list[torch.Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=halved):
            loss = model(ids, mask, labels=labels).loss
        loss.backward()
        return [loss.detach(), *(parameter.grad for parameter in model.parameters())]

    found = step()
    for module in ("dropout", "linear", "gated", "cross_entropy"):
        monkeypatch.setattr(f"sequence_encoder.modeling.cpu.{module}.is_eager_on_cpu", lambda *tensors: False)
    monkeypatch.setattr("sequence_encoder.modeling.cpu.linear.can_fuse", lambda *layer: False)
    monkeypatch.setattr(attention_in_groups, "LONGEST_TRAINED", 0)
    assert_close(found, step(), 6e-2 if halved else 1e-5)


@pytest.mark.parametrize("preset", ["vanilla", "bert", "modernbert"])
def test_second_derivatives_equal_the_reference(tiny_config: Build, ragged: Build, preset: str) -> None:
    config = tiny_config(preset)
    config._attn_implementation = "eager"
    ids, mask = ragged([7] * 40)
    labels = ids.masked_fill(mask == 0, -100)
    found = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        model = SequenceEncoderForMaskedLM(config).train().to(dtype)
        # The padded path is the reference.
        loss = model(ids, mask, labels=labels, output_hidden_states=dtype == torch.float64).loss
        first = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        sum((gradient**2).sum() for gradient in first).backward()
        found.append([parameter.grad.float() for parameter in model.parameters() if parameter.grad is not None])
    assert_close(found[0], found[1], 1e-4)


def test_tracing_and_transforms_use_the_plain_layers() -> None:
    x = torch.randn(3)
    assert is_eager_on_cpu(x, nn.Parameter(x))
    assert not is_eager_on_cpu(x.to("meta"))
    seen = []
    torch.func.vmap(lambda row: seen.append(is_eager_on_cpu(row)) or row)(torch.randn(2, 3))
    torch.func.jvp(lambda row: seen.append(is_eager_on_cpu(row)) or row, (x,), (x,))
    with forward_ad.dual_level():
        seen.append(is_eager_on_cpu(x))
    torch.jit.trace(lambda row: seen.append(is_eager_on_cpu(row)) or row, (x,), check_trace=False)
    assert seen == [False, False, False, False]
