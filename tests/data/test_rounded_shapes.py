"""On a CPU, batches of random lengths use few shapes of products, and the tokens that fill them change no result."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sequence_encoder import (
    SequenceEncoderForMaskedLM,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderModel,
)
from sequence_encoder.configuration.presets import PRESETS
from sequence_encoder.modeling.attention import groups as attention_groups
from sequence_encoder.modeling.cpu import shapes
from sequence_encoder.modeling.cpu.shapes import parts_of_batch, round_up_length, round_up_tokens, suits_onednn
from sequence_encoder.modeling.packing import PackedBatch

Build = Callable[..., Any]
CPU = torch.device("cpu")
# 323 tokens, a number that is rounded up.
LENGTHS = [60, 60, 50, 50, 40, 30, 20, 7, 3, 2, 1]
HAS_ONEDNN = pytest.mark.skipif(not shapes.needs_onednn(torch.bfloat16), reason="needs a CPU with bfloat16")


@pytest.fixture
def rounds_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Round up all shapes in every dtype: float64 compares exactly, and tiny batches are fast."""
    monkeypatch.setattr(shapes, "has_onednn", lambda dtype: True)
    monkeypatch.setattr(shapes, "needs_onednn", lambda dtype: True)
    monkeypatch.setattr(shapes, "_MIN_ROWS", 8)
    monkeypatch.setattr(shapes, "_MIN_ROWS_IN_HALF", 8)
    monkeypatch.setattr(shapes, "_round_up", lambda rows: -(-rows // 8) * 8)
    monkeypatch.setattr("sequence_encoder.modeling.cpu.linear.has_onednn", lambda dtype: False)


class Products(TorchDispatchMode):
    """Collects the shapes of all matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm", "baddbmm", "linear", "_linear_pointwise"):
            self.shapes.add((name, *(tuple(x.shape) for x in args if isinstance(x, torch.Tensor))))
        return func(*args, **(kwargs or {}))


def train_on_random_texts(model: Any, generator: random.Random, batches: int) -> set[Any]:
    """Return the shapes of all products in training steps with random texts, of which random tokens may be masked."""
    with Products() as products:
        for _ in range(batches):
            lengths = torch.tensor([generator.randint(30, 60) for _ in range(generator.randint(7, 9))])
            mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
            labels = torch.zeros(len(lengths), dtype=torch.long)
            if isinstance(model, SequenceEncoderForMaskedLM):
                share = 0.3 + 0.4 * generator.random()
                masked = torch.tensor([[generator.random() < share for _ in row] for row in mask])
                labels = torch.where(masked & mask.bool(), 7, -100)
            with torch.autocast("cpu", torch.bfloat16):
                model(torch.full_like(mask, 7), attention_mask=mask, labels=labels).loss.backward()
    return products.shapes


@HAS_ONEDNN
@pytest.mark.parametrize("preset", ["bert", "modernbert", "mpnet", "deberta-v3"])
def test_products_of_random_texts_have_few_shapes(tiny_config: Build, preset: str) -> None:
    """For bfloat16, oneDNN compiles a kernel for each shape of a product, which takes longer than the product."""
    config = tiny_config(preset, attention_dropout=0.1, max_position_embeddings=64, num_labels=2, num_hidden_layers=1)
    model = SequenceEncoderForSequenceClassification(config).train()
    generator = random.Random(0)
    seen = train_on_random_texts(model, generator, 12)
    new = train_on_random_texts(model, generator, 4) - seen
    assert len(new) < 4


@HAS_ONEDNN
@pytest.mark.parametrize("returns_logits", [True, False])
def test_products_of_random_masked_tokens_have_few_shapes(tiny_config: Build, returns_logits: bool) -> None:
    model = SequenceEncoderForMaskedLM(tiny_config("bert", num_hidden_layers=1)).train()
    model.returns_training_logits = returns_logits
    generator = random.Random(0)
    seen = train_on_random_texts(model, generator, 40)
    new = train_on_random_texts(model, generator, 8) - seen
    assert len(new) < 8


@pytest.mark.parametrize("preset", ["bert", "modernbert"])
@pytest.mark.parametrize("returns_logits", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_copies_of_a_predicted_token_change_no_result(
    rounds_everything: None,
    tiny_config: Build,
    randomize: Build,
    ragged: Build,
    preset: str,
    returns_logits: bool,
    weighted: bool,
) -> None:
    model = randomize(SequenceEncoderForMaskedLM(tiny_config(preset))).double().train()
    model.returns_training_logits = returns_logits
    ids, mask = ragged([9, 8, 8, 5, 4, 2, 1, 1, 1])
    chosen = mask.bool() & (mask.flatten().cumsum(0).view_as(mask) % 3 == 0)
    labels, count = torch.where(chosen, ids, -100), 13
    assert int(chosen.sum()) == count  # It is rounded up.
    weights = torch.rand(ids.shape, dtype=torch.float64) + 0.1
    outputs = model(ids, mask, labels=labels, label_weights=weights if weighted else None)
    logits = model(ids, mask).logits[chosen]
    factors = weights[chosen] if weighted else torch.ones(count)
    loss = (torch.nn.functional.cross_entropy(logits, labels[chosen], reduction="none") * factors).sum() / count
    torch.testing.assert_close(outputs.loss, loss, rtol=1e-6, atol=1e-8)
    if returns_logits:
        torch.testing.assert_close(outputs.logits, logits, rtol=1e-7, atol=1e-9)
    parameters = list(model.parameters())
    for one, other in zip(*(torch.autograd.grad(x, parameters) for x in (outputs.loss, loss)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_numbers_of_rows_are_rounded_up_to_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "_HAS_BFLOAT16", True)
    for dtype in (torch.float32, torch.bfloat16):
        least = 64 if dtype == torch.bfloat16 else 256
        rounded = {n: round_up_tokens(n, dtype, CPU) for n in range(least, 4097)}
        assert all(n <= found <= n * 17 / 16 and suits_onednn(found, dtype) for n, found in rounded.items())
        assert len(set(rounded.values())) == 1 + 16 * int(math.log2(4096 // least))
        # For small products, torch's own code is as fast in float32, and kernels for all numbers are few in bfloat16.
        assert round_up_tokens(least - 1, dtype, CPU) == least - 1
        assert round_up_tokens(257, dtype, torch.device("cuda")) == 257
    assert round_up_tokens(257, torch.float64, CPU) == 257
    with torch.autocast("cpu", torch.bfloat16):
        # Autocast leaves float64 alone.
        assert round_up_tokens(257, torch.float64, CPU) == 257
    assert [suits_onednn(rows, torch.float32) for rows in (255, 256, 257, 272)] == [False, True, False, True]
    assert suits_onednn(257, torch.bfloat16)
    monkeypatch.setattr(shapes, "_HAS_FLOAT32", False)
    assert round_up_tokens(257, torch.float32, CPU) == 257
    with torch.autocast("cpu", torch.bfloat16):
        assert round_up_tokens(257, torch.float32, CPU) == 272


def test_groups_of_attention_are_rounded_up_if_they_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "_HAS_BFLOAT16", True)
    assert round_up_length(33, 12, torch.bfloat16, CPU) == 48
    assert round_up_length(33, 12, torch.float32, CPU) == 33
    assert round_up_length(33, 12, torch.bfloat16, torch.device("cuda")) == 33
    assert round_up_length(257, 12 * 16, torch.bfloat16, CPU) == 257  # Compiling takes less time than padding.
    assert parts_of_batch(43, torch.bfloat16) == [32, 8, 2, 1]
    assert parts_of_batch(43, torch.float32) == [43]
    assert parts_of_batch(0, torch.bfloat16) == []


@pytest.mark.parametrize("lengths", [[1], [5], [1] * 9, [3, 1, 4, 1, 5], [6, 6, 6], [9, 2, 2]])
def test_filled_batches_unpack_to_the_same_tokens(lengths: list[int]) -> None:
    real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    values = torch.arange(1, real.numel() + 1).view(real.shape) * real
    packed = PackedBatch.from_padded(tuple(real.shape), CPU, real)
    for extra in range(20):
        filled = packed.filled(sum(lengths) + extra)
        row = filled.pack(values)
        assert row.shape[1] == filled.position_ids.shape[1] == sum(filled.lengths) == sum(lengths) + extra
        assert (row > 0).all()
        assert filled.lengths == sorted(filled.lengths)
        assert filled.max_length == packed.max_length
        assert filled.cu_seq_lens.diff().tolist() == filled.lengths
        assert not filled.has_gaps()
        # The positions of each sequence are those of the beginning of a text.
        assert filled.position_ids[0].tolist() == [place for length in filled.lengths for place in range(length)]
        assert torch.equal(filled.unpack(row), values)
        for chosen in (real & (values % 3 == 0), real):
            places = filled.places_of(chosen, lambda count: count + 2)
            found = values if places is None else filled.unpack(row[:, places], places)
            assert torch.equal(found[chosen], values[chosen])
            assert torch.equal(found[found > 0], values[found > 0])
            assert places is None or len(places) == min(int(chosen.sum()) + 2, sum(lengths))


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 8e-2)])
def test_filled_batches_have_the_outputs_of_padded_ones(
    tiny_config: Build, randomize: Build, ragged: Build, preset: str, dtype: torch.dtype, tolerance: float
) -> None:
    model = randomize(SequenceEncoderModel(tiny_config(preset, max_position_embeddings=64))).to(dtype).eval()
    ids, mask = ragged(LENGTHS)
    with torch.no_grad():
        packed, padded = model(ids, mask), model(ids, mask, output_hidden_states=True)
        torch.testing.assert_close(packed[0], padded[0], rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(packed.pooler_output, padded.pooler_output, rtol=tolerance, atol=tolerance)
        assert not packed[0][mask == 0].any()
        whole = [model(ids, output_hidden_states=padded)[0] for padded in (False, True)]
        torch.testing.assert_close(*whole, rtol=tolerance, atol=tolerance)
        needed = torch.rand(ids.shape) < 0.8
        some = model(ids, mask, needed=needed)
        chosen = needed & mask.bool()
        torch.testing.assert_close(some[0][chosen], packed[0][chosen], rtol=tolerance, atol=tolerance)
        assert not some[0][mask == 0].any()


@pytest.mark.parametrize("preset", ["bert", "modernbert", "mpnet", "deberta-v3", "eurobert"])
@pytest.mark.parametrize("cost", [-1, 10**9], ids=["alone", "together"])
def test_filled_groups_have_the_gradients_of_padded_batches(
    monkeypatch: pytest.MonkeyPatch,
    rounds_everything: None,
    tiny_config: Build,
    randomize: Build,
    ragged: Build,
    preset: str,
    cost: int,
) -> None:
    monkeypatch.setattr(attention_groups, "GROUP_COST", cost)
    model = randomize(SequenceEncoderForMaskedLM(tiny_config(preset))).double().train()
    ids, mask = ragged([9, 8, 8, 5, 4, 2, 1, 1, 1])
    labels = torch.where(mask.bool() & (ids % 3 == 0), ids, -100)
    found = []
    for padded in (False, True):
        model.zero_grad()
        outputs = model(ids, mask, labels=labels, output_hidden_states=padded)
        outputs.loss.backward()
        assert outputs.logits.shape[0] == int((labels != -100).sum())
        found.append((outputs.loss, outputs.logits, *(p.grad for p in model.parameters() if p.grad is not None)))
    assert len(found[0]) == len(found[1]) > 10
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)

    encoder, vectors = model.base_model, model.get_input_embeddings()(ids).detach().requires_grad_()
    sums = [
        encoder(inputs_embeds=vectors, attention_mask=mask, output_hidden_states=padded)[0].square().sum()
        for padded in (False, True)
    ]
    one, other = (torch.autograd.grad(total, vectors)[0] for total in sums)
    torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("preset", ["bert", "modernbert"])
@pytest.mark.parametrize("training", [False, True])
def test_a_broken_text_does_not_reach_others_through_the_tokens_that_fill_a_batch(
    rounds_everything: None, tiny_config: Build, ragged: Build, preset: str, training: bool
) -> None:
    config = tiny_config(preset, num_labels=2, layer_types=["full_attention"], num_hidden_layers=1)
    model = SequenceEncoderForSequenceClassification(config).train(training)
    ids, mask = ragged([9, 8, 5, 4, 2, 1])
    vectors = model.get_input_embeddings()(ids).detach()
    vectors[0] = torch.nan
    logits = model(inputs_embeds=vectors, attention_mask=mask).logits
    assert logits[0].isnan().all()
    assert logits[1:].isfinite().all()
