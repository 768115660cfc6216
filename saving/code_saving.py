"""Saves configurations with the code of their models, and the names of the classes in that code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from .atomic_saving import AtomicSavingMixin
from .auto_classes import auto_map, of_type
from .code_bundle import set_local_names
from .registered_pipelines import custom_pipelines
from .saved_code import write_code


class CodeSavingMixin(AtomicSavingMixin):
    """Mixin for configurations, which saves the code that loads a model without this package."""

    def _write(self, folder: Path, *args: Any, **kwargs: Any) -> Any:
        config = cast(Any, self)
        if not of_type(config.model_type):
            # The configuration of a user's own model type, which transformers saves without our code.
            return super()._write(folder, *args, **kwargs)
        config.auto_map = auto_map(config)
        config.custom_pipelines = custom_pipelines(config)
        set_local_names(self)
        saved = super()._write(folder, *args, **kwargs)
        write_code(folder, self)
        return saved
