"""Adapters of peft: made for an encoder, trained further, and recorded with where they are from."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...command_line import UsageError
from ...saving.model_files import ADAPTER_RECORD
from .arguments import AdaptedModelArguments

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Parts of heads that a pretrained encoder as a rule does not have, and that are trained with any adapter.
_HEAD_PARTS = ("classifier", "qa_outputs", "head", "pooler")
# peft's name of each, and whether it is DoRA.
_KINDS = {"lora": ("LORA", False), "dora": ("LORA", True), "ia3": ("IA3", False)}


def _lora(arguments: AdaptedModelArguments, **options: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=arguments.rank, lora_alpha=2 * arguments.rank, lora_dropout=0.05, **options)


def _dora(arguments: AdaptedModelArguments, **options: Any) -> Any:
    return _lora(arguments, use_dora=True, **options)


def _ia3(arguments: AdaptedModelArguments, **options: Any) -> Any:
    from peft import IA3Config

    return IA3Config(**options)


def _prompt(arguments: AdaptedModelArguments, **options: Any) -> Any:
    from peft import PromptTuningConfig

    return PromptTuningConfig(num_virtual_tokens=arguments.prompt_length, **options)


_PEFT_CONFIGS: dict[str, Callable[..., Any]] = {"lora": _lora, "dora": _dora, "ia3": _ia3, "prompt": _prompt}


def tuned(model: PreTrainedModel, arguments: AdaptedModelArguments, peft_task: str | None) -> Any:
    """The model with the weights frozen that are not trained, wrapped by peft where that trains.

    Args:
        model: with its head.
        arguments: say which way, and its sizes.
        peft_task: peft's name for the task, None if it has none.

    Raises:
        UsageError: if an adapter is of another encoder.
    """
    if arguments.tuning == "head":
        cast("PreTrainedModel", model.base_model).requires_grad_(False)
        for name, module in model.base_model.named_children():
            # Of a new head, whichever side of the base it stands on.
            module.requires_grad_(name == "pooler")
    if arguments.tuning not in _PEFT_CONFIGS:
        return model
    import peft

    if arguments.from_adapter is not None:
        return _from_adapter(model, arguments.from_adapter, str(arguments.from_checkpoint))
    parts = {name.rpartition(".")[2] for name, module in model.named_modules() if list(module.parameters())}
    heads = [part for part in _HEAD_PARTS if part in parts]
    # Prompt tuning trains the head that peft knows for the task by itself.
    options = {} if arguments.tuning == "prompt" else {"modules_to_save": heads}
    return peft.get_peft_model(model, _PEFT_CONFIGS[arguments.tuning](arguments, task_type=peft_task, **options))


def _from_adapter(model: PreTrainedModel, folder: str, checkpoint: str) -> Any:
    import peft

    try:
        return peft.PeftModel.from_pretrained(model, folder, is_trainable=True)
    except RuntimeError as error:
        raise UsageError(f"--from_adapter {folder} does not fit --from {checkpoint}: {error}") from error


def record_adapter(folder: Path, base: str, checkpoint: str, labels: list[str]) -> None:
    """Writes into the folder of an adapter what peft does not, and nothing that only holds on this disk.

    Args:
        folder: in which peft has saved the adapter.
        base: what the adapter is loaded with: a Hub id, or a path from `folder`.
        checkpoint: what was asked for.
        labels: in their order.
    """
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "base_model_name_or_path": base}, indent=2), encoding="utf-8")
    # It names the path of the encoder.
    (folder / "README.md").unlink(missing_ok=True)
    origin = Path(checkpoint).resolve().name if Path(checkpoint).exists() else checkpoint
    told = {"from": origin, "weights": _digest(checkpoint), "labels": labels}
    (folder / ADAPTER_RECORD).write_text(json.dumps(told, indent=1), encoding="utf-8")


def _digest(checkpoint: str) -> str | None:
    """Tells the weights of a local checkpoint from others, wherever it is moved; None for a Hub id."""
    from ...conversion.source_models import transformer_folder

    files = sorted(Path(transformer_folder(checkpoint)).glob("*.safetensors")) if Path(checkpoint).is_dir() else []
    digest = blake2b(digest_size=16)
    for file in files:
        with file.open("rb") as weights:
            while piece := weights.read(2**20):
                digest.update(piece)
    return digest.hexdigest() if files else None


def check_adapter(arguments: AdaptedModelArguments, labels: list[str]) -> list[str]:
    """Checks that `--from_adapter` is an adapter of this encoder, for these labels and this way of tuning.

    Args:
        arguments: what was asked for.
        labels: of the examples.

    Returns:
        The labels in the order of the adapter's head; those that were given where it has none on record.

    Raises:
        UsageError: if it is another one.
    """
    folder = Path(str(arguments.from_adapter))
    named = f"--from_adapter {folder}"
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        record = folder / ADAPTER_RECORD
        told = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
        base, kind = config["base_model_name_or_path"], (config["peft_type"], bool(config.get("use_dora")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{named} is no folder of a peft adapter: {error}") from error
    origin = told.get("from", base)
    weights = told.get("weights")
    if not any(_same(arguments.from_checkpoint, each) for each in (base, origin, str(folder.parent / "base"))) and (
        weights is None or weights != _digest(arguments.from_checkpoint)
    ):
        raise UsageError(
            f"{named} is an adapter of {origin}, and --from is {arguments.from_checkpoint}: an adapter is of use with "
            "the encoder that it was trained with, and no other."
        )
    if kind != _KINDS[arguments.tuning]:
        raise UsageError(f"{named} is of the kind {kind[0]}, use_dora={kind[1]}, and --tuning {arguments.tuning} not.")
    known = told.get("labels") or labels
    if set(known) != set(labels):
        raise UsageError(f"{named} knows the labels {', '.join(known)}, and the examples have {', '.join(labels)}.")
    return list(known)


def _same(one: str, other: str | None) -> bool:
    return one == other or (other is not None and Path(other).exists() and Path(other).resolve() == Path(one).resolve())
