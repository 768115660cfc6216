"""Padding and other texts of a batch change nothing: packed, padded and single texts give the same outputs.

The model has two paths: a packed one, and a padded one, which `output_hidden_states=True` selects.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from transformers import DataCollatorWithFlattening

from sequence_encoder import PRESETS, SequenceEncoderModel
from sequence_encoder.tests.fixtures.comparisons import assert_same
from sequence_encoder.tests.fixtures.simulated_gpu import has_simulated_gpu, on_simulated_gpu, simulated_gpu

LENGTHS = [5, 11, 1, 5, 3]
HIDDEN = 24
PACKED: dict[str, Any] = {}
PADDED: dict[str, Any] = {"output_hidden_states": True}
every_preset = pytest.mark.parametrize("preset", sorted(PRESETS))
distinct_presets = pytest.mark.parametrize("preset", ["vanilla", "bert", "mpnet", "deberta-v3", "modernbert"])
both_paths = pytest.mark.parametrize("path", [PACKED, PADDED], ids=["packed", "padded"])
both_sides = pytest.mark.parametrize("side", ["right", "left"])
# Backends see packed tokens, so that one side of padding is enough for most.
backends_and_sides = pytest.mark.parametrize(
    ("backend", "side"),
    [
        *(("eager", "left"), ("sdpa", "right"), ("sdpa", "left")),
        *(("flex_attention", "right"), ("sdpa-on-gpu", "left")),
    ],
    indirect=["backend"],
)

MakeModel = Callable[..., SequenceEncoderModel]
MakeBatch = Callable[..., tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture(params=["eager", "sdpa", "flex_attention", "sdpa-on-gpu"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return an attention implementation. A CPU has no backward for flex attention, and compiles it for seconds."""
    if request.param == "sdpa-on-gpu":
        with simulated_gpu(torch.float32):
            yield "sdpa"
        return
    flex = request.param == "flex_attention"
    with torch.compiler.set_stance("force_eager" if flex else "default"), torch.set_grad_enabled(not flex):
        yield request.param


@pytest.fixture
def tiny_model(tiny_config: Callable[..., Any], randomize: Callable[..., Any]) -> MakeModel:
    def build(preset: str, backend: str = "sdpa", **overrides: Any) -> SequenceEncoderModel:
        config = tiny_config(preset, **overrides)
        if config.position_bias is not None and backend == "flex_attention":
            pytest.skip("flex attention does not support a position bias")
        model = randomize(SequenceEncoderModel(config))
        model.set_attn_implementation(backend)
        return on_simulated_gpu(model) if has_simulated_gpu() else model

    return build


def assert_same_gradients(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name in expected:
        assert_same(actual[name], expected[name])


def fixed_random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def gradients(model: torch.nn.Module, outputs: list[torch.Tensor], weights: list[torch.Tensor]) -> dict[str, Any]:
    """Return the gradients of the weighted sum of the outputs for all parameters, or {} if gradients are disabled."""
    if not torch.is_grad_enabled():
        return {}
    model.zero_grad()
    sum((output * weight).sum() for output, weight in zip(outputs, weights, strict=True)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def one_at_a_time(model: SequenceEncoderModel, texts: list[torch.Tensor]) -> list[Any]:
    return [model(text[None]) for text in texts]


@distinct_presets
@backends_and_sides
@both_paths
def test_padding_and_other_texts_do_not_change_real_tokens(
    tiny_model: MakeModel, ragged: MakeBatch, backend: str, preset: str, side: str, path: dict[str, Any]
) -> None:
    model = tiny_model(preset, backend)
    ids, mask = ragged(LENGTHS, side)
    expected = model(ids, attention_mask=mask)
    longer_ids, longer_mask = ragged(LENGTHS, side, to=17)
    for rows in ([0, 1, 2, 3, 4], [4, 2, 0]):
        found = model(longer_ids[rows], attention_mask=longer_mask[rows], **path)
        for row, output, pooled in zip(rows, found.last_hidden_state, found.pooler_output, strict=True):
            assert_same(output[longer_mask[row] == 1], expected.last_hidden_state[row][mask[row] == 1])
            assert_same(pooled, expected.pooler_output[row])


@every_preset
@backends_and_sides
def test_packed_and_padded_paths_equal_one_text_at_a_time(
    tiny_model: MakeModel, ragged: MakeBatch, backend: str, preset: str, side: str
) -> None:
    model = tiny_model(preset, backend)
    ids, mask = ragged(LENGTHS, side)
    real = mask == 1
    weight, pooled_weight = fixed_random(*ids.shape, HIDDEN), fixed_random(len(LENGTHS), HIDDEN)
    singles = one_at_a_time(model, [row[kept] for row, kept in zip(ids, real, strict=True)])
    texts = torch.cat([single.last_hidden_state[0] for single in singles])
    pooled = torch.cat([single.pooler_output for single in singles])
    expected_gradients = gradients(model, [texts, pooled], [weight[real], pooled_weight])
    assert len(expected_gradients) in (0, len(list(model.parameters())))

    for path in (PACKED, PADDED):
        found = model(ids, attention_mask=mask, **path)
        assert_same(found.last_hidden_state[real], texts)
        assert not found.last_hidden_state[~real].any()
        assert_same(found.pooler_output, pooled)
        # The weight of padding is not zero, so that its outputs would change the gradients.
        found_gradients = gradients(model, [found.last_hidden_state, found.pooler_output], [weight, pooled_weight])
        assert_same_gradients(found_gradients, expected_gradients)


# Documents are separated by restarting positions, cumulative lengths, document indices, or several of these.
FLATTENING: list[dict[str, Any]] = [
    {},
    {"return_flash_attn_kwargs": True, "return_position_ids": False},
    {"return_seq_idx": True, "return_position_ids": False},
]


@distinct_presets
def test_flattened_batches_equal_separate_documents(
    tiny_model: MakeModel, ragged: MakeBatch, backend: str, preset: str
) -> None:
    model = tiny_model(preset, backend)
    ids, mask = ragged(LENGTHS)
    documents = [row[kept == 1] for row, kept in zip(ids, mask, strict=True)]
    weight = fixed_random(1, sum(LENGTHS), HIDDEN)
    expected = torch.cat([single.last_hidden_state for single in one_at_a_time(model, documents)], dim=1)
    expected_gradients = gradients(model, [expected], [weight])

    for options in FLATTENING:
        batch = DataCollatorWithFlattening(**options)([{"input_ids": document} for document in documents])
        del batch["labels"]
        for path in (PACKED, PADDED):
            found = model(**batch, **path)
            assert_same(found.last_hidden_state, expected)
            assert found.pooler_output is None
            assert_same_gradients(gradients(model, [found.last_hidden_state], [weight]), expected_gradients)


@both_paths
@pytest.mark.parametrize("preset", ["bert", "modernbert"])
def test_documents_of_one_row_do_not_see_each_other(
    tiny_model: MakeModel, backend: str, preset: str, path: dict[str, Any]
) -> None:
    model = tiny_model(preset, backend)
    position_ids = torch.tensor([[*range(4), *range(3), *range(4)]])
    ids = torch.arange(1, 12)[None]
    changed = torch.where((torch.arange(11) >= 4) & (torch.arange(11) < 7), ids + 40, ids)
    before, after = (model(x, position_ids=position_ids, **path).last_hidden_state[0] for x in (ids, changed))
    assert_same(after[:4], before[:4])
    assert_same(after[7:], before[7:])
    assert not torch.allclose(after[4:7], before[4:7], atol=1e-2)


@both_paths
@backends_and_sides
@pytest.mark.parametrize("preset", ["bert", "modernbert"])
def test_padded_rows_may_hold_several_documents(
    tiny_model: MakeModel, backend: str, preset: str, side: str, path: dict[str, Any]
) -> None:
    """The rows have 4 + 3 and 5 tokens, and positions restart inside the first."""
    model = tiny_model(preset, backend)
    documents = [torch.tensor(ids) for ids in ([5, 6, 7, 8], [11, 12, 13], [21, 22, 23, 24, 25])]
    ids, mask, position_ids = torch.full((2, 9), 50), torch.zeros(2, 9), torch.zeros(2, 9, dtype=torch.long)
    places = [(0, 0, 0), (0, 4, 1), (1, 0, 2)] if side == "right" else [(0, 2, 0), (0, 6, 1), (1, 4, 2)]
    for row, start, document in places:
        place = slice(start, start + len(documents[document]))
        ids[row, place], mask[row, place] = documents[document], 1
        position_ids[row, place] = torch.arange(len(documents[document]))
    found = model(ids, attention_mask=mask, position_ids=position_ids, **path)
    expected = torch.cat([single.last_hidden_state[0] for single in one_at_a_time(model, documents)])
    assert_same(found.last_hidden_state[mask == 1], expected)
    assert found.pooler_output is None


@both_paths
@distinct_presets
def test_masks_with_holes_equal_their_4d_form(
    tiny_model: MakeModel, ragged: MakeBatch, backend: str, preset: str, path: dict[str, Any]
) -> None:
    """No token attends to a hole, and the tokens around it keep their distance."""
    ids, mask = ragged([11, 7], to=12)
    mask[0, [2, 5, 6]] = 0
    mask[1, 3] = 0
    model = tiny_model(preset, backend)
    model.set_attn_implementation("eager")
    expected = model(ids, attention_mask=(mask == 1)[:, None, None, :].expand(2, 1, 12, 12))
    model.set_attn_implementation(backend)
    found = model(ids, attention_mask=mask, **path)
    assert_same(found.last_hidden_state, expected.last_hidden_state)
    assert_same(found.pooler_output, expected.pooler_output)


@both_paths
@backends_and_sides
def test_token_type_ids_and_inputs_embeds_follow_their_tokens(
    tiny_model: MakeModel, ragged: MakeBatch, backend: str, side: str, path: dict[str, Any]
) -> None:
    model = tiny_model("bert", backend)
    ids, mask = ragged(LENGTHS, side)
    types = torch.randint(0, 2, ids.shape, generator=torch.Generator().manual_seed(0))
    embeds = nn.functional.embedding(ids, model.embed_tokens.weight.cpu())
    for inputs in ({"input_ids": ids}, {"inputs_embeds": embeds}):
        found = model(**inputs, attention_mask=mask, token_type_ids=types, **path).last_hidden_state
        for row, real in enumerate(mask == 1):
            expected = model(ids[row][real][None], token_type_ids=types[row][real][None]).last_hidden_state
            assert_same(found[row][real], expected[0])
    assert not torch.allclose(found, model(ids, attention_mask=mask, **path).last_hidden_state, atol=1e-2)


@both_paths
@distinct_presets
@pytest.mark.parametrize("lengths", [[4, 0, 6], [0, 0]], ids=["one-row", "all-rows"])
def test_rows_of_padding_give_zeros_and_finite_gradients(
    tiny_model: MakeModel, ragged: MakeBatch, backend: str, preset: str, path: dict[str, Any], lengths: list[int]
) -> None:
    model = tiny_model(preset, backend)
    ids, mask = ragged(lengths, to=7)
    found = model(ids, attention_mask=mask, **path)
    assert not found.last_hidden_state[mask == 0].any()
    assert found.pooler_output.isfinite().all()
    for row, length in enumerate(lengths):
        if length:
            assert_same(found.last_hidden_state[row, :length], model(ids[row, :length][None]).last_hidden_state[0])
    found_gradients = gradients(model, [found.last_hidden_state], [fixed_random(*ids.shape, HIDDEN)])
    assert all(gradient.isfinite().all() for gradient in found_gradients.values())


@both_paths
@distinct_presets
@pytest.mark.parametrize("autocast", [False, True], ids=["bf16", "autocast"])
def test_half_precision_stays_close(
    tiny_model: MakeModel, ragged: MakeBatch, preset: str, path: dict[str, Any], autocast: bool
) -> None:
    ids, mask = ragged(LENGTHS)
    model = tiny_model(preset).bfloat16().float()  # so that both sides have the same weights
    expected = model(ids, attention_mask=mask).last_hidden_state
    if not autocast:
        model = model.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = model(ids, attention_mask=mask, **path).last_hidden_state
    assert_same(found.float(), expected, tolerance=0.05)
    assert (found.float() - expected).abs().mean() < 0.01 * expected.abs().max()


@both_paths
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("preset", ["vanilla", "modernbert", "mpnet", "deberta-v3"])
def test_gradient_checkpointing_changes_no_gradient(
    tiny_model: MakeModel, ragged: MakeBatch, preset: str, path: dict[str, Any], reentrant: bool
) -> None:
    ids, mask = ragged(LENGTHS)
    model, weight = tiny_model(preset).train(), fixed_random(*ids.shape, HIDDEN)
    expected = gradients(model, [model(ids, attention_mask=mask, **path).last_hidden_state], [weight])
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert all(layer.gradient_checkpointing for layer in model.layers)
    found = gradients(model, [model(ids, attention_mask=mask, **path).last_hidden_state], [weight])
    assert_same_gradients(found, expected)


@distinct_presets
def test_hidden_states_equal_those_of_single_texts(
    tiny_model: MakeModel, ragged: MakeBatch, backend: str, preset: str
) -> None:
    model = tiny_model(preset, backend)
    ids, mask = ragged(LENGTHS, "left")
    states = model(ids, attention_mask=mask, **PADDED)
    assert len(states.hidden_states) == model.config.num_hidden_layers + 1
    assert_same(states.hidden_states[-1][mask == 1], states.last_hidden_state[mask == 1])
    for row, real in enumerate(mask == 1):
        alone = model(ids[row][real][None], **PADDED)
        for found, expected in zip(states.hidden_states, alone.hidden_states, strict=True):
            assert_same(found[row][real], expected[0])


@pytest.mark.since("transformers", "5.9", "records the output of the embeddings")
@pytest.mark.parametrize("preset", ["vanilla", "modernbert"])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_first_hidden_states_are_the_embeddings(
    tiny_config: Callable[..., Any], randomize: Callable[..., Any], preset: str, depth: int
) -> None:
    model = randomize(SequenceEncoderModel(tiny_config(preset, num_hidden_layers=depth)))
    ids = torch.arange(5, 12)[None]
    outputs = model(ids, output_hidden_states=True)
    embedded = model.embeddings(model.embed_tokens(ids), None, torch.arange(7)[None])
    assert len(outputs.hidden_states) == depth + 1
    assert_same(outputs.hidden_states[0], embedded if depth else outputs.last_hidden_state)
    assert_same(outputs.hidden_states[-1], outputs.last_hidden_state)
    last = model(ids, output_hidden_states=-1) if depth else outputs
    assert_same(last.hidden_states[-1], outputs.last_hidden_state)


@every_preset
@both_sides
@pytest.mark.parametrize("documents", [1, 2])
def test_attentions_do_not_depend_on_the_implementation(
    tiny_model: MakeModel, ragged: MakeBatch, preset: str, side: str, documents: int
) -> None:
    model = tiny_model(preset, "sdpa")
    ids, mask = ragged(LENGTHS, side)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if documents > 1:
        inputs = {"input_ids": ids[:1], "position_ids": torch.cat([torch.arange(4), torch.arange(7)])[None]}
    outputs = model(**inputs, output_attentions=True)
    assert_same(outputs.last_hidden_state, model(**inputs).last_hidden_state)
    model.set_attn_implementation("eager")
    for found, expected in zip(outputs.attentions, model(**inputs, output_attentions=True).attentions, strict=True):
        assert_same(found, expected)


@both_sides
def test_attentions_sum_to_one_over_visible_tokens(tiny_model: MakeModel, ragged: MakeBatch, side: str) -> None:
    model = tiny_model("modernbert", "eager")
    ids, mask = ragged(LENGTHS, side)
    real = mask == 1
    outputs = model(ids, attention_mask=mask, output_attentions=True)
    assert_same(outputs.last_hidden_state, model(ids, attention_mask=mask).last_hidden_state)
    index = torch.arange(ids.shape[1])
    near = (index[:, None] - index).abs() <= model.config.sliding_window
    for weights, layer_type in zip(outputs.attentions, model.config.layer_types, strict=True):
        assert weights.shape == (5, 3, 11, 11)
        visible = real[:, None, :] & (near if layer_type == "sliding_attention" else True)
        seen = weights.transpose(1, 2)[real] > 0  # (real queries, heads, keys)
        assert torch.equal(seen, visible.expand(5, 11, 11)[real][:, None, :].expand_as(seen))
        assert_same(weights.transpose(1, 2)[real].sum(-1), torch.ones(sum(LENGTHS), 3))


@distinct_presets
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["bool", "long", "additive"])
def test_4d_masks_equal_2d_masks(
    tiny_model: MakeModel, ragged: MakeBatch, backend: str, preset: str, kind: str
) -> None:
    model = tiny_model(preset, backend)
    ids, mask = ragged(LENGTHS, "left")
    square = (mask == 1)[:, None, None, :].expand(5, 1, 11, 11)
    if kind == "additive":
        square = torch.zeros(square.shape).masked_fill(~square, torch.finfo(torch.float32).min)
    elif kind == "long":
        square = square.long()
    found, expected = model(ids, attention_mask=square), model(ids, attention_mask=mask)
    assert_same(found.last_hidden_state, expected.last_hidden_state)
    assert_same(found.pooler_output, expected.pooler_output)


@distinct_presets
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("hidden", [float("-inf"), torch.finfo(torch.float32).min])
def test_tokens_that_see_nothing_do_not_change_others_under_an_additive_mask(
    tiny_model: MakeModel, ragged: MakeBatch, backend: str, preset: str, dtype: torch.dtype, hidden: float
) -> None:
    model = tiny_model(preset, backend).to(dtype)
    ids, mask = ragged(LENGTHS)
    real = mask == 1
    pairs = (real[:, :, None] & real[:, None, :])[:, None]
    added = torch.zeros(pairs.shape).masked_fill(~pairs, hidden)
    found, expected = model(ids, attention_mask=added), model(ids, attention_mask=mask)
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    assert_same(found.last_hidden_state[real], expected.last_hidden_state[real], tolerance)
    found_gradients = gradients(model, [found.last_hidden_state[real]], [torch.ones(())])
    assert all(gradient.isfinite().all() for gradient in found_gradients.values())


def test_exported_models_run_at_every_size(tiny_model: MakeModel, ragged: MakeBatch) -> None:
    model = tiny_model("deberta-v3", num_hidden_layers=2)
    sizes = {0: torch.export.Dim("batch", min=2, max=64), 1: torch.export.Dim("sequence", min=2, max=64)}
    ids, mask = ragged([7, 4, 3], "left")
    exported = torch.export.export(
        model,
        (),
        {"input_ids": ids, "attention_mask": mask},
        dynamic_shapes={"input_ids": sizes, "attention_mask": sizes},
        strict=False,
    ).module()
    for lengths in ([2, 1], [11, 5, 7, 1], [2, 2, 1], [37] * 8):
        for side in ("left", "right"):
            ids, mask = ragged(lengths, side)
            found, expected = (run(input_ids=ids, attention_mask=mask) for run in (exported, model))
            assert_same(found.last_hidden_state, expected.last_hidden_state)
            assert_same(found.pooler_output, expected.pooler_output)


@pytest.mark.since("torch", "2.7", "compiles the wrappers of transformers models")
def test_compiled_models_equal_uncompiled_ones(tiny_model: MakeModel, ragged: MakeBatch) -> None:
    ids, mask = ragged(LENGTHS, "left")
    model = tiny_model("modernbert", num_hidden_layers=2)
    torch.compiler.reset()  # Torch limits how often a process compiles the same code, as other tests do.
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    found, expected = (run(ids, attention_mask=mask) for run in (compiled, model))
    assert_same(found.last_hidden_state, expected.last_hidden_state)
    assert_same(found.pooler_output, expected.pooler_output)

    positions = torch.tensor([[*range(4), *range(7)]])
    found, expected = (run(ids[1:2], position_ids=positions) for run in (compiled, model))
    assert_same(found.last_hidden_state, expected.last_hidden_state)


@both_paths
@pytest.mark.parametrize("preset", ["vanilla", "modernbert"])
def test_texts_may_exceed_max_position_embeddings(
    tiny_model: MakeModel, ragged: MakeBatch, preset: str, path: dict[str, Any]
) -> None:
    ids, mask = ragged([101, 70])
    model, roomier = (tiny_model(preset, max_position_embeddings=most) for most in (64, 128))
    roomier.load_state_dict(model.state_dict())
    found, expected = (m(ids, attention_mask=mask, **path).last_hidden_state for m in (model, roomier))
    assert_same(found, expected)


def test_attention_plans_are_freed_with_their_batch(tiny_model: MakeModel, ragged: MakeBatch) -> None:
    """They are freed at once, without garbage collection, since masks of long texts are large."""
    model, plans = tiny_model("modernbert"), []
    model.layers[0].self_attn.register_forward_hook(
        lambda module, args, kwargs, output: plans.append(weakref.ref(kwargs["attend"])), with_kwargs=True
    )
    gc.disable()
    try:
        ids, mask = ragged(LENGTHS)
        with torch.no_grad():
            model(ids, attention_mask=mask)
        assert [plan() for plan in plans] == [None]
    finally:
        gc.enable()


@pytest.mark.since("transformers", "5.24", "selects hidden states by index")
@pytest.mark.parametrize("selected", [[0, -1], [2], [-2]])
def test_hidden_states_are_selected_by_index(tiny_model: MakeModel, ragged: MakeBatch, selected: list[int]) -> None:
    model = tiny_model("bert")
    ids, mask = ragged(LENGTHS)
    expected = model(ids, mask, output_hidden_states=True).hidden_states
    found = model(ids, mask, output_hidden_states=selected).hidden_states
    places = {index % len(expected) for index in selected}
    assert {index for index, states in enumerate(found) if states is not None} == places
    for index in places:
        assert_same(found[index], expected[index])
