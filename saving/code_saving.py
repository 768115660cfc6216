"""Saves configurations with the code of their models, and the names of the classes in that code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from .atomic_saving import AtomicSavingMixin
from .auto_classes import auto_map, of_type
from .code_bundle import copy_code, local_names
from .registered_pipelines import custom_pipelines
from .saved_code import write_code
from .written_for import INSTALLED


class CodeSavingMixin(AtomicSavingMixin):
    """Mixin for configurations, which saves the code that loads a model without this package."""

    def _write(self, folder: Path, *args: Any, **kwargs: Any) -> Any:
        if INSTALLED:
            config = cast(Any, self)
            if not of_type(config.model_type):
                # The configuration of a user's own model type, which transformers saves without our code.
                return super()._write(folder, *args, **kwargs)
            config.auto_map = auto_map(config)
            config.custom_pipelines = custom_pipelines(config)
        for name in ("auto_map", "custom_pipelines"):
            if given := self.__dict__.pop(name, None):
                setattr(self, name, local_names(given))
        saved = super()._write(folder, *args, **kwargs)
        if INSTALLED:
            write_code(folder, self)
        else:
            copy_code(folder)
        return saved
