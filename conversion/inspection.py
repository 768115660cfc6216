"""`sequence-encoder inspect`: says from `config.json` alone whether and how a checkpoint can be converted."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from .. import modeling
from ..configuration import SequenceEncoderConfig
from .convert import obstacles_to, read_config
from .source_models import FAMILIES, find_family, transformer_folder
from .source_models import read_config as read_checkpoint_config

# Bytes of a weight in each dtype that the report shows.
_DTYPES = {"float32": 4, "bfloat16 or float16": 2}


@dataclass(frozen=True)
class Inspection:
    """What the configuration of a checkpoint says about its conversion.

    Attributes:
        checkpoint: The folder or Hub id.
        architecture: The class of the model, such as `BertForMaskedLM`.
        family: The name of the family; None if it is not supported.
        obstacle: Why the checkpoint cannot be converted with its own head; None if it can.
        heads: For each head of the family, why it cannot be converted with this configuration; None if it can.
        parameters: The number of parameters after the conversion; None if not even the encoder can be converted.
        back: The families that a SequenceEncoder can be given back to.
    """

    checkpoint: str
    architecture: str
    family: str | None
    obstacle: str | None
    heads: dict[str, str | None] = field(default_factory=dict)
    parameters: int | None = None
    back: tuple[str, ...] = ()

    @property
    def command(self) -> str | None:
        """The command that converts the checkpoint, or its encoder alone; None if neither is possible."""
        if self.parameters is None or self.family == "sequence_encoder":
            return None
        source = self.checkpoint
        base_model = "" if self.obstacle is None else " --base-model"
        target = f"{Path(source.rstrip('/')).name}-sequence-encoder"
        return f"sequence-encoder convert {source} {target}{base_model}"

    def __str__(self) -> str:
        verdict = f"no: {self.obstacle}" if self.obstacle else "yes"
        if self.family == "sequence_encoder":
            verdict = "it is a SequenceEncoder; it can be given back to " + (", ".join(self.back) or "no family")
        elif self.obstacle and self.parameters is not None:
            verdict += " Its encoder can be converted."
        rows = {"checkpoint": f"{self.checkpoint}, {self.architecture}", "family": self.family or "not supported"}
        rows["convertible"] = verdict
        if self.parameters is not None:
            sizes = (f"{self.parameters * size / 2**20:,.0f} MiB in {name}" for name, size in _DTYPES.items())
            rows |= {"parameters": f"{self.parameters:,}", "weights": ", ".join(sizes)}
        if self.command:
            rows["command"] = self.command
        lines = [f"{name:<12} {value}" for name, value in rows.items()]
        if self.heads:
            lines += ["", "heads that this configuration allows:"]
            lines += [f"  {head:<26} {f'no: {why}' if why else 'yes'}" for head, why in self.heads.items()]
        return "\n".join(lines)


def inspect(checkpoint: str | os.PathLike[str]) -> Inspection:
    """Find out from its configuration whether and how a checkpoint can be converted. Weights are not read.

    Args:
        checkpoint: A folder or a Hub id.

    Raises:
        OSError: If the configuration is missing or cannot be read.
        ValueError: If it is invalid.
    """
    name = os.fspath(checkpoint)
    config = read_checkpoint_config(transformer_folder(checkpoint))
    prefix = type(config).__name__.removesuffix("Config")
    architectures: Any = config.architectures or []
    architecture = str(architectures[0]) if architectures else f"{prefix}Model"
    if isinstance(config, SequenceEncoderConfig):
        head = architecture.removeprefix("SequenceEncoder")
        back = tuple(
            name for name, family in FAMILIES.items() if not obstacles_to(family, head, config, bool(config.pooler_act))
        )
        return Inspection(name, architecture, "sequence_encoder", None, parameters=_parameters(head, config), back=back)
    try:
        family, _ = find_family(f"{prefix}Model")
    except ValueError as error:
        return Inspection(name, architecture, None, str(error))
    heads = {head: _obstacle(family, head, config) for head in family.heads}
    try:
        _, head = find_family(architecture)
        obstacle = heads[head]
    except ValueError as error:
        head, obstacle = "Model", str(error)
    counted = head if obstacle is None else "Model"
    parameters = None if heads[counted] else _parameters(counted, read_config(family, counted, config))
    return Inspection(name, architecture, family.name, obstacle, heads, parameters)


def _obstacle(family: Any, head: str, config: PreTrainedConfig) -> str | None:
    try:
        read_config(family, head, config)
    except ValueError as error:
        return str(error)
    return None


def _parameters(head: str, config: SequenceEncoderConfig) -> int:
    """Count the parameters of a model, which is built without memory for its weights."""
    with torch.device("meta"):
        return int(getattr(modeling, f"SequenceEncoder{head}")(config).num_parameters())
