"""Loads weights only from safetensors, since unpickling can execute code."""

from __future__ import annotations

from typing import Any, cast

from safetensors import SafetensorError


class SafetensorsLoadingMixin:
    """Mixin for models that refuses pickled weights. List it before the base class of transformers."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """Load a model as in transformers, but only from safetensors.

        Args:
            pretrained_model_name_or_path: A folder or a Hub id.
            *model_args: Arguments of the model.
            **kwargs: Arguments of transformers' `from_pretrained`.

        Raises:
            ValueError: If `use_safetensors` is False.
            OSError: If there are no safetensors weights, or they are damaged.
        """
        if not kwargs.setdefault("use_safetensors", True):
            raise ValueError(
                f"use_safetensors must be True, got {kwargs['use_safetensors']}: unpickling weights can execute code."
            )
        try:
            return cast(Any, super()).from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        except SafetensorError as error:
            raise OSError(
                f"The weights of {pretrained_model_name_or_path} are damaged or incomplete ({error}); copy or download "
                "them again."
            ) from error
