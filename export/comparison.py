"""Compares an exported model with the model: their outputs on sample texts, and their speed.

Shapes: B batch, S sequence.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .requirements import RUNTIME_NAMES

# OpenVINO otherwise computes in bfloat16 if the processor has instructions for it.
FULL_PRECISION: dict[str, dict[str, Any]] = {
    "onnx": {},
    "openvino": {"config": {"INFERENCE_PRECISION_HINT": "f32"}},
}
# Relative to the largest output, or to 1 if all are smaller, as in `convert`.
TOLERANCE = 1e-3
# Logits below this are masks, which are the lowest number of the dtype.
_MASKED = -1e30
# Seconds to repeat a batch, at least twice.
_MEASURED = 0.2

Inputs = dict[str, torch.Tensor]
Run = Callable[..., Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class ExportCheck:
    """What the comparison of an exported model with the model has found.

    Attributes:
        to: The format.
        difference: The largest difference between outputs on sample texts.
        texts: Number of texts in the batch that was timed.
        tokens: Number of tokens in it, without padding.
        threads: Number of threads that both used.
        seconds: The time of the model for the batch, in its best run.
        exported_seconds: The time of the exported model, in its best run.
    """

    to: str
    difference: float
    texts: int
    tokens: int
    threads: int
    seconds: float
    exported_seconds: float

    def __str__(self) -> str:
        """Return two sentences."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return (
            f"On sample texts, the outputs of both models differ by at most {self.difference:.1e}. A batch of "
            f"{self.texts} texts with {self.tokens} tokens takes {1000 * self.seconds:.1f} ms in torch and "
            f"{1000 * self.exported_seconds:.1f} ms in {RUNTIME_NAMES[self.to]}, on {threads} of a CPU."
        )


def runtime_options(to: str, threads: int) -> dict[str, Any]:
    """Return the options with which a runtime computes in float32, on a number of threads.

    Args:
        to: The format.
        threads: The number of threads.
    """
    if to == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return {"session_options": options}
    return {"config": {**FULL_PRECISION[to]["config"], "INFERENCE_NUM_THREADS": threads}}


@torch.no_grad()
def compare(to: str, model: Run, exported: Run, batches: Sequence[Inputs]) -> ExportCheck:
    """Compare the outputs of both models for some batches, and their speed for the last batch.

    Args:
        to: The format.
        model: The model, in evaluation mode and float32.
        exported: The exported model.
        batches: The inputs of both.

    Raises:
        ValueError: If the outputs differ by more than rounding explains.
    """
    difference = max(largest_difference(model(**batch), exported(**batch)) for batch in batches)
    last = batches[-1]
    return ExportCheck(
        to,
        difference,
        texts=last["input_ids"].shape[:-1].numel(),
        tokens=int(last["attention_mask"].sum()),
        threads=torch.get_num_threads(),
        seconds=_best_seconds(model, last),
        exported_seconds=_best_seconds(exported, last),
    )


def largest_difference(expected: Mapping[str, Any], found: Mapping[str, Any]) -> float:
    """Return the largest difference between the outputs of two models.

    Args:
        expected: The outputs of the model, of which those that are None are not exported.
        found: The outputs of the exported model.

    Raises:
        ValueError: If the names, the shapes or the masked logits are not the same, if an output is NaN, or if a
            difference is larger than rounding explains.
    """
    given = {name: value for name, value in expected.items() if isinstance(value, torch.Tensor)}
    exported = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
    shapes, exported_shapes = ({name: tuple(x.shape) for name, x in each.items()} for each in (given, exported))
    if shapes != exported_shapes:
        raise ValueError(f"The exported model has the outputs {exported_shapes} instead of {shapes}.")
    largest = 0.0
    for name, tensor in given.items():
        if not torch.equal(tensor < _MASKED, exported[name] < _MASKED):
            raise ValueError(f"The exported model masks other tokens in {name} than the model.")
        for owner, numbers in (("model", tensor), ("exported model", exported[name])):
            if numbers.isnan().any():
                raise ValueError(f"The {owner} computes NaN in {name}; check the weights of the model.")
        ours, theirs = tensor.clamp(min=_MASKED), exported[name].clamp(min=_MASKED)
        difference = float((ours - theirs).abs().max())
        scale = float(torch.where(ours > _MASKED, ours, 0).abs().max())
        if not difference <= TOLERANCE * max(1.0, scale):
            raise ValueError(
                f"The exported model computes other numbers: {name} differs by {difference:.1e}, more than rounding "
                "explains."
            )
        largest = max(largest, difference)
    return largest


def _best_seconds(run: Run, inputs: Inputs) -> float:
    run(**inputs)
    times: list[float] = []
    while len(times) < 2 or sum(times) < _MEASURED:
        start = time.perf_counter()
        run(**inputs)
        times.append(time.perf_counter() - start)
    return min(times)
