"""Loads the folder of a peft adapter: its base model, with the adapter merged into the weights."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from ..command_line.extras import require
from ..saving.model_files import ADAPTER_RECORD
from ..saving.optional_files import folder_with

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
# The prefix that peft gives to names of weights.
_PREFIX = "base_model.model."
# The heads by peft's names of tasks. Without a task, the adapter names the class of its model.
_HEADS = {
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "QUESTION_ANS": "ForQuestionAnswering",
    "FEATURE_EXTRACTION": "Model",
}

# Types of adapters that put trained vectors before the tokens of texts.
_PROMPTS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT")


@dataclass(frozen=True)
class PeftAdapter:
    """The folder of a peft adapter.

    Attributes:
        folder: The folder.
        base: The base model that it names, a folder or a Hub id.
        config: The content of `adapter_config.json`.
    """

    folder: Path
    base: str
    config: dict[str, Any]

    @property
    def model_class(self) -> str | None:
        """The class of the model, or the suffix of its name that names its head; None for the class of the base."""
        if (task := self.config.get("task_type")) is not None:
            return _HEADS.get(task)
        return (self.config.get("auto_mapping") or {}).get("base_model_class")

    @property
    def labels(self) -> list[str]:
        """The labels in the order of the outputs, if `sequence-encoder adapt` has recorded them."""
        record = self.folder / ADAPTER_RECORD
        return list(json.loads(record.read_text("utf-8")).get("labels") or []) if record.is_file() else []

    @property
    def obstacle(self) -> str | None:
        """Why the adapter cannot be merged, or None if it can."""
        if (kind := self.config.get("peft_type")) not in _PROMPTS:
            return None
        return (
            f"has trained prompts ({kind}), which cannot be merged into a model. Load it with peft "
            "(PeftModel.from_pretrained), or train an adapter that can be merged, such as --tuning lora."
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of the weights that replace weights of the base model, such as its head.

        Raises:
            ValueError: If there are no safetensors weights, or they are damaged.
        """
        file = self.folder / _WEIGHTS
        if not file.is_file():
            raise ValueError(
                f"{self.folder} has no {_WEIGHTS}. Weights in other formats are not read, because unpickling can "
                "execute code; save the adapter with safetensors first."
            )
        try:
            with safe_open(file, framework="pt") as weights:
                names = list(weights.keys())
                return {name.removeprefix(_PREFIX): tuple(weights.get_slice(name).get_shape()) for name in names}
        except SafetensorError as error:
            raise ValueError(f"The weights in {file} are damaged ({error}); copy or download them again.") from error

    def merged_into(self, load: Callable[[str, dict[str, tuple[int, ...]]], PreTrainedModel]) -> PreTrainedModel:
        """Load the base model, and merge the adapter into it.

        Args:
            load: A function that loads the base model with the head of the adapter, given its name and the shapes of
                the weights that it need not have.

        Raises:
            MissingLibraryError: If peft is not installed.
            ValueError: If the adapter cannot be merged, or does not fit the base model.
        """
        require(f"The peft adapter in {self.folder}", "peft", extra="adapt")
        import peft

        kind = self.config.get("peft_type")
        known = {getattr(name, "value", name): each for name, each in peft.PEFT_TYPE_TO_CONFIG_MAPPING.items()}
        if kind not in known:
            raise ValueError(f"{self.folder} has an adapter of the type {kind!r}, which the installed peft lacks.")
        if self.obstacle is not None:
            raise ValueError(f"{self.folder} {self.obstacle}")
        config = peft.PeftConfig.from_pretrained(str(self.folder))
        if config.revision not in (None, "main") and not os.path.isdir(self.base):
            raise ValueError(
                f"{self.folder} needs the revision {config.revision} of {self.base}. Download it, and set "
                f"base_model_name_or_path in {ADAPTER_CONFIG} to its folder."
            )
        shapes = self.shapes()
        model = load(self.base, shapes)
        try:
            adapted = peft.PeftModel.from_pretrained(model, str(self.folder))
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"The peft adapter in {self.folder} does not fit {self.base}: {error}") from error
        return merge_adapter(adapted)


def find_adapter(checkpoint: str | os.PathLike[str], weights: bool = False) -> PeftAdapter | None:
    """Return the peft adapter that a checkpoint is, or None for any other checkpoint.

    Args:
        checkpoint: A folder or a Hub id. In a folder of `sequence-encoder adapt` whose adapter cannot be merged, the
            adapter is in `adapter`.
        weights: Whether to download its weights from the Hub, too.

    Raises:
        ValueError: If `adapter_config.json` is damaged, or does not name the base model.
    """
    folder = folder_with([ADAPTER_CONFIG, ADAPTER_RECORD, *([_WEIGHTS] if weights else [])], checkpoint)
    if folder is None:
        return None
    inside = folder / "adapter"
    if os.path.isdir(checkpoint) and not (folder / "config.json").is_file() and (inside / ADAPTER_CONFIG).is_file():
        folder = inside
    if not (folder / ADAPTER_CONFIG).is_file():
        return None
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text("utf-8"))
        base = config["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"The {ADAPTER_CONFIG} of {checkpoint} is damaged: {error}") from error
    if not isinstance(base, str) or not base:
        raise ValueError(f"The {ADAPTER_CONFIG} of {checkpoint} names no base model in base_model_name_or_path.")
    # `adapt` writes paths relative to the adapter, so that the folder can be moved.
    if (folder / base).is_dir():
        base = os.path.normpath(folder / base)
    return PeftAdapter(folder, base, config)


def check_merged(model: Any) -> None:
    """Check that a model has no peft adapters in its layers.

    Raises:
        ValueError: If it has, or is a `PeftModel` around them.
    """
    from torch import nn

    if isinstance(model, nn.Module) and any(".base_layer." in name for name in model.state_dict()):
        raise ValueError(
            f"This {type(model).__name__} has peft adapters in its layers. Pass the model that merge_and_unload() of "
            "its PeftModel returns, or remove them with its unload()."
        )


def merge_adapter(model: Any) -> Any:
    """Merge a peft adapter into its model, and return the model.

    peft 0.21 fails to unwrap a module that was trained with IA³ if it contains several layers, so it is unwrapped here.

    Args:
        model: The `PeftModel`, which can no longer be used.
    """
    from peft.utils import ModulesToSaveWrapper

    merged = model.get_base_model()
    for name, module in list(merged.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            merged.set_submodule(name, module.modules_to_save[module.active_adapters[0]])
    return model.merge_and_unload()
