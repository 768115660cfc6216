"""Loading of weights from safetensors alone, with errors that say what is wrong with a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from transformers.utils import logging

from ..configuration.shared_fields import check_dtype
from .finite_weights import in_words, not_finite

logger = logging.get_logger(__name__)


class LoadedSafely:
    """`from_pretrained` that reads no pickled weights. To stand before a model class of transformers."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """As in transformers, from weights in safetensors and from no others: pickled ones can hold programs.

        Warns of weights that are NaN or infinite.

        Raises:
            ValueError: for `use_safetensors=False`, and for a `dtype` that is none.
            OSError: if there are no such weights, or they are damaged, or their index names files that are none.
        """
        if not kwargs.setdefault("use_safetensors", True):
            raise ValueError(
                f"use_safetensors must be True, got {kwargs['use_safetensors']}: pickled weights are not read."
            )
        for name in ("dtype", "torch_dtype"):
            given = kwargs.get(name)
            for dtype in given.values() if isinstance(given, dict) else (given,):
                if dtype != "auto":
                    check_dtype(name, dtype)
        if pretrained_model_name_or_path is not None:
            check_weight_maps(Path(pretrained_model_name_or_path, kwargs.get("subfolder") or ""))
        try:
            loaded = cast(Any, super()).from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        except SafetensorError as error:
            raise OSError(
                f"The weights of {pretrained_model_name_or_path} are damaged or incomplete ({error}); copy or download "
                "them again."
            ) from error
        if names := not_finite(loaded[0] if isinstance(loaded, tuple) else loaded):
            logger.warning(
                f"The weights of {pretrained_model_name_or_path} are NaN or infinite in {in_words(names)}: so will "
                "outputs be. Copy or download them again, or take an earlier checkpoint."
            )
        return loaded


def check_weight_maps(folder: Path) -> None:
    """Checks the indices of split weights in a local folder: that they name files in it, of safetensors.

    Raises:
        OSError: if one does not, or cannot be read.
    """
    for index in folder.glob("model.safetensors.index*.json"):
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OSError(f"{index} is damaged, it has no weight_map ({error}); copy or download it again.") from error
        for name in named:
            if not str(name).endswith(".safetensors") or Path(str(name)).name != name:
                raise OSError(f"{index} names {name!r}, and must name .safetensors files of its own folder.")
