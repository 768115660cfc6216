"""Reads and writes the rotary parameters of families whose layers all have the same type."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from ...configuration.rope_parameters import check_rope_parameters
from .bert import classifier_dropout

_LAYER_TYPE = "full_attention"


def read_rope(config: PreTrainedConfig) -> dict[str, Any]:
    """Return our `rope_parameters` for theirs.

    Raises:
        ValueError: If their type is not supported.
    """
    truncate = config.rope_parameters.get("truncate", True)
    if not truncate:
        # The function of transformers for "yarn" ignores it in parameters that are nested by layer type.
        raise ValueError(f"rope_parameters['truncate']={truncate!r} is not supported: a SequenceEncoder needs True.")
    nested = {_LAYER_TYPE: dict(config.rope_parameters)}
    check_rope_parameters(nested, [_LAYER_TYPE])
    return {"rope_parameters": nested}


def read_rotary(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the fields of families like BERT with rotary positions that are not only renamed."""
    return {**classifier_dropout(config), **read_rope(config)}


def write_rope(config: PreTrainedConfig) -> dict[str, Any]:
    """Return their `rope_parameters` for ours."""
    return {"rope_parameters": dict((config.rope_parameters or {}).get(_LAYER_TYPE, {}))}
