"""What only the installed package sequence-encoder has: presets, checks of fields, and whole folders or none."""

from pathlib import Path
from typing import Any

from transformers.configuration_utils import PreTrainedConfig

from ...saving.code_bundle import copy_code, set_local_names
from ...saving.safetensors_loading import SafetensorsLoadingMixin
from ...saving.saving import SavingMixin

AtomicSavingMixin = ModelSavingMixin = SavingMixin
SafeModelLoadingMixin = SafetensorsLoadingMixin
CheckedConfig = PreTrainedConfig


class CodeSavingMixin(SavingMixin):
    """Mixin for configurations, which saves the code in this folder with them."""

    def _write(self, folder: Path, *args: Any, **kwargs: Any) -> Any:
        set_local_names(self)
        saved = super()._write(folder, *args, **kwargs)
        copy_code(folder)
        return saved


def nest_by_layer_type(*given: Any) -> dict[str, Any]:
    """Return no parameters, since the model has no rotary positions."""
    return {}


class SafeConfigLoadingMixin:
    """Clear errors for damaged files need the package."""


class PresetsMixin:
    """Presets need the package."""


class CheckedFieldsMixin:
    """Checks of all fields need the package."""

    @classmethod
    def checked_fields(cls, config_dict: dict[str, Any]) -> dict[str, Any]:
        """Return the fields as they are."""
        return config_dict

    def check_keywords(self, kwargs: dict[str, Any]) -> None:
        """Remove a field that the others imply."""
        kwargs.pop("head_dim", None)

    def check_architecture(self) -> None:
        """Check nothing."""
