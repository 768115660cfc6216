"""How a model is quantized to eight bits, in its `config.json` and as an argument of `from_pretrained`."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers.utils.quantization_config import QuantizationConfigMixin

from ...saving.written_for import EIGHT_BITS


class EightBitConfig(QuantizationConfigMixin):
    """The settings of eight-bit quantization.

    `AutoModel.from_pretrained(folder, quantization_config=EightBitConfig())` quantizes a model with the tokenizer of
    its folder, and `save_pretrained` saves it in eight bits with these settings.

    Args:
        target: The least mean cosine of the vectors of texts, or of the logits of a head, to those of the model before
            quantization. The layers that change them most stay as they are. None if a metric has chosen the layers.
        texts: Texts like those that the model will read; by default English sentences from the documentation of
            Python's standard library. A folder does not keep them.
        modules: The quantized modules of the encoder, each with the number of channels of its input that are not
            quantized. Set by quantization.
        found: The cosine that quantization has found on texts that it had not seen. Set by quantization.
        quant_method: The name of this kind of quantization, which folders contain.

    Raises:
        ValueError: If `target` is not between 0 and 1.
    """

    def __init__(
        self,
        target: float | None = 0.999,
        texts: Sequence[str] | None = None,
        modules: Mapping[str, int] | None = None,
        found: float | None = None,
        quant_method: str = EIGHT_BITS,
    ) -> None:
        if target is not None and not 0 <= target <= 1:
            raise ValueError(f"target must be between 0 and 1, got {target}.")
        self.quant_method: Any = quant_method
        self.target, self.texts, self.found = target, texts, found
        self.modules = dict(modules or {})

    def to_dict(self) -> dict[str, Any]:
        """Return the settings that a folder keeps."""
        return {
            "quant_method": EIGHT_BITS,
            "target": self.target,
            "found": self.found,
            "modules": dict(self.modules),
        }
