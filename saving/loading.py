"""Loading of weights from safetensors alone, with errors that say what is wrong with a folder or its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from transformers.utils import logging

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


class ReadSafely:
    """Names what is wrong with a file that holds a configuration. To stand before a configuration of transformers."""

    @classmethod
    def _dict_from_json_file(cls, json_file: Any) -> Any:
        fields = cast(Any, super())._dict_from_json_file(json_file)
        check_fields(fields, str(json_file))
        return fields

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers.

        Raises:
            ValueError: if that is no dictionary, or one of its fields cannot be read.
        """
        check_fields(config_dict, cls.__name__)
        return cast(Any, super()).from_dict(config_dict, **kwargs)


class TokenizerReadSafely:
    """Names the folder of a tokenizer that cannot be read. To stand before a tokenizer of transformers."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers.

        Raises:
            OSError: if there is no tokenizer, or its files are damaged.
        """
        try:
            return cast(Any, super()).from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except Exception as error:  # The parsers raise bare ones.
            if isinstance(error, OSError | ValueError) and not isinstance(error, json.JSONDecodeError):
                raise
            if kwargs and isinstance(error, AttributeError):
                raise  # An argument that transformers refuses, such as the name of a method.
            raise OSError(f"The tokenizer of {pretrained_model_name_or_path} cannot be read ({error!r}).") from error


def check_dtype(name: str, dtype: Any) -> None:
    """Checks that a dtype is a floating one of torch, or the name of one, or None.

    Raises:
        ValueError: for anything else.
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ValueError(f"{name} must be a floating dtype of torch, such as float32 or bfloat16, got {dtype!r}.")


def check_config_file(folder: Path) -> None:
    """Checks the configuration in a local folder, if there is one.

    Raises:
        OSError: if it is no JSON.
        ValueError: as for `check_fields`.
    """
    file = folder / "config.json"
    if not file.is_file():
        return
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OSError(f"{file} is damaged ({error}); copy or download it again.") from error
    check_fields(fields, str(file))


def check_fields(fields: Any, name: str) -> None:
    """Checks those parts of a configuration that transformers reads before it checks any type.

    Args:
        fields: of the configuration.
        name: where they are from.

    Raises:
        ValueError: if they are no object, or one of those parts is of the wrong type.
    """
    if not isinstance(fields, dict):
        raise ValueError(
            f"{name} must hold a JSON object with the fields of a configuration, got {json.dumps(fields)[:60]}."
        )
    for field in ("id2label", "label2id"):
        if not isinstance(fields.get(field, {}), dict | None):
            raise ValueError(f"{field} must be a dict in {name}, got {json.dumps(fields[field])[:60]}.")
    if not isinstance(fields.get("model_type", ""), str):
        raise ValueError(f"model_type must be a string in {name}, got {json.dumps(fields['model_type'])[:60]}.")


def check_weight_maps(folder: Path) -> None:
    """Check the weights in a local folder: that they are safetensors, and that an index of shards names files in it.

    Raises:
        OSError: if they are not, or an index cannot be read.
    """
    if folder.is_dir() and not any(folder.glob("*.safetensors*")) and (unsafe := [*folder.glob("pytorch_model*.bin")]):
        raise OSError(
            f"{unsafe[0]} is a pickled file, which can run programs, and is not read. Convert the weights to "
            "model.safetensors first, if you trust it."
        )
    for index in folder.glob("model.safetensors.index*.json"):
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OSError(f"{index} is damaged, it has no weight_map ({error}); copy or download it again.") from error
        for name in named:
            if not str(name).endswith(".safetensors") or Path(str(name)).name != name:
                raise OSError(f"{index} names {name!r}, and must name .safetensors files of its own folder.")
