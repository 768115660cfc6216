"""Quantizes a model that `from_pretrained` loads with a `quantization_config`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ...modeling.text_encoding.recipe_files import HUB_OPTIONS

# The arguments of `from_pretrained` that also say where the tokenizer is.
_PLACE = (*HUB_OPTIONS, "subfolder")


def quantize_loaded(model: Any, config: Any, name: str | os.PathLike[str], options: Mapping[str, Any]) -> None:
    """Quantize a model with the tokenizer of its folder.

    Args:
        model: The model, with its embedding recipe.
        config: The `EightBitConfig`, which receives the result.
        name: The folder or Hub id of the model.
        options: The arguments of `from_pretrained`.

    Raises:
        ValueError: If there is no tokenizer, or `quantize` refuses the model.
    """
    if config.target is None:
        raise ValueError("EightBitConfig.target must be between 0 and 1 to quantize a model, got None.")
    # Importing the package does not import what only quantization needs.
    from transformers import AutoTokenizer
    from transformers.utils import logging

    from .quantizing import quantize_with

    try:
        place = {key: options[key] for key in _PLACE if options.get(key) is not None}
        tokenizer = AutoTokenizer.from_pretrained(name, **place)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name} has no tokenizer, which quantization needs. Load the model without "
            "quantization_config, and call `sequence_encoder.inference.quantization.quantize` with a tokenizer."
        ) from error
    logging.get_logger(__name__).info(str(quantize_with(model, tokenizer, config, config.target, None)))
