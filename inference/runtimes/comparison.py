"""Compares an exported model with the model: their outputs on sample texts, and their speed.

Shapes: B batch, S sequence.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .requirements import FORMATS

# Relative to the largest output, or to 1 if all are smaller, as in `convert`.
TOLERANCE = 1e-3
# The least cosine of the outputs of models in eight bits. An input of a layer at the boundary between two integers may
# become either of them, which moves inputs of the next layers across boundaries, until outputs differ by about as much
# as quantization has changed them.
EIGHT_BIT_COSINE = 0.99
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
        cosine: The least cosine of an output to that of the model.
        eight_bits: Whether layers have eight bits, so that the cosine was checked and not the difference.
        cosines: The least cosine of an output to that of the model for each of several precisions.
    """

    to: str
    difference: float
    texts: int
    tokens: int
    threads: int
    seconds: float
    exported_seconds: float
    cosine: float
    eight_bits: bool
    cosines: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return two sentences."""
        cosine = f", with cosines of at least {self.cosine:.5f}" if self.eight_bits else ""
        several = ", ".join(f"{cosine:.5f} with {dtype}" for dtype, cosine in self.cosines.items())
        cosine += f", and have cosines of at least {several}" if several else ""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return (
            f"On sample texts, the outputs of both models differ by at most {self.difference:.1e}{cosine}. A "
            f"batch of {self.texts} texts with {self.tokens} tokens takes {1000 * self.seconds:.1f} ms in torch and "
            f"{1000 * self.exported_seconds:.1f} ms in {FORMATS[self.to].runtime}, on {threads} of a CPU."
        )


@torch.no_grad()
def compare(to: str, model: Run, exported: Run, batches: Sequence[Inputs], eight_bits: bool) -> ExportCheck:
    """Compare the outputs of both models for some batches, and their speed for the last batch.

    Args:
        to: The format.
        model: The model, in evaluation mode and float32.
        exported: The exported model.
        batches: The inputs of both.
        eight_bits: Whether layers of the model have eight bits.

    Raises:
        ValueError: If the outputs differ by more than rounding explains: their numbers by 1e-3 of the largest or of 1,
            or with eight bits the cosine of an output is below 0.99.
    """
    found = [
        compare_outputs(model(**batch), exported(**batch), EIGHT_BIT_COSINE if eight_bits else None)
        for batch in batches
    ]
    last = batches[-1]
    return ExportCheck(
        to,
        max(difference for difference, _ in found),
        texts=last["input_ids"].shape[:-1].numel(),
        tokens=int(last["attention_mask"].sum()),
        threads=torch.get_num_threads(),
        seconds=_best_seconds(model, last),
        exported_seconds=_best_seconds(exported, last),
        cosine=min(cosine for _, cosine in found),
        eight_bits=eight_bits,
    )


def compare_outputs(
    expected: Mapping[str, Any], found: Mapping[str, Any], least_cosine: float | None = None
) -> tuple[float, float]:
    """Return the largest difference between the outputs of two models, and the least cosine.

    Args:
        expected: The outputs of the model, of which those that are None are not exported.
        found: The outputs of the exported model.
        least_cosine: The least cosine that is allowed, if weights are rounded.

    Raises:
        ValueError: If the names, the shapes or the masked logits are not the same, if an output is NaN, or if outputs
            differ by more than rounding explains.
    """
    given = {name: value for name, value in expected.items() if isinstance(value, torch.Tensor)}
    exported = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
    shapes, exported_shapes = ({name: tuple(x.shape) for name, x in each.items()} for each in (given, exported))
    if shapes != exported_shapes:
        raise ValueError(f"The exported model has the outputs {exported_shapes} instead of {shapes}.")
    largest, least = 0.0, 1.0
    for name, tensor in given.items():
        masked = tensor < _MASKED
        if not torch.equal(masked, exported[name] < _MASKED):
            raise ValueError(f"The exported model masks other tokens in {name} than the model.")
        for owner, numbers in (("model", tensor), ("exported model", exported[name])):
            if numbers.isnan().any():
                raise ValueError(f"The {owner} computes NaN in {name}; check the weights of the model.")
        ours, theirs = tensor.masked_fill(masked, 0), exported[name].masked_fill(masked, 0)
        difference = float((ours - theirs).abs().max())
        # In double precision, in which rounding does not show.
        cosine = float(torch.cosine_similarity(ours.double().flatten(), theirs.double().flatten(), dim=0))
        is_same = difference <= TOLERANCE * max(1.0, float(ours.abs().max()))
        if least_cosine is not None and not is_same and cosine < least_cosine:
            raise ValueError(
                f"The exported model computes other numbers: {name} has a cosine of {cosine:.4f} to that of the model, "
                f"less than {least_cosine}. If it was quantized with a low target, quantize it with a higher one."
            )
        if least_cosine is None and not is_same:
            raise ValueError(
                f"The exported model computes other numbers: {name} differs by {difference:.1e}, more than rounding "
                "explains."
            )
        largest, least = max(largest, difference), min(least, 1.0 if difference == 0 else cosine)
    return largest, least


def _best_seconds(run: Run, inputs: Inputs) -> float:
    run(**inputs)
    times: list[float] = []
    while len(times) < 2 or sum(times) < _MEASURED:
        start = time.perf_counter()
        run(**inputs)
        times.append(time.perf_counter() - start)
    return min(times)
