"""Models with an adapter of peft."""

from __future__ import annotations

from typing import Any


def without_wrapper(model: Any) -> Any:
    """Return the model in a `PeftModel`, whose layers have the adapter. Return other models as they are.

    Raises:
        ValueError: If the adapter is not in the layers.
    """
    if not hasattr(model, "get_base_model"):
        return model
    if model.active_peft_config.is_prompt_learning:
        kind = model.active_peft_config.peft_type.value
        raise ValueError(f"model must not have an adapter that puts tokens before the texts, got {kind}.")
    return model.get_base_model()
