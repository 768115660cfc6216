"""Reports what is wrong with a folder or its files when a model, a configuration or a tokenizer is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from transformers.utils import logging

from .exported_models import check_not_exported
from .finite_weights import find_non_finite, summarize_names
from .safetensors_loading import SafetensorsLoadingMixin

logger = logging.get_logger(__name__)

# The names of the floating dtypes of torch.
FLOATING_DTYPES = (
    *("bfloat16", "double", "float", "float16", "float32", "float4_e2m1fn_x2", "float64", "half"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
)


class SafeModelLoadingMixin(SafetensorsLoadingMixin):
    """Mixin for models that refuses pickled weights and reports errors. List it before transformers' base class."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """Load a model as in transformers, but only from safetensors, since unpickling can execute code.

        A warning is logged if weights are NaN or infinite.

        Args:
            pretrained_model_name_or_path: A folder or a Hub id.
            *model_args: Arguments of the model.
            **kwargs: Arguments of transformers' `from_pretrained`.

        Raises:
            ValueError: If `use_safetensors` is False, `dtype` is not a floating dtype, or the model is an exported one.
            OSError: If there are no safetensors weights, they are damaged, or their index is invalid.
            RuntimeError: If weights have other shapes than the model.
        """
        for name in ("dtype", "torch_dtype"):
            given = kwargs.get(name)
            for dtype in given.values() if isinstance(given, dict) else (given,):
                if dtype != "auto":
                    check_dtype(name, dtype)
        if pretrained_model_name_or_path is not None:
            check_weight_maps(Path(pretrained_model_name_or_path, kwargs.get("subfolder") or ""))
        try:
            loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        except RuntimeError as error:
            # Transformers only logs which weights, and callers expect its type of error.
            if "ignore_mismatched_sizes" not in str(error):
                raise
            raise RuntimeError(
                f"The weights of {pretrained_model_name_or_path} do not have the shapes of a {cls.__name__} with these "
                "settings; pass ignore_mismatched_sizes=True for new weights, which have to be trained."
            ) from error
        except OSError:
            if pretrained_model_name_or_path is not None:
                check_not_exported(pretrained_model_name_or_path, **kwargs)
            raise
        if names := find_non_finite(loaded[0] if isinstance(loaded, tuple) else loaded):
            logger.warning(
                f"The weights of {pretrained_model_name_or_path} are NaN or infinite in {summarize_names(names)}, and "
                "outputs will be as well. Copy or download the weights again, or use an earlier checkpoint."
            )
        return loaded


class SafeConfigLoadingMixin:
    """Mixin for configurations that reports errors in a file. List it before the base class of transformers."""

    @classmethod
    def _dict_from_json_file(cls, json_file: Any) -> Any:
        fields = cast(Any, super())._dict_from_json_file(json_file)
        check_fields(fields, str(json_file))
        return fields

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a configuration from a dict, as in transformers.

        Args:
            config_dict: The fields of the configuration.
            **kwargs: Arguments of transformers' `from_dict`.

        Raises:
            ValueError: If `config_dict` is not a dict, or one of its fields has the wrong type.
        """
        check_fields(config_dict, cls.__name__)
        return cast(Any, super()).from_dict(config_dict, **kwargs)


class SafeTokenizerLoadingMixin:
    """Mixin for tokenizers that reports which folder cannot be read. List it before the base class of transformers."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a tokenizer, as in transformers.

        Args:
            pretrained_model_name_or_path: A folder or a Hub id.
            *args: Arguments of transformers' `from_pretrained`.
            **kwargs: Keyword arguments of transformers' `from_pretrained`.

        Raises:
            OSError: If there is no tokenizer, or its files are damaged.
        """
        try:
            return cast(Any, super()).from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except Exception as error:  # The parsers raise bare exceptions.
            if isinstance(error, OSError | ValueError) and not isinstance(error, json.JSONDecodeError):
                raise
            if kwargs and isinstance(error, AttributeError):
                raise  # Transformers refuses an argument, such as one with the name of a method.
            raise OSError(f"The tokenizer of {pretrained_model_name_or_path} cannot be read ({error!r}).") from error


def check_dtype(name: str, dtype: Any) -> None:
    """Check that a dtype is a floating dtype of torch, the name of one, or None.

    Args:
        name: The name of the argument, for the error.
        dtype: The value.

    Raises:
        ValueError: If it is anything else.
    """
    # Without torch, which `sequence-encoder inspect` does not import.
    floating = dtype in FLOATING_DTYPES if isinstance(dtype, str) else getattr(dtype, "is_floating_point", None) is True
    if dtype is not None and not floating:
        raise ValueError(f"{name} must be a floating dtype of torch, such as float32 or bfloat16, got {dtype!r}.")


def check_config_file(folder: Path) -> None:
    """Check `config.json` in a local folder, if it exists.

    Args:
        folder: The folder.

    Raises:
        OSError: If the file is not JSON.
        ValueError: If `check_fields` refuses its content.
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
    """Check the fields of a configuration that transformers uses before it checks types.

    Args:
        fields: The fields of the configuration.
        name: The file or class that they come from, for the error.

    Raises:
        ValueError: If `fields` is not a dict, or one of these fields has the wrong type.
    """
    if not isinstance(fields, dict):
        raise ValueError(
            f"{name} must contain a JSON object with the fields of a configuration, got {json.dumps(fields)[:60]}."
        )
    for field in ("id2label", "label2id"):
        if not isinstance(fields.get(field, {}), dict | None):
            raise ValueError(f"{field} must be a dict in {name}, got {json.dumps(fields[field])[:60]}.")
    if not isinstance(fields.get("model_type", ""), str):
        raise ValueError(f"model_type must be a string in {name}, got {json.dumps(fields['model_type'])[:60]}.")


def check_weight_maps(folder: Path) -> None:
    """Check that the weights in a local folder are safetensors, and that an index of shards refers to files in it.

    Args:
        folder: The folder.

    Raises:
        OSError: If they are not, or an index cannot be read.
    """
    if folder.is_dir() and not any(folder.glob("*.safetensors*")) and (unsafe := [*folder.glob("pytorch_model*.bin")]):
        raise OSError(
            f"{unsafe[0]} is a pickled file, and unpickling can execute code. If you trust the file, convert it to "
            "model.safetensors first."
        )
    for index in folder.glob("model.safetensors.index*.json"):
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OSError(f"{index} is damaged and has no weight_map ({error}); copy or download it again.") from error
        for name in named:
            if not str(name).endswith(".safetensors") or Path(str(name)).name != name:
                raise OSError(f"{index} must name .safetensors files in its own folder, got {name!r}.")
