"""The options of `sequence-encoder quantize`. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from ...command_line import UsageError
from ...command_line.options import CALIBRATION_TEXTS, MODEL, OVERWRITE, option
from ...command_line.parser import Command


@dataclass
class QuantizeArguments:
    """What to quantize, and where to write it.

    Raises:
        UsageError: If a value is not allowed.
    """

    model: str = option(**MODEL)
    output_dir: str = option("Folder to write the quantized model to.")
    text_file: str | None = option(default=None, **CALIBRATION_TEXTS)
    cosine: float = option(
        "Minimum mean cosine similarity between the outputs (the vectors, or the logits of a head) before and "
        "after quantization.",
        0.999,
    )
    overwrite: bool = option(default=False, **OVERWRITE)

    def __post_init__(self) -> None:
        if not 0 <= self.cosine <= 1:
            raise UsageError(f"--cosine must be between 0 and 1, got {self.cosine}.")


QUANTIZE = Command(
    "quantize",
    "Quantize a model to eight bits, a quarter of its size, except for layers that would change its outputs.",
    "sentence-transformers/all-MiniLM-L6-v2 --output_dir quantized",
    (QuantizeArguments,),
)
