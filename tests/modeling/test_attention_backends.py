"""Padding-free attention, part by part: its backends, the choice among them, and the packing itself.

A plain loop with the interface of the flash attention kernels replaces them, so that the tests run on any device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface, DataCollatorWithFlattening
from transformers.masking_utils import flash_attention_mask

from sequence_encoder import PRESETS, SequenceEncoderConfig, SequenceEncoderModel
from sequence_encoder.modeling.attention.banded import BandedAttention
from sequence_encoder.modeling.attention.dispatch import (
    BlockMaskAttention,
    FlashAttention,
    PaddedRowsAttention,
    VarlenKernelAttention,
    choose_varlen_attention,
)
from sequence_encoder.modeling.attention.grouped import GroupedAttention
from sequence_encoder.modeling.attention.packed import PackedAttention
from sequence_encoder.modeling.attention.per_length import EqualLengthAttention
from sequence_encoder.modeling.attention.self_attention import SelfAttention, eager_attention_forward
from sequence_encoder.modeling.packing import PackedBatch, offsets_from_starts, sequence_starts
from sequence_encoder.tests.fixtures.comparisons import assert_same
from sequence_encoder.tests.fixtures.simulated_gpu import device, simulated_gpu

CPU = torch.device("cpu")
LENGTHS = [3, 7, 1, 3, 11]


def reference_flash(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each sequence; q, k, v are (B, H, S, head_dim). The window includes the token itself.

    As in transformers, cumulative lengths, positions that restart at 0, or a 2-D mask separate the sequences.
    """
    batch, _, seq, _ = query.shape
    if cu_seq_lens_q is not None:
        assert batch == 1
        assert attention_mask is None
        assert kwargs["max_length_q"] == kwargs["max_length_k"] == int(cu_seq_lens_q.diff().max())
        assert torch.equal(cu_seq_lens_q, kwargs["cu_seq_lens_k"])
        sequences = [(0, torch.arange(first, end)) for first, end in pairwise(cu_seq_lens_q.tolist())]
    elif position_ids is not None and batch == 1:
        firsts = (position_ids[0] == 0).nonzero().flatten().tolist()
        sequences = [(0, torch.arange(first, end)) for first, end in pairwise([*firsts, seq])]
    else:
        real = torch.ones(batch, seq) if attention_mask is None else attention_mask
        sequences = [(row, real[row].nonzero().flatten()) for row in range(batch)]
    output = torch.zeros_like(query.transpose(1, 2))
    for row, tokens in sequences:
        q, k, v = (x[row].repeat_interleave(query.shape[1] // x.shape[1], 0)[:, tokens] for x in (query, key, value))
        scores = q @ k.transpose(1, 2) * scaling
        if sliding_window is not None:
            index = torch.arange(len(tokens))
            scores = scores.masked_fill((index[:, None] - index).abs() > sliding_window - 1, float("-inf"))
        output[row, tokens] = (scores.softmax(-1) @ v).transpose(0, 1)
    return output, None


AttentionInterface.register("reference_flash", reference_flash)
AttentionMaskInterface.register("reference_flash", flash_attention_mask)

BACKENDS = {
    "by_length-eager": (BandedAttention, "eager"),
    "by_length-sdpa": (BandedAttention, "sdpa"),
    "in_groups-sdpa": (GroupedAttention, "sdpa"),
    "in_rows-eager": (PaddedRowsAttention, "eager"),
    "in_rows-sdpa": (PaddedRowsAttention, "sdpa"),
    "block_mask-flex": (BlockMaskAttention, "flex_attention"),
    "offsets-flash": (FlashAttention, "reference_flash"),
    "kernel-sdpa": (VarlenKernelAttention, "sdpa"),
}


@contextmanager
def running(implementation: str) -> Iterator[None]:
    """Run flex attention eagerly and without gradients: a CPU has no backward, and compilation takes seconds."""
    flex = implementation == "flex_attention"
    with torch.compiler.set_stance("force_eager" if flex else "default"), torch.set_grad_enabled(not flex):
        yield


def chosen(
    implementation: str | None, device: torch.device, dtype: torch.dtype, head_dim: int, dropout: float, training: bool
) -> type:
    config = SequenceEncoderConfig(hidden_size=2 * head_dim, num_attention_heads=2)
    config._attn_implementation = implementation
    return choose_varlen_attention(config, device, dtype, dropout, training)


def packed_batch(lengths: list[int]) -> PackedBatch:
    mask = torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]
    return PackedBatch.from_padded(tuple(mask.shape), CPU, mask)


@pytest.mark.parametrize(
    ("implementation", "kind", "backend"),
    [
        ("eager", "cpu", EqualLengthAttention),
        ("sdpa", "cpu", EqualLengthAttention),
        (None, "cpu", EqualLengthAttention),
        ("eager", "cuda", PaddedRowsAttention),
        ("sdpa", "cuda", PaddedRowsAttention),  # in float32
        ("a_function_of_the_user", "cuda", PaddedRowsAttention),
        ("flex_attention", "cpu", BlockMaskAttention),
        ("flex_attention", "cuda", BlockMaskAttention),
        ("flash_attention_2", "cuda", FlashAttention),
        ("flash_attention_3", "cuda", FlashAttention),
        ("kernels-community/flash-attn3", "cuda", FlashAttention),
        ("kernels-community/flash-attn2", "cpu", FlashAttention),
    ],
)
def test_the_backend_suits_the_implementation_and_device(implementation: str | None, kind: str, backend: type) -> None:
    assert chosen(implementation, torch.device(kind), torch.float32, 8, 0.0, training=True) is backend


@pytest.mark.parametrize(("dtype", "dropout"), [(torch.float32, 0.0), (torch.bfloat16, 0.1)])
def test_the_varlen_kernel_needs_half_precision_without_dropout(dtype: torch.dtype, dropout: float) -> None:
    assert chosen("sdpa", torch.device("cuda"), dtype, 8, dropout, training=True) is PaddedRowsAttention


@pytest.mark.parametrize(
    ("implementation", "dtype", "dropout", "training", "backend"),
    [
        ("sdpa", torch.float32, 0.1, True, GroupedAttention),
        ("sdpa", torch.bfloat16, 0.0, True, GroupedAttention),
        ("sdpa", torch.bfloat16, 0.0, False, EqualLengthAttention),
        ("sdpa", torch.float32, 0.0, False, EqualLengthAttention),
        ("eager", torch.float32, 0.1, True, EqualLengthAttention),
        ("a_function_of_the_user", torch.bfloat16, 0.1, True, EqualLengthAttention),
    ],
)
def test_a_cpu_uses_groups_if_the_fused_kernel_is_slow(
    implementation: str, dtype: torch.dtype, dropout: float, training: bool, backend: type
) -> None:
    assert chosen(implementation, CPU, dtype, 8, dropout, training) is backend


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("heads", [(3, 3), (6, 2)], ids=["", "grouped"])
@pytest.mark.parametrize("window", [None, 3, 30])
@pytest.mark.parametrize(
    "lengths", [LENGTHS, [4, 4, 4], [5], [140, 5, 270, 200, 270]], ids=["ragged", "equal", "one", "long"]
)
def test_every_backend_attends_within_sequence_and_window(
    tiny_config: Callable[..., Any], backend: str, heads: tuple[int, int], window: int | None, lengths: list[int]
) -> None:
    kind, implementation = BACKENDS[backend]
    sliding = window is not None
    config = tiny_config("modernbert" if sliding else "vanilla", **({"sliding_window": window} if sliding else {}))
    config._attn_implementation = implementation
    module = SelfAttention(config, "sliding_attention" if sliding else "full_attention").eval()
    attention = AttentionInterface().get_interface(implementation, eager_attention_forward)
    packed = packed_batch(lengths)
    queries, keys = heads
    q, weight = torch.randn(2, 1, sum(lengths), queries, 8).unbind()
    k, v = torch.randn(2, 1, sum(lengths), keys, 8).unbind()

    expected = torch.zeros_like(q[0])
    with torch.enable_grad():
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        for first, end in pairwise(packed.cu_seq_lens.tolist()):
            one_q, one_k, one_v = (x[0, first:end].repeat_interleave(queries // x.shape[2], dim=1) for x in leaves)
            scores = torch.einsum("qhd,khd->hqk", one_q, one_k) * 0.7
            index = torch.arange(end - first)
            far = (index[:, None] - index).abs() > (window if sliding else end)
            expected[first:end] = torch.einsum("hqk,khd->qhd", scores.masked_fill(far, -1e30).softmax(-1), one_v)
        expected_gradients = torch.autograd.grad((expected * weight[0]).sum(), leaves)

    on_gpu = kind is VarlenKernelAttention
    with running(implementation), simulated_gpu(torch.float32) if on_gpu else nullcontext():
        where = device() if on_gpu else CPU
        weight = weight.to(where)
        leaves = [x.to(where).clone().requires_grad_(torch.is_grad_enabled()) for x in (q, k, v)]
        attend: PackedAttention = kind(packed.to(where))
        for _ in range(2):  # The second call uses what the first has cached.
            output = attend(module, attention, tuple(leaves), window, dropout=0.0, scaling=0.7)
            assert_same(output[0].detach().cpu(), expected.detach())
        if output.requires_grad:
            found_gradients = torch.autograd.grad((output * weight).sum(), leaves)
            for found, wanted in zip(found_gradients, expected_gradients, strict=True):
                assert_same(found.cpu(), wanted)


# Flash attention does not support a position bias.
@pytest.mark.parametrize("preset", sorted(name for name, preset in PRESETS.items() if "position_bias" not in preset))
@pytest.mark.parametrize("kwargs", [{}, {"output_hidden_states": True}], ids=["packed", "padded"])
@pytest.mark.parametrize("batch", ["right", "left", "positions", "offsets"])
def test_flash_attention_equals_sdpa(
    tiny_config: Callable[..., Any],
    randomize: Callable[..., Any],
    ragged: Callable[..., Any],
    preset: str,
    kwargs: dict[str, Any],
    batch: str,
) -> None:
    model = randomize(SequenceEncoderModel(tiny_config(preset)))
    if batch in ("positions", "offsets"):
        collate = DataCollatorWithFlattening(return_flash_attn_kwargs=batch == "offsets")
        inputs = collate([{"input_ids": list(range(length, 2 * length))} for length in LENGTHS])
        del inputs["labels"]
    else:
        inputs = dict(zip(("input_ids", "attention_mask"), ragged(LENGTHS, batch), strict=True))
    results = []
    for implementation in ("sdpa", "reference_flash"):
        # `set_attn_implementation` would look for a package or a Hub kernel of that name.
        model.config._attn_implementation = implementation
        model.zero_grad()
        output = model(**inputs, **kwargs).last_hidden_state
        (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        results.append([output.detach(), *gradients])
    for found, expected in zip(*results, strict=True):
        assert_same(found, expected)


@pytest.mark.parametrize("preset", ["bert", "modernbert"])
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["bool", "long", "additive"])
@pytest.mark.parametrize("heads", [1, 3])
def test_documents_of_one_row_do_not_see_each_other_under_a_4d_mask(
    tiny_config: Callable[..., Any], randomize: Callable[..., Any], backend: str, preset: str, kind: str, heads: int
) -> None:
    """The causal mask of the row equals the causal mask of each document."""
    model = randomize(SequenceEncoderModel(tiny_config(preset)))
    model.set_attn_implementation(backend)

    def earlier(length: int) -> torch.Tensor:
        square = torch.ones(length, length, dtype=torch.bool).tril().expand(1, heads, length, length)
        if kind == "additive":
            return torch.zeros(square.shape).masked_fill(~square, float("-inf"))
        return square.long() if kind == "long" else square

    documents = [torch.arange(1, 5), torch.arange(11, 14), torch.arange(21, 25)]
    position_ids = torch.cat([torch.arange(len(document)) for document in documents])[None]
    alone = [model(one[None], attention_mask=earlier(len(one))).last_hidden_state for one in documents]
    # The second row is one document, which the boundaries in the first row must not divide.
    ids = torch.stack([torch.cat(documents), torch.arange(31, 42)])
    positions = torch.cat([position_ids, torch.arange(11)[None]])
    found = model(ids, attention_mask=earlier(11), position_ids=positions)
    assert found.pooler_output is None
    assert_same(found.last_hidden_state[:1], torch.cat(alone, dim=1))
    assert_same(found.last_hidden_state[1:], model(ids[1:], attention_mask=earlier(11)).last_hidden_state)


def test_sequences_start_at_the_first_real_token() -> None:
    real = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, 0, 1, 0]]) == 1
    starts = sequence_starts((4, 5), CPU, real)
    assert starts.int().tolist() == [[0, 0, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0]]


def test_sequences_start_where_positions_stop_increasing() -> None:
    position_ids = torch.tensor([[0, 1, 2, 0, 1], [2, 3, 5, 2, 9], [7, 7, 7, 8, 0]])
    starts = sequence_starts((3, 5), CPU, None, position_ids)
    assert starts.int().tolist() == [[1, 0, 0, 1, 0], [1, 0, 0, 1, 0], [1, 1, 1, 0, 1]]


@pytest.mark.parametrize("offsets", [[0, 2, 5], [0, 2, 2, 5], [0, 0, 2, 5], [0, 2, 5, 5]])
def test_sequences_start_at_offsets_without_empty_ones(offsets: list[int]) -> None:
    starts = sequence_starts((1, 5), CPU, cu_seq_lens=torch.tensor(offsets, dtype=torch.int32))
    assert starts.int().tolist() == [[1, 0, 1, 0, 0]]


def test_offsets_count_from_the_start_of_each_sequence() -> None:
    starts = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 1, 0, 0]]) == 1
    found = offsets_from_starts(starts)
    assert found[0].tolist() == [0, 1, 2, 0, 1]
    assert found[1, 2:].tolist() == [0, 1, 2]


def test_packing_puts_short_sequences_first() -> None:
    real = torch.tensor([[1, 1, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0]]) == 1
    packed = PackedBatch.from_padded((3, 4), CPU, real)
    assert packed.lengths == [1, 2, 3]
    assert packed.max_length == 3
    assert packed.indices is not None
    assert packed.indices.tolist() == [5, 8, 10, 0, 1, 2]
    assert packed.position_ids.tolist() == [[0, 0, 2, 0, 1, 2]]
    assert packed.cu_seq_lens.dtype == torch.int32
    assert packed.cu_seq_lens.tolist() == [0, 1, 3, 6]
    assert packed.has_gaps()

    rows = packed.to_rows()
    assert rows.shape == (3, 3)
    assert rows.indices is not None
    assert rows.indices.tolist() == [0, 3, 4, 6, 7, 8]
    assert rows.unpack(torch.arange(1, 7)[None]).tolist() == [[1, 0, 0], [2, 3, 0], [4, 5, 6]]


def test_a_batch_without_padding_is_not_moved() -> None:
    for real in (None, torch.ones(3, 4, dtype=torch.bool)):
        packed = PackedBatch.from_padded((3, 4), CPU, real)
        assert packed.indices is None
        assert packed.runs() == [(3, 4)]
        assert packed.position_ids.tolist() == [[0, 1, 2, 3] * 3]
        assert packed.cu_seq_lens.tolist() == [0, 4, 8, 12]
        assert not packed.has_gaps()


def test_several_per_row_is_true_if_a_row_holds_several_sequences() -> None:
    rising, restarting = [0, 1, 2, 3], [0, 1, 0, 1]
    real = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]) == 1
    for mask in (None, real):
        for positions in ([rising, rising], [restarting, rising]):
            packed = PackedBatch.from_padded((2, 4), CPU, mask, torch.tensor(positions))
            assert packed.several_per_row == (positions[0] is restarting)
    assert not packed_batch(LENGTHS).several_per_row
    assert PackedBatch.from_padded((1, 4), CPU, cu_seq_lens=torch.tensor([0, 3, 4])).several_per_row
    assert not PackedBatch.from_padded((1, 4), CPU, cu_seq_lens=torch.tensor([0, 4, 4])).several_per_row


def test_adjacent_sequences_have_no_gaps() -> None:
    assert not packed_batch(LENGTHS).has_gaps()
    documents = PackedBatch.from_padded((1, 9), CPU, position_ids=torch.tensor([[0, 1, 2, 3, 0, 1, 0, 1, 2]]))
    assert documents.lengths == [2, 3, 4]
    assert not documents.has_gaps()


@pytest.mark.parametrize("seed", range(5))
def test_packing_and_unpacking_keep_every_token(seed: int) -> None:
    """Compare random masks and document boundaries with a count in plain Python."""
    generator = torch.Generator().manual_seed(seed)
    real = torch.rand(5, 11, generator=generator) < 0.6
    position_ids = torch.randint(0, 4, (5, 11), generator=generator)
    packed = PackedBatch.from_padded((5, 11), CPU, real, position_ids)

    sequences: list[list[int]] = []
    for row in range(5):
        previous = None
        for place in real[row].nonzero().flatten().tolist():
            position = int(position_ids[row, place])
            if previous is None or position <= previous:
                sequences.append([])
            sequences[-1].append(row * 11 + place)
            previous = position
    expected = sorted(sequences, key=len)
    assert packed.indices is not None
    assert packed.lengths == [len(sequence) for sequence in expected]
    assert packed.indices.tolist() == [place for sequence in expected for place in sequence]
    assert packed.position_ids[0].tolist() == position_ids.flatten()[packed.indices].tolist()

    values = torch.randn(5, 11, 3, 2, generator=generator)
    assert torch.equal(packed.unpack(packed.pack(values)), values * real[..., None, None])
    rows = packed.to_rows()
    assert torch.equal(rows.pack(rows.unpack(packed.pack(values))), packed.pack(values))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("heads", [(3, 3), (6, 2)], ids=["", "grouped"])
@pytest.mark.parametrize("window", [None, 1, 30])
def test_the_varlen_kernel_agrees_with_the_cpu(
    tiny_config: Callable[..., Any], heads: tuple[int, int], window: int | None
) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("torch's kernel needs Ampere or newer")
    cuda, lengths = torch.device("cuda"), [140, 5, 270, 200, 270]
    assert chosen("sdpa", cuda, torch.bfloat16, 16, 0.0, training=False) is VarlenKernelAttention
    config = tiny_config("modernbert")
    config._attn_implementation = "sdpa"
    module = SelfAttention(config, "full_attention").eval()
    attention = AttentionInterface().get_interface("sdpa", eager_attention_forward)
    q = torch.randn(1, sum(lengths), heads[0], 16).bfloat16()
    k, v = torch.randn(2, 1, sum(lengths), heads[1], 16).bfloat16().unbind()
    mask = torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]
    attend = BandedAttention(packed_batch(lengths))
    on_cpu = attend(module, attention, (q.float(), k.float(), v.float()), window, scaling=0.7)
    packed = PackedBatch.from_padded(tuple(mask.shape), cuda, mask.cuda())
    found = VarlenKernelAttention(packed)(module, attention, (q.cuda(), k.cuda(), v.cuda()), window, scaling=0.7)
    torch.testing.assert_close(found.float().cpu(), on_cpu, rtol=0, atol=0.03)
