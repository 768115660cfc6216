"""The layers of a student are fitted to what its teacher computes, without gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sequence_encoder import SequenceEncoderModel
from sequence_encoder.training.distillation.layer_fitting import fit_layers
from sequence_encoder.training.distillation.student import make_student

KINDS: dict[str, dict[str, Any]] = {
    "norms last": {},
    "norms first, gates, no biases": {"preset": "modernbert"},
    "convolution": {"conv_kernel_size": 3},
    "norms first, convolution": {"preset": "modernbert", "conv_kernel_size": 5},
    "two groups of layers": {"num_hidden_groups": 2},
}


def states_of(model: Any, texts: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return the vectors (T, D) of the tokens of texts."""
    ids, mask = texts
    with torch.no_grad():
        states: torch.Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
    return states[mask.bool()]


def fitted(teacher: Any, chosen: list[int], batches: list[Any], channels: torch.Tensor | None = None, **to: Any) -> Any:
    student = make_student(teacher, chosen, channels).eval()
    inputs = [{"input_ids": ids, "attention_mask": mask} for ids, mask in batches]
    fit_layers(teacher, student, chosen, inputs, channels, **to)
    return student


CASES = [*((kind, None) for kind in KINDS), ("norms last", 8), ("norms first, gates, no biases", 8)]


@pytest.mark.parametrize(("kind", "hidden_size"), CASES)
def test_a_fitted_student_is_nearer_to_its_teacher_on_other_texts(
    tiny_config: Callable[..., Any],
    randomize: Callable[..., Any],
    ragged: Callable[..., Any],
    kind: str,
    hidden_size: int | None,
) -> None:
    channels = None if hidden_size is None else torch.arange(0, 24, 24 // hidden_size)
    teacher = randomize(SequenceEncoderModel(tiny_config(num_hidden_layers=4, **KINDS[kind])))
    *batches, others = [ragged([9, 5, 12, 7, 3, 11] * 8) for _ in range(5)]
    chosen = [0, 2]
    wanted = states_of(teacher, others)
    wanted = wanted if channels is None else wanted[:, channels]
    students = [make_student(teacher, chosen, channels).eval(), fitted(teacher, chosen, batches, channels)]
    before, after = [float(F.cosine_similarity(states_of(each, others), wanted, dim=-1).mean()) for each in students]
    assert after > before + 0.05


@pytest.mark.parametrize("kind", ["norms last", "norms first, gates, no biases"])
def test_a_narrower_student_estimates_the_channels_it_lacks(
    tiny_config: Callable[..., Any], randomize: Callable[..., Any], ragged: Callable[..., Any], kind: str
) -> None:
    """The teacher repeats its first eight channels and its first head, and uses a third of its inner channels."""
    config = tiny_config(num_hidden_layers=2, **{"intermediate_size": 39, **KINDS[kind]})
    teacher = randomize(SequenceEncoderModel(config))
    for name, weight in teacher.named_parameters():
        if not any(part in name for part in ("qkv_proj", "up_proj")) and 24 in weight.shape:
            axis = weight.shape.index(24) if "o_proj" in name or "down_proj" in name else weight.ndim - 1
            weight.data = torch.cat([weight.data.narrow(axis, 0, 8)] * 3, axis)
        if "qkv_proj" in name:
            weight.data = torch.cat([weight.data[:24]] * 3)
        if "down_proj.weight" in name:
            weight.data[:, : 2 * weight.shape[1] // 3] = 0
    *batches, others = [ragged([9, 5, 12, 7, 3, 11] * 8) for _ in range(5)]
    student = fitted(teacher, [0, 1], batches, torch.arange(8))
    assert F.cosine_similarity(states_of(student, others), states_of(teacher, others)[:, :8], dim=-1).mean() > 0.9
    for ours, theirs in zip(student.layers, teacher.layers, strict=True):
        summed = theirs.self_attn.o_proj.weight[:8].unflatten(1, (3, 8)).sum(1)
        assert F.cosine_similarity(ours.self_attn.o_proj.weight, summed, dim=-1).mean() > 0.7
    for name, kept in (("self_attn.qkv_proj", slice(24)), ("mlp.up_proj", slice(26, 39)), ("mlp.gate_up_proj", None)):
        for ours, theirs in zip(student.layers, teacher.layers, strict=True):
            if name in dict(ours.named_modules()):
                weight = theirs.get_submodule(name).weight
                halves = [half[26:] for half in weight.chunk(2)]
                wanted = (torch.cat(halves) if kept is None else weight[kept]).unflatten(1, (3, 8)).sum(1)
                assert F.cosine_similarity(ours.get_submodule(name).weight, wanted, dim=-1).mean() > 0.8


def test_the_norms_of_a_narrower_student_fit_its_channels(
    tiny_config: Callable[..., Any], randomize: Callable[..., Any], ragged: Callable[..., Any]
) -> None:
    """The teacher's last norm subtracts the mean of 24 channels, and the student's subtracts the mean of eight."""
    teacher = randomize(SequenceEncoderModel(tiny_config(num_hidden_layers=2)))
    teacher.layers[1].mlp.down_proj.bias.data[8:] += 3
    batches = [ragged([9, 5, 12, 7, 3, 11] * 8)] * 4
    student = fitted(teacher, [0, 1], batches, torch.arange(8))
    means = [states_of(each, batches[0])[:, :8].mean(0) for each in (student, teacher)]
    torch.testing.assert_close(*means, rtol=0, atol=0.15)


def test_layers_that_share_their_weights_stay_as_they_are(
    tiny_config: Callable[..., Any], randomize: Callable[..., Any], ragged: Callable[..., Any]
) -> None:
    teacher = randomize(SequenceEncoderModel(tiny_config(num_hidden_layers=4, num_hidden_groups=1)))
    student = fitted(teacher, [0, 2], [ragged([9, 5, 12])])
    assert all(torch.equal(weight, teacher.state_dict()[name]) for name, weight in student.state_dict().items())


def test_one_short_text_hardly_changes_a_student(
    tiny_config: Callable[..., Any], randomize: Callable[..., Any], ragged: Callable[..., Any]
) -> None:
    teacher = randomize(SequenceEncoderModel(tiny_config(num_hidden_layers=4)))
    student = fitted(teacher, [0, 2], [ragged([2])])
    before, after = (each.layers[0].mlp.down_proj.bias.detach() for each in (teacher, student))
    assert (after - before).norm() < before.norm()


@pytest.mark.parametrize("channels", [None, torch.arange(0, 24, 3)])
def test_the_fit_in_bfloat16_is_about_that_in_float32(
    tiny_config: Callable[..., Any],
    randomize: Callable[..., Any],
    ragged: Callable[..., Any],
    channels: torch.Tensor | None,
) -> None:
    teacher = randomize(SequenceEncoderModel(tiny_config(num_hidden_layers=4)))
    batches, others = [ragged([9, 5, 12, 7, 3, 11] * 8) for _ in range(4)], ragged([9, 5, 12, 7] * 8)
    whole, half = (states_of(fitted(teacher, [0, 2], batches, channels, bf16=bf16), others) for bf16 in (False, True))
    assert F.cosine_similarity(whole, half, dim=-1).mean() > 0.99


def test_an_interruption_of_the_fit_is_raised_and_leaves_no_hooks(
    tiny_config: Callable[..., Any], randomize: Callable[..., Any], ragged: Callable[..., Any]
) -> None:
    teacher = randomize(SequenceEncoderModel(tiny_config(num_hidden_layers=4)))
    calls = 0

    def interrupt(*given: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt

    handle = teacher.layers[1].self_attn.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        fitted(teacher, [0, 2], [ragged([9, 5, 12])] * 2, torch.arange(8))
    handle.remove()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in teacher.modules())


def test_a_matrix_without_inputs_stays_as_it_is(
    tiny_config: Callable[..., Any], randomize: Callable[..., Any], ragged: Callable[..., Any]
) -> None:
    teacher = randomize(SequenceEncoderModel(tiny_config(num_hidden_layers=2)))
    for weight in teacher.layers[0].mlp.up_proj.parameters():
        weight.data.zero_()
    student = fitted(teacher, [0], [ragged([9, 5, 12])])
    assert torch.equal(student.layers[0].mlp.down_proj.weight, teacher.layers[0].mlp.down_proj.weight)
