"""Recognises models of other families by their configurations, without torch.

The folder of a model may be untrusted: no file in it may link outside it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from ..configuration import TaskAdapterConfig
from ..configuration.shared_fields import check_number_of_labels
from ..saving.loading import check_config_file, check_dtype
from ..saving.module_list import module_paths
from .families import FAMILY_MODULES
from .family import Family
from .peft_adapters import find_adapter

# By name, in the order of the table.
FAMILIES: dict[str, Family] = {
    name: getattr(import_module(f".families.{module}", __package__), name.upper().replace("-", "_"))
    for name, module in FAMILY_MODULES.items()
}

# Why families that resemble supported ones cannot be converted, by the prefix of their class names.
_REASONS = {
    "Esm": "token_dropout scales the embeddings of a text by its share of masked tokens, contact_head belongs to the "
    "encoder, and a SequenceEncoder has neither.",
}
# Far more than any card, licence or module list needs.
_MAX_TEXT_BYTES = 64 * 2**20
_TEXTS = ("README.md", "LICENSE", "config.json", "modules.json")
_CHAT_TEMPLATES = "additional_chat_templates"


def find_family(class_name: str) -> tuple[Family, str]:
    """Return the family of a transformers model class, and the suffix of the class name that names its head.

    Raises:
        ValueError: If the family or the head is not supported.
    """
    for family in FAMILIES.values():
        for prefix in family.model_prefixes:
            head = class_name.removeprefix(prefix)
            # Other families can start with the same word, such as RobertaPreLayerNorm.
            if head == class_name or not head.startswith(("Model", "For", "LMHead")):
                continue
            if head not in family.heads:
                names = ", ".join(prefix + name for name in family.heads)
                raise ValueError(
                    f"{class_name} cannot be converted. The supported models of its family are {names}. "
                    "Pass base_model=True or --base_model to convert only its encoder."
                )
            return family, head
    if class_name.startswith("SequenceEncoder"):
        raise ValueError(
            f"{class_name} is already a SequenceEncoder. To convert it to another family, pass to= or --to with "
            f"one of {', '.join(FAMILIES)}."
        )
    reasons = [
        reason for prefix, reason in _REASONS.items() if class_name.startswith((f"{prefix}Model", f"{prefix}For"))
    ]
    reason = f": {reasons[0]}" if reasons else "."
    raise ValueError(f"{class_name} cannot be converted{reason} The supported families are {', '.join(FAMILIES)}.")


def is_adapted(checkpoint: str | os.PathLike[str]) -> bool:
    """Return whether a checkpoint is a peft adapter or a `TaskAdapter`, whose encoder may be one of this package."""
    checkpoint = transformer_folder(checkpoint)
    return find_adapter(checkpoint) is not None or isinstance(read_config(checkpoint), TaskAdapterConfig)


def read_config(checkpoint: str | os.PathLike[str]) -> PreTrainedConfig:
    """Read the configuration of a folder or a Hub id.

    Raises:
        OSError: If the configuration is missing or cannot be read.
        ValueError: If it is invalid.
    """
    fields = config_fields(checkpoint)
    model_type = fields.get("model_type")
    if fields.get("auto_map") and model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"{checkpoint} has the model type {model_type!r}, whose code is on the Hub. This package does not run such "
            "code, and has no table for this model type."
        )
    try:
        # `None` would ask on a terminal whether to run code from the Hub.
        return AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    except (OSError, ValueError):
        raise
    except (StrictDataclassError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"The configuration of {checkpoint} is not valid: {error}") from error


def config_fields(checkpoint: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the content of the `config.json` of a folder or a Hub id.

    Raises:
        OSError: If it is missing or damaged.
        ValueError: If it has no fields of a configuration.
    """
    if Path(checkpoint).is_dir() and not Path(checkpoint, "config.json").is_file():
        raise FileNotFoundError(f"{checkpoint} is not a saved model: it has no config.json.")
    check_config_file(Path(checkpoint))
    fields = PreTrainedConfig.get_config_dict(checkpoint)[0]
    # Before transformers uses them.
    for name in ("dtype", "torch_dtype"):
        check_dtype(name, fields.get(name))
    check_number_of_labels("num_labels", fields.get("num_labels") or 0)
    return fields


def transformer_folder(checkpoint: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Return the folder of the encoder in a checkpoint.

    This is the checkpoint itself, or the folder of the first module in older checkpoints of sentence-transformers.

    Raises:
        ValueError: If the checkpoint is a file, its module list is damaged, or one of its files links outside it.
        FileNotFoundError: If there is no such folder, and the name cannot be a Hub id.
    """
    name = os.fspath(checkpoint)
    if not name:
        raise ValueError("The checkpoint must be a folder or a Hub id, got an empty name.")
    if os.path.isfile(name):
        raise ValueError(f"The checkpoint must be a folder or a Hub id, but {name} is a file.")
    if not os.path.isdir(name):
        if os.path.isabs(name) or name.startswith((".", "~")) or name.count("/") > 1:
            raise FileNotFoundError(f"There is no folder {name}.")
        return checkpoint
    check_source(Path(name))
    if os.path.isfile(os.path.join(name, "config.json")):
        return checkpoint
    modules = module_paths(Path(name))
    return os.path.join(name, modules[0]) if modules else checkpoint


def check_source(folder: Path) -> None:
    """Check that all files of a checkpoint are in its folder, or in the Hub cache that the folder belongs to.

    The conversion copies files into the new model, which the user may publish. A link to a private file would publish
    that file.

    Args:
        folder: The folder of a checkpoint.

    Raises:
        ValueError: If a link points outside the folder, a file is not a regular file, or a text file is too large.
    """
    allowed = _allowed_folders(folder)
    for path in _read_from(folder):
        target = path.resolve()
        if not any(target.is_relative_to(place) for place in allowed):
            raise ValueError(
                f"{path} links to {target}, outside {folder}. If the new model needs that file, copy it there."
            )
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path} is not a regular file.")
        if path.name.startswith(_TEXTS) and path.is_file() and path.stat().st_size > _MAX_TEXT_BYTES:
            raise ValueError(f"{path} must have at most {_MAX_TEXT_BYTES:,} bytes, got {path.stat().st_size:,}.")


def _allowed_folders(folder: Path) -> list[Path]:
    """Return the folders that files may link to: the folder itself and, for a snapshot in the Hub cache, its blobs."""
    resolved = folder.resolve()
    caches = [parent.parent / "blobs" for parent in resolved.parents if parent.name == "snapshots"]
    return [resolved, *caches]


def _read_from(folder: Path) -> Iterator[Path]:
    """Yield every path that the conversion may read: the files in the folder and in its modules."""
    yield from (path for path in folder.iterdir() if not path.is_dir())
    for name in {*filter(None, module_paths(folder)), _CHAT_TEMPLATES}:
        # Any part of the path can be a link.
        yield from (folder / part for part in (Path(name), *Path(name).parents) if (folder / part).is_symlink())
        for inside, folders, files in os.walk(folder / name):
            yield from (Path(inside, entry) for entry in (*folders, *files))
