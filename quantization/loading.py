"""Quantizes a model that `from_pretrained` loads with a `quantization_config`."""

from __future__ import annotations

from typing import Any


def quantize_loaded(model: Any, config: Any) -> None:
    """Quantize a model with the tokenizer of its folder.

    Args:
        model: The model that is being loaded.
        config: The `EightBitConfig`, which receives the result.

    Raises:
        ValueError: If there is no tokenizer, or `quantize` refuses the model.
    """
    # Importing the package does not import what only quantization needs.
    from transformers import AutoTokenizer
    from transformers.utils import logging

    from .quantizing import quantize_with

    try:
        tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{model.name_or_path} has no tokenizer, which quantization needs. Load the model without "
            "quantization_config, and call `sequence_encoder.quantization.quantize` with a tokenizer."
        ) from error
    logging.get_logger(__name__).info(str(quantize_with(model, tokenizer, config, config.target, None)))
