"""On a CPU, batches of random lengths use few shapes of products, and the tokens that fill them change no result."""

from __future__ import annotations

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
from sequence_encoder.modeling.attention import grouped as attention_in_groups
from sequence_encoder.modeling.cpu.shapes import has_kernel, round_up_group, round_up_tokens
from sequence_encoder.modeling.packing import PackedBatch

Build = Callable[..., Any]
CPU = torch.device("cpu")
# 300 tokens, which float32 products round up too, and 29 tokens, which only those of smaller dtypes do.
MANY, FEW = [60, 50, 50, 40, 40, 30, 20, 7, 2, 1], [9, 8, 5, 4, 2, 1]


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
    """Return the shapes of all products in training steps with random texts."""
    with Products() as products:
        for _ in range(batches):
            lengths = torch.tensor([generator.randint(1, 40) for _ in range(generator.randint(4, 6))])
            mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
            labels = torch.where(torch.rand(mask.shape) < 0.3, 7, -100).masked_fill(mask == 0, -100)
            labels[0, 0] = 7
            with torch.autocast("cpu", torch.bfloat16):
                model(torch.full_like(mask, 7), attention_mask=mask, labels=labels).loss.backward()
    return products.shapes


@pytest.mark.parametrize("preset", ["bert", "modernbert", "mpnet", "deberta-v3"])
def test_products_of_random_texts_have_few_shapes(tiny_config: Build, preset: str) -> None:
    """For bfloat16, oneDNN compiles a kernel for each shape of a product, which takes longer than the product."""
    model = SequenceEncoderForMaskedLM(tiny_config(preset, attention_dropout=0.1)).train()
    generator = random.Random(0)
    seen = train_on_random_texts(model, generator, 30)
    new = train_on_random_texts(model, generator, 10) - seen
    assert len(new) < 0.15 * len(seen)


def test_numbers_of_rows_are_rounded_up_to_few() -> None:
    for dtype, least in ((torch.float32, 256), (torch.bfloat16, 1)):
        rounded = {n: round_up_tokens(n, dtype, CPU) for n in range(least, 4097)}
        assert all(n <= found < n + max(8, n / 16 + 1) and has_kernel(found, dtype) for n, found in rounded.items())
        assert len({found for found in rounded.values() if found >= 256}) <= 65
    # Small products in float32 use torch's own code.
    assert round_up_tokens(255, torch.float32, CPU) == 255
    assert not has_kernel(255, torch.float32)
    assert not has_kernel(257, torch.float32)
    assert round_up_tokens(257, torch.float32, torch.device("cuda")) == 257
    with torch.autocast("cpu", torch.bfloat16):
        assert round_up_tokens(25, torch.float32, CPU) == 32
    assert round_up_group(9, 33, torch.float32) == (9, 33)
    assert [round_up_group(n, 33, torch.bfloat16)[0] for n in range(1, 14)] == [1, 2, 3, 4, 6, 6, 8, 8, *[12] * 4, 16]
    assert {round_up_group(1, length, torch.bfloat16)[1] for length in range(1, 97)} == {32, 64, 96}


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
        # The positions of each sequence are those of a text.
        assert filled.position_ids[0].tolist() == [place for length in filled.lengths for place in range(length)]
        assert torch.equal(filled.unpack(row), values)
        for chosen in (real & (values % 3 == 0), real):
            places = filled.places_of(chosen, lambda count: count + 2)
            found = values if places is None else filled.unpack(row[:, places], places)
            assert torch.equal(found[chosen], values[chosen])
            assert torch.equal(found[found > 0], values[found > 0])
            assert places is None or len(places) == min(int(chosen.sum()) + 2, sum(lengths))


def test_a_batch_of_padding_is_not_filled() -> None:
    packed = PackedBatch.from_padded((2, 3), CPU, torch.zeros(2, 3, dtype=torch.bool))
    assert packed.filled(8) is packed


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize(("lengths", "dtype", "tolerance"), [(MANY, torch.float32, 1e-4), (FEW, torch.bfloat16, 6e-2)])
def test_filled_batches_have_the_outputs_of_padded_ones(
    tiny_config: Build,
    randomize: Build,
    ragged: Build,
    preset: str,
    lengths: list[int],
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    model = randomize(SequenceEncoderModel(tiny_config(preset, max_position_embeddings=64))).to(dtype).eval()
    ids, mask = ragged(lengths)
    assert round_up_tokens(sum(lengths), dtype, CPU) > sum(lengths)
    with torch.no_grad():
        packed, padded = model(ids, mask), model(ids, mask, output_hidden_states=True)
        torch.testing.assert_close(packed[0], padded[0], rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(packed.pooler_output, padded.pooler_output, rtol=tolerance, atol=tolerance)
        same = model(ids[:, :1].expand(len(lengths), max(lengths)))  # Without padding.
        assert same.last_hidden_state.shape == packed[0].shape
        needed = torch.rand(ids.shape) < 0.2
        some = model(ids, mask, needed=needed)
        chosen = needed & mask.bool()
        torch.testing.assert_close(some[0][chosen], packed[0][chosen], rtol=tolerance, atol=tolerance)
        assert not some[0][mask == 0].any()


@pytest.mark.parametrize("preset", ["bert", "modernbert", "mpnet", "deberta-v3", "eurobert"])
@pytest.mark.parametrize("cost", [0, 10**9], ids=["alone", "together"])
def test_filled_groups_have_the_gradients_of_padded_batches(
    monkeypatch: pytest.MonkeyPatch, tiny_config: Build, randomize: Build, ragged: Build, preset: str, cost: int
) -> None:
    """Rounding is for bfloat16; float64 compares exactly that the tokens that fill a batch or group have no effect."""
    monkeypatch.setattr(attention_in_groups, "GROUP_COST", cost)
    monkeypatch.setattr("sequence_encoder.modeling.cpu.shapes._compiles_all", lambda dtype: True)
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


@pytest.mark.parametrize("training", [False, True])
def test_a_broken_text_does_not_reach_others_through_the_tokens_that_fill_a_batch(
    tiny_config: Build, ragged: Build, training: bool
) -> None:
    model = SequenceEncoderForSequenceClassification(tiny_config("bert", num_labels=2)).bfloat16().train(training)
    ids, mask = ragged(FEW)
    vectors = model.get_input_embeddings()(ids).detach()
    vectors[0] = torch.nan
    logits = model(inputs_embeds=vectors, attention_mask=mask).logits
    assert logits[0].isnan().all()
    assert logits[1:].isfinite().all()
