"""Models with an adapter: of peft, or a `TaskAdapter`."""

from __future__ import annotations

from typing import Any

from ...conversion.converting import convert
from ...modeling import TaskAdapter


def without_wrapper(model: Any) -> Any:
    """Return the model in a `PeftModel`, whose layers have the adapter, and the classifier for a `TaskAdapter`.

    Others are returned as they are.

    Raises:
        ValueError: If the adapter is not in the layers, or a `TaskAdapter` cannot be converted.
    """
    if isinstance(model, TaskAdapter):
        return convert(model)
    if not hasattr(model, "get_base_model"):
        return model
    if model.active_peft_config.is_prompt_learning:
        kind = model.active_peft_config.peft_type.value
        raise ValueError(f"model must not have an adapter that puts tokens before the texts, got {kind}.")
    return model.get_base_model()
