"""Models on a GPU, which is simulated: the dtypes that reach the kernel, every head, and how often the host waits.

`test_padding_free.py` runs its tests there, too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sequence_encoder import (
    PRESETS,
    SequenceEncoderForMaskedLM,
    SequenceEncoderForMultipleChoice,
    SequenceEncoderForPreTraining,
    SequenceEncoderForQuestionAnswering,
    SequenceEncoderForRetrieval,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderForTokenClassification,
    SequenceEncoderModel,
)
from sequence_encoder.modeling.calibration.layer_vectors import LayerVectors
from sequence_encoder.tests.fixtures.comparisons import assert_same
from sequence_encoder.tests.fixtures.simulated_gpu import (
    HALF,
    device,
    on_simulated_gpu,
    simulated_gpu,
    to_simulated_gpu,
)

LENGTHS = [5, 11, 1, 5, 3]
WITHOUT_BIAS = sorted(name for name, preset in PRESETS.items() if "position_bias" not in preset)

MakeConfig = Callable[..., Any]
MakeBatch = Callable[..., tuple[torch.Tensor, torch.Tensor]]


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_the_kernel_gets_half_precision_only(
    tiny_config: MakeConfig, randomize: Callable[..., Any], ragged: MakeBatch, preset: str, dtype: torch.dtype
) -> None:
    model = randomize(SequenceEncoderModel(tiny_config(preset)))
    ids, mask = ragged(LENGTHS)
    with torch.no_grad():
        expected = model(ids, attention_mask=mask).last_hidden_state
        with simulated_gpu() as gpu:
            found = on_simulated_gpu(model.to(dtype))(ids, attention_mask=mask).last_hidden_state
    assert found.dtype == dtype
    assert_same(found.float(), expected, tolerance=1e-5 if dtype == torch.float32 else 0.1)
    uses_kernel = dtype in HALF and preset in WITHOUT_BIAS
    assert gpu.kernel_calls == [dtype] * (model.config.num_hidden_layers if uses_kernel else 0)


@pytest.mark.parametrize("preset", ["bert", "modernbert"])
def test_autocast_decides_which_attention_runs(
    tiny_config: MakeConfig, randomize: Callable[..., Any], ragged: MakeBatch, preset: str
) -> None:
    model = randomize(SequenceEncoderModel(tiny_config(preset)))
    ids, mask = ragged(LENGTHS)
    expected = model(ids, attention_mask=mask).last_hidden_state
    with simulated_gpu() as gpu, torch.autocast("simulated_gpu", torch.bfloat16):
        found = on_simulated_gpu(model)(ids, attention_mask=mask).last_hidden_state
        found.float().square().sum().backward()
    assert gpu.kernel_calls == [torch.bfloat16] * 3
    assert_same(found.float(), expected, tolerance=0.1)
    assert all(weight.grad.isfinite().all() for weight in model.layers.parameters())


def test_training_with_attention_dropout_does_not_use_the_kernel(tiny_config: MakeConfig, ragged: MakeBatch) -> None:
    """The kernel has no dropout."""
    model = SequenceEncoderModel(tiny_config("bert", attention_dropout=0.5)).bfloat16()
    ids, mask = ragged(LENGTHS)
    with simulated_gpu() as gpu:
        on_simulated_gpu(model).train()
        one, other = (model(ids, attention_mask=mask).last_hidden_state for _ in range(2))
        assert gpu.kernel_calls == []
        assert not torch.equal(one, other)
        model.eval()(ids, attention_mask=mask)
        assert len(gpu.kernel_calls) == 3


@pytest.mark.parametrize(("heads", "head_dim"), [(2, 12), (1, 200)])
def test_heads_that_the_kernel_does_not_take_need_none(
    tiny_config: MakeConfig, ragged: MakeBatch, heads: int, head_dim: int
) -> None:
    sizes = {"num_attention_heads": heads, "hidden_size": heads * head_dim}
    model = SequenceEncoderModel(tiny_config("bert", **sizes)).eval()
    ids, mask = ragged(LENGTHS)
    expected = model(ids, attention_mask=mask).last_hidden_state
    with simulated_gpu() as gpu:
        found = on_simulated_gpu(model.bfloat16())(ids, attention_mask=mask).last_hidden_state
    assert gpu.kernel_calls == []
    assert_same(found.float(), expected, tolerance=0.1)


TOKENS = torch.randint(0, 3, (5, 11), generator=torch.Generator().manual_seed(0))
LABELS = {
    "masked": torch.where(TOKENS == 0, 7, -100),
    "tokens": TOKENS,
    "texts": torch.tensor([0, 1, 2, 0, 1]),
    "order": torch.tensor([0, 1, 1, 0, 1]),
    "places": torch.tensor([0, 2, 0, 4, 1]),
}
# The labels of each head, and how often the host waits for the GPU in inference and in a training step: once each for
# the range of the token ids, for the mask, and for each tensor of labels.
HEADS: dict[type, tuple[dict[str, str], int, int]] = {
    SequenceEncoderModel: ({}, 2, 2),
    SequenceEncoderForRetrieval: ({}, 2, 2),
    SequenceEncoderForSequenceClassification: ({"labels": "texts"}, 2, 3),
    SequenceEncoderForTokenClassification: ({"labels": "tokens"}, 2, 3),
    SequenceEncoderForQuestionAnswering: ({"start_positions": "places", "end_positions": "places"}, 2, 4),
    SequenceEncoderForMaskedLM: ({"labels": "masked"}, 2, 3),
    SequenceEncoderForPreTraining: ({"labels": "masked", "sentence_order_label": "order"}, 2, 4),
}


def step(model: Any, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Return the outputs of a model and all gradients of the sum of their squares."""
    model.zero_grad()
    outputs = [output for output in model(**batch).values() if output is not None]
    # Question answering has the lowest number at padding.
    outputs = [each for output in outputs for each in (output if isinstance(output, tuple) else [output])]
    sum(output.float().clamp(-100, 100).square().sum() for output in outputs).backward()
    return [*outputs, *(weight.grad for weight in model.parameters() if weight.grad is not None)]


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
@pytest.mark.parametrize("preset", ["bert", "modernbert"])
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_heads_agree_with_the_cpu_and_the_host_seldom_waits(
    tiny_config: MakeConfig, randomize: Callable[..., Any], ragged: MakeBatch, head: type, preset: str, training: bool
) -> None:
    names, *waits = HEADS[head]
    model = randomize(head(tiny_config(preset, num_labels=3))).train(training)
    ids, mask = ragged(LENGTHS)
    labels = {name: LABELS[kind] for name, kind in names.items() if training}
    batch = {"input_ids": ids, "attention_mask": mask, **labels}
    expected = step(model, batch)
    with simulated_gpu(torch.float32) as gpu:
        to_simulated_gpu(model)
        batch = {name: tensor.to(device()) for name, tensor in batch.items()}
        gpu.synchronizations.clear()
        found = step(model, batch)
        assert len(gpu.synchronizations) == waits[training], gpu.synchronizations
        assert bool(gpu.kernel_calls) == (preset in WITHOUT_BIAS)
        for one, other in zip(found, expected, strict=True):
            assert_same(one.cpu(), other)


@pytest.mark.parametrize(
    ("batch", "waits"), [("masked", 2), ("positions", 3), ("offsets", 2), ("documents", 3), ("unmasked", 2)]
)
@pytest.mark.parametrize("preset", ["roberta", "modernbert"])
def test_the_host_seldom_waits_for_other_batches(
    tiny_config: MakeConfig, ragged: MakeBatch, batch: str, waits: int, preset: str
) -> None:
    ids, mask = ragged(LENGTHS)
    offsets = torch.tensor([0, *LENGTHS], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    row = ids[mask == 1][None]
    inputs: dict[str, dict[str, torch.Tensor]] = {
        "masked": {"input_ids": ids, "attention_mask": mask},
        "positions": {"input_ids": row, "position_ids": torch.cat([torch.arange(length) for length in LENGTHS])[None]},
        "offsets": {"input_ids": row, "cu_seq_lens_q": offsets, "cu_seq_lens_k": offsets},
        "documents": {"input_ids": row, "seq_idx": torch.arange(5).repeat_interleave(torch.tensor(LENGTHS))[None]},
        "unmasked": {"input_ids": row},
    }
    with simulated_gpu() as gpu, torch.no_grad():
        model = to_simulated_gpu(SequenceEncoderModel(tiny_config(preset)).bfloat16().eval())
        there = {name: tensor.to(device()) for name, tensor in inputs[batch].items()}
        gpu.synchronizations.clear()
        model(**there)
    assert len(gpu.synchronizations) == waits, gpu.synchronizations


def test_encode_waits_once_for_each_batch(tiny_config: MakeConfig, randomize: Callable[..., Any]) -> None:
    model = randomize(SequenceEncoderModel(tiny_config("bert", pooling="cls")))
    texts = [[1, 2], [3, 4, 5], [6, 7, 8]]
    modes = ("cls", "mean")
    expected = model.encode_batch(texts, modes)
    with simulated_gpu(torch.float32) as gpu:
        to_simulated_gpu(model)
        gpu.synchronizations.clear()
        for chosen in (modes, ("cls",)):
            found = model.encode_batch(texts, chosen)
        assert len(gpu.synchronizations) == 2, gpu.synchronizations
        assert_same(found.cpu(), expected[:, :24])


@pytest.mark.parametrize("use", ["checkpointing", "layer_vectors", "logit_calibration", "attentions", "choices"])
def test_other_features_agree_with_the_cpu(
    tiny_config: MakeConfig, randomize: Callable[..., Any], ragged: MakeBatch, use: str
) -> None:
    config = tiny_config("modernbert", num_labels=3)
    kind = SequenceEncoderForMultipleChoice if use == "choices" else SequenceEncoderForSequenceClassification
    ids, mask = ragged(LENGTHS)
    if use == "choices":
        ids, mask = (torch.stack([each, each.roll(1, 0)], 1) for each in (ids, mask))
    if use == "logit_calibration":
        config.logit_calibration = [{"scale": [1.0, 2.0, 3.0], "offset": [0.5, 0.0, 1.0]}]
    model = randomize(kind(config))
    if use == "checkpointing":
        model.train().gradient_checkpointing_enable({"use_reentrant": False})

    def run(batch: dict[str, Any]) -> list[torch.Tensor]:
        if use == "attentions":
            batch["output_attentions"] = True
        if use == "layer_vectors":
            batch["layer_vectors"] = vectors = LayerVectors([0, 2])
            model(**batch)
            return [vectors[0], vectors[2]]
        return step(model, batch)

    expected = run({"input_ids": ids, "attention_mask": mask})
    with simulated_gpu(torch.float32):
        to_simulated_gpu(model)
        found = run({"input_ids": ids.to(device()), "attention_mask": mask.to(device())})
        for one, other in zip(found, expected, strict=True):
            assert_same(one.cpu(), other)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
@pytest.mark.parametrize("preset", ["bert", "modernbert"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_agree_on_a_real_gpu_and_the_host_seldom_waits(
    tiny_config: MakeConfig,
    randomize: Callable[..., Any],
    ragged: MakeBatch,
    head: type,
    preset: str,
    dtype: torch.dtype,
) -> None:
    names, _, waits = HEADS[head]
    model = randomize(head(tiny_config(preset, num_labels=3))).train()
    ids, mask = ragged(LENGTHS)
    batch = {"input_ids": ids, "attention_mask": mask, **{name: LABELS[kind] for name, kind in names.items()}}
    expected = step(model, batch)
    model, batch = model.to("cuda", dtype), {name: tensor.cuda() for name, tensor in batch.items()}
    step(model, batch)  # The first step compiles kernels.
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = step(model, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(found, expected, strict=True):
        assert_same(one.float().cpu(), other, tolerance=1e-3 if dtype == torch.float32 else 0.1)
    if dtype == torch.bfloat16:  # In float32, transformers reads the masks of padded rows.
        waited = [str(warning.message) for warning in caught if "synchroniz" in str(warning.message)]
        assert len(waited) <= waits, waited
