"""Adds a PEFT adapter to an encoder, continues to train one, and records where it came from."""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...command_line import UsageError
from ...saving.model_files import ADAPTER_RECORD
from .arguments import TUNINGS, AdaptedModelArguments

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Modules of heads that pretrained encoders usually lack. They are trained with every adapter.
_HEAD_PARTS = ("classifier", "qa_outputs", "head", "pooler")
# The PEFT type of each tuning method, and whether it uses DoRA.
_KINDS = {"lora": ("LORA", False), "dora": ("LORA", True), "ia3": ("IA3", False)}


def _peft_config(arguments: AdaptedModelArguments, **options: Any) -> Any:
    import peft

    if arguments.tuning == "prompt":
        return peft.PromptTuningConfig(num_virtual_tokens=arguments.prompt_length, **options)
    if arguments.tuning == "ia3":
        return peft.IA3Config(**options)
    sizes: dict[str, Any] = {"r": arguments.rank, "lora_alpha": 2 * arguments.rank, "lora_dropout": 0.05}
    return peft.LoraConfig(**sizes, use_dora=arguments.tuning == "dora", **options)


def apply_tuning(model: PreTrainedModel, arguments: AdaptedModelArguments, peft_task: str | None) -> Any:
    """Freeze the weights that are not trained, and wrap the model with PEFT if an adapter is trained.

    Raises:
        UsageError: If `--from_adapter` does not fit the encoder.
    """
    if arguments.tuning == "head":
        cast("PreTrainedModel", model.base_model).requires_grad_(False)
        for name, module in model.base_model.named_children():
            # The pooler belongs to the new head although it is part of the base model.
            module.requires_grad_(name == "pooler")
    if not TUNINGS[arguments.tuning].is_peft:
        return model
    import peft

    if arguments.from_adapter is not None:
        return _from_adapter(model, arguments.from_adapter, str(arguments.model))
    parts = {name.rpartition(".")[2] for name, module in model.named_modules() if list(module.parameters())}
    heads = [part for part in _HEAD_PARTS if part in parts]
    # For prompt tuning, PEFT itself finds the head of the task.
    options = {} if arguments.tuning == "prompt" else {"modules_to_save": heads}
    return peft.get_peft_model(model, _peft_config(arguments, task_type=peft_task, **options))


def _from_adapter(model: PreTrainedModel, folder: str, checkpoint: str) -> Any:
    import peft

    try:
        return peft.PeftModel.from_pretrained(model, folder, is_trainable=True)
    except RuntimeError as error:
        raise UsageError(f"--from_adapter {folder} does not fit {checkpoint}: {error}") from error


def record_adapter(folder: Path, base: str, checkpoint: str, labels: list[str]) -> None:
    """Add the base model, the weights' digest and the labels to an adapter's folder, and remove local paths.

    Args:
        folder: The folder that PEFT saved the adapter in.
        base: The base model of the adapter: a Hub id, or a path relative to `folder`.
        checkpoint: The encoder that the user named.
        labels: The labels in the order of the outputs.
    """
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "base_model_name_or_path": base}, indent=2), encoding="utf-8")
    # PEFT's card contains the encoder's path on this disk.
    (folder / "README.md").unlink(missing_ok=True)
    origin = Path(checkpoint).resolve().name if Path(checkpoint).exists() else checkpoint
    recorded = {"from": origin, "weights": _digest(checkpoint), "labels": labels}
    (folder / ADAPTER_RECORD).write_text(json.dumps(recorded, indent=1), encoding="utf-8")


def _digest(checkpoint: str) -> str | None:
    """Return a digest of a local checkpoint's weights, wherever its folder is, or None for a Hub id."""
    from ...conversion.source_models import transformer_folder

    files = sorted(Path(transformer_folder(checkpoint)).glob("*.safetensors")) if Path(checkpoint).is_dir() else []
    digest = blake2b(digest_size=16)
    for file in files:
        with file.open("rb") as weights:
            while piece := weights.read(2**20):
                digest.update(piece)
    return digest.hexdigest() if files else None


def check_adapter(arguments: AdaptedModelArguments, labels: list[str]) -> list[str]:
    """Check that `--from_adapter` fits the encoder, the labels and the tuning method.

    Returns:
        The labels in the order of the adapter's head, or `labels` if the adapter has not recorded any.

    Raises:
        UsageError: If the adapter does not fit.
    """
    folder = Path(str(arguments.from_adapter))
    named = f"--from_adapter {folder}"
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        record = folder / ADAPTER_RECORD
        recorded = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
        base, kind = config["base_model_name_or_path"], (config["peft_type"], bool(config.get("use_dora")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{named} is not the folder of a PEFT adapter: {error}") from error
    origin = recorded.get("from", base)
    weights = recorded.get("weights")
    if not any(_same(arguments.model, each) for each in (base, origin, str(folder.parent / "base"))) and (
        weights is None or weights != _digest(arguments.model)
    ):
        raise UsageError(
            f"{named} is an adapter of {origin}, and does not work with {arguments.model}. Pass the encoder "
            "that it was trained on."
        )
    if kind != _KINDS[arguments.tuning]:
        raise UsageError(
            f"{named} has type {kind[0]} with use_dora={kind[1]}, which is not --tuning {arguments.tuning}."
        )
    known = recorded.get("labels") or labels
    if set(known) != set(labels):
        raise UsageError(f"{named} has the labels {', '.join(known)}, but the examples have {', '.join(labels)}.")
    return list(known)


def _same(one: str, other: str | None) -> bool:
    return one == other or (other is not None and Path(other).exists() and Path(other).resolve() == Path(one).resolve())
