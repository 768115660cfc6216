"""`sequence-encoder inspect`: says from `config.json` alone whether and how a checkpoint can be converted."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING

from ..configuration import SequenceEncoderConfig, TaskAdapterConfig
from ..configuration.parameter_count import count_parameters
from ..saving.auto_classes import of_type
from ..saving.calibration_files import CALIBRATION
from ..saving.code_bundle import BUNDLE_FILES
from ..saving.module_list import MODULE_LIST
from ..saving.saved_code import describe_code
from .configurations import obstacles_to, read_config
from .family import Family
from .formats.gliner import GLINER_CONFIG
from .formats.package_checkpoints import PackageCheckpoint
from .formats.remote_code_checkpoints import RemoteCodeCheckpoint, find_remote_code
from .peft_adapters import find_adapter
from .sidecar_files import download
from .source_models import FAMILIES, config_fields, find_family, transformer_folder
from .source_models import read_config as read_checkpoint_config

# Bytes of a weight.
_DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}
_OURS = "sequence_encoder"


@dataclass(frozen=True)
class Inspection:
    """What the configuration of a checkpoint says about its conversion.

    Attributes:
        checkpoint: The folder or Hub id.
        architecture: The class of the model, such as `BertForMaskedLM`.
        family: The name of the family; `sequence_encoder` for a model of this package; `adapter`
            for an encoder with an adapter; None if it is not supported.
        obstacle: Why the checkpoint cannot be converted with its own head; None if it can.
        heads: For each head of the family, why it cannot be converted with this configuration; None if it can. `Model`
            is the encoder without a head.
        parameters: The number of parameters after the conversion, without the head of an adapter; None if not even the
            encoder can be converted.
        back: The families that a SequenceEncoder can be converted to.
        remote_code: Whether the code of the model is not in transformers, so that the outputs cannot be compared.
        where: Where that code is.
        unknown_fields: Fields of such a model that no table contains, and that could change its outputs.
        code: Whether the code in the folder is what the package wrote, in words; None if the folder has none.
    """

    checkpoint: str
    architecture: str
    family: str | None
    obstacle: str | None
    heads: dict[str, str | None] = field(default_factory=dict)
    parameters: int | None = None
    back: tuple[str, ...] = ()
    remote_code: bool = False
    where: str = "on the Hub"
    unknown_fields: tuple[str, ...] = ()
    code: str | None = None

    @property
    def memory(self) -> dict[str, int]:
        """The bytes of the weights in each dtype; empty if the checkpoint cannot be converted."""
        return {} if self.parameters is None else {name: self.parameters * size for name, size in _DTYPES.items()}

    @property
    def command(self) -> str | None:
        """The command that converts the checkpoint, or its encoder alone; None if neither is possible."""
        options: list[str] = []
        if self.family == _OURS:
            if not self.back:
                return None
            options, suffix = ["--to", self.back[0]], self.back[0]
        elif self.parameters is None:
            return None
        else:
            options, suffix = [] if self.obstacle is None else ["--base_model"], "sequence-encoder"
        # A folder such as `.` has no name of its own.
        name = Path(self.checkpoint).name or Path(self.checkpoint).resolve().name
        target = ["--output_dir", f"{name}-{suffix}"]
        return shlex.join(["sequence-encoder", "convert", self.checkpoint, *target, *options])

    @property
    def verdict(self) -> str:
        """Whether the checkpoint can be converted, and why not."""
        ours = self.family == _OURS
        if self.obstacle is None:
            families = ", ".join(self.back) or "no family, because none has its architecture"
            return f"back to {families}" if ours else "yes"
        return f"{'no' if ours or self.parameters is None else 'only the encoder'}: {self.obstacle}"

    @property
    def next_step(self) -> str:
        """What to do with the checkpoint."""
        if self.family == _OURS:
            use = "load it with transformers' Auto classes, after `import sequence_encoder`"
            return f"{use}; to convert it back, run\n{self.command}" if self.command else use
        if self.command:
            return self.command
        if self.family is None and self.remote_code:
            return "use another checkpoint: this package does not run code from the Hub"
        if self.remote_code:
            return "use it with its own code: a SequenceEncoder cannot have the same outputs"
        return "use it with transformers: a SequenceEncoder cannot have the same outputs"

    def as_dict(self) -> dict[str, Any]:
        """Return all facts with names and values that JSON can store."""
        return {
            "checkpoint": self.checkpoint,
            "architecture": self.architecture,
            "family": self.family,
            "convertible": self.family != _OURS and self.obstacle is None,
            "encoder_convertible": self.family != _OURS and self.parameters is not None,
            "obstacle": self.obstacle,
            "heads": self.heads,
            "parameters": self.parameters,
            "memory": self.memory,
            "to": list(self.back),
            "remote_code": self.remote_code,
            "unknown_fields": list(self.unknown_fields),
            "command": self.command,
            "code": self.code,
        }

    def __str__(self) -> str:
        rows = {
            "checkpoint": self.checkpoint,
            "architecture": self.architecture,
            "family": self.family or "not supported",
            "convertible": self.verdict,
        }
        if self.remote_code and self.family:
            rows["code"] = f"{self.where}; it is not run, so `convert` cannot compare the outputs"
        if self.code is not None:
            rows["code"] = self.code
        if self.unknown_fields:
            rows["unknown"] = f"{', '.join(self.unknown_fields)}: these fields could change the outputs"
        if self.parameters is not None:
            rows |= {"parameters": f"{self.parameters:,}", "memory": in_words(self.memory)}
        rows["next"] = self.next_step
        lines = [f"{name:<14}{value}".replace("\n", f"\n{'':<14}") for name, value in rows.items()]
        if self.heads:
            lines += ["", "heads that this configuration allows (Model is the encoder alone):"]
            same: dict[str | None, str] = {self.obstacle: "no, for the same reason", None: "yes"}
            lines += [f"  {head:<28}{same.get(why, f'no: {why}')}" for head, why in self.heads.items()]
        return "\n".join(lines)


def in_words(memory: dict[str, int]) -> str:
    """Return sizes in words, such as "418 MiB in float32, 209 MiB in bfloat16 or float16".

    Args:
        memory: The bytes for each dtype.
    """
    names: dict[int, list[str]] = {}
    for name, size in memory.items():
        names.setdefault(size, []).append(name)
    return ", ".join(f"{_size(size)} in {' or '.join(same)}" for size, same in names.items())


def _size(size: int) -> str:
    for unit, shift in (("GiB", 30), ("MiB", 20)):
        if size >= 2**shift:
            number = size / 2**shift
            return f"{number:.0f} {unit}" if number >= 99.5 else f"{number:.1f} {unit}"
    return f"{size / 2**10:.1f} KiB"


def inspect(checkpoint: str | os.PathLike[str]) -> Inspection:
    """Find out from its configuration whether and how a checkpoint can be converted. Weights are not read.

    Args:
        checkpoint: A folder or a Hub id.

    Raises:
        OSError: If the configuration is missing or cannot be read.
        ValueError: If it is invalid.
    """
    name = os.fspath(checkpoint)
    if (adapter := find_adapter(transformer_folder(name))) is not None:
        base = read_checkpoint_config(transformer_folder(adapter.base))
        obstacle = None if adapter.obstacle is None else f"it {adapter.obstacle}"
        return _inspect_adapted(name, f"{adapter.config.get('peft_type')} adapter of {adapter.base}", base, obstacle)
    place = _place_of(name)
    if (found := find_remote_code(place, weights=False)) is not None:
        return (
            _inspect_package(name, found) if isinstance(found, PackageCheckpoint) else _inspect_remote_code(name, found)
        )
    fields = config_fields(place)
    if (model_type := fields.get("model_type")) is not None and model_type not in {*CONFIG_MAPPING, _OURS}:
        architecture = next(iter(_architectures(fields, place)), model_type)
        where = "its code is on the Hub" if fields.get("auto_map") else "the installed transformers does not have it"
        obstacle = f"the model type {model_type!r} is not supported; {where}."
        return Inspection(name, architecture, None, obstacle, remote_code=bool(fields.get("auto_map")))
    config = read_checkpoint_config(place)
    if isinstance(config, TaskAdapterConfig):
        return replace(_inspect_adapted(name, "TaskAdapter", config.encoder_config), code=_code(place, config))
    prefix = type(config).__name__.removesuffix("Config")
    architecture = next(iter(_architectures(fields, place)), f"{prefix}Model")
    if isinstance(config, SequenceEncoderConfig):
        return replace(_inspect_ours(name, architecture, config), code=_code(place, config))
    try:
        family, _ = find_family(f"{prefix}Model")
    except ValueError as error:
        return Inspection(name, architecture, None, str(error))
    try:
        _, head = find_family(architecture)
    except ValueError as error:
        return _report(name, architecture, family, None, str(error), config)
    return _report(name, architecture, family, head, None, config)


def _place_of(name: str) -> str | os.PathLike[str]:
    """Return the folder or Hub id with the configuration of the encoder."""
    place = transformer_folder(name)
    if os.path.isdir(name):
        return place
    # Older repositories of sentence-transformers have their encoder in a subfolder.
    folder = download(name, ["config.json", "*/config.json", GLINER_CONFIG, MODULE_LIST])
    inside = transformer_folder(folder)
    return place if inside == folder else inside


def _code(place: str | os.PathLike[str], config: Any) -> str | None:
    """Return whether the code beside a configuration is what the package wrote, in words."""
    folder = (
        place
        if os.path.isdir(place)
        else download(os.fspath(place), [*BUNDLE_FILES, CALIBRATION, "tokenizer_config.json"])
    )
    return describe_code(Path(folder), config)


def _architectures(fields: dict[str, Any], place: str | os.PathLike[str]) -> Iterable[str]:
    found = fields.get("architectures") or []
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ValueError(f"The configuration of {place} is not valid: architectures is {found!r}.")
    return found


def _inspect_adapted(name: str, architecture: str, config: Any, obstacle: str | None = None) -> Inspection:
    """Report on a model with an adapter, which becomes an ordinary model when it is converted.

    Args:
        name: The folder or Hub id.
        architecture: What kind of adapter it is.
        config: The configuration of the encoder.
        obstacle: Why it cannot be converted, if the adapter is the reason.
    """
    if not isinstance(config, SequenceEncoderConfig):
        prefix = type(config).__name__.removesuffix("Config")
        try:
            config = read_config(find_family(f"{prefix}Model")[0], "Model", config)
        except ValueError as error:
            obstacle = obstacle or str(error)
    parameters = None if obstacle else count_parameters(config, "SequenceEncoderModel")
    return Inspection(name, architecture, "adapter", obstacle, parameters=parameters)


def _inspect_ours(name: str, architecture: str, config: SequenceEncoderConfig) -> Inspection:
    head = architecture.removeprefix("SequenceEncoder")
    if architecture not in of_type(_OURS):
        raise ValueError(f"{name} has the architecture {architecture!r}, which is not a model of this package.")
    has_pooler = config.pooler_act is not None
    # The command writes the heads for retrieval beside the encoder.
    back_head = "Model" if head == "ForRetrieval" else head
    back = tuple(each for each, family in FAMILIES.items() if not obstacles_to(family, back_head, config, has_pooler))
    quantized = getattr(config, "quantization_config", None) is not None
    obstacle = "its weights are quantized; convert the original model" if quantized else None
    parameters = count_parameters(config, architecture)
    return Inspection(name, architecture, _OURS, obstacle, parameters=parameters, back=back)


def _inspect_package(name: str, found: PackageCheckpoint) -> Inspection:
    family, obstacle, parameters = None, None, None
    try:
        family = found.family
        found.check()
        parameters = count_parameters(found.config({})[0], found.model_class)
    except ValueError as error:
        obstacle = str(error)
    except OSError:
        # The tokenizer is not there, which is only known to be needed for the number of parameters.
        pass
    more: dict[str, Any] = {"remote_code": True, "where": found.where}
    return Inspection(name, found.architecture, family, obstacle, parameters=parameters, **more)


def _inspect_remote_code(name: str, found: RemoteCodeCheckpoint) -> Inspection:
    more: dict[str, Any] = {"remote_code": True, "unknown_fields": tuple(found.unknown_fields)}
    obstacle = None
    try:
        found.named_head()
    except ValueError as error:
        obstacle = str(error)
    try:
        config = found.config
    except ValueError as error:
        return Inspection(name, found.architecture, found.family.name, str(error), **more)
    return _report(name, found.architecture, found.table, found.head, obstacle, config, **more)


def _report(
    name: str, architecture: str, family: Family, head: str | None, obstacle: str | None, config: Any, **more: Any
) -> Inspection:
    """Report on a checkpoint of a supported family.

    Args:
        name: The folder or Hub id.
        architecture: The class of the model.
        family: Its family.
        head: The head of its class; None if that is not supported.
        obstacle: Why it is not supported.
        config: Its configuration.
        **more: Further attributes of the report.
    """
    heads = {each: _obstacle(family, each, config) for each in family.heads}
    if head is not None:
        obstacle = heads[head]
    counted = head if head is not None and obstacle is None else "Model"
    parameters = None
    if heads[counted] is None:
        parameters = count_parameters(read_config(family, counted, config), f"SequenceEncoder{counted}")
    return Inspection(name, architecture, family.name, obstacle, heads, parameters, **more)


def _obstacle(family: Family, head: str, config: Any) -> str | None:
    try:
        read_config(family, head, config)
    except ValueError as error:
        return str(error)
    return None
