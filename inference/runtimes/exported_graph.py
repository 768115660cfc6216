"""Runs the graph of an exported model, with what pipelines and `predict` ask of a model with a head.

Shapes: B batch, S sequence.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from transformers.utils import ModelOutput

from ...configuration import SequenceEncoderConfig
from ...modeling import SequenceEncoderForSequenceClassification
from ...modeling.calibration.calibration import Calibration
from ...modeling.text_encoding.text_length import TextLengthMixin
from .similar_lengths import similar_lengths


class ExportedGraph:
    """The graph of an exported model. Threads may share it.

    Args:
        exported: The `ExportedModel` of transformers.

    Attributes:
        outputs: The structure of its outputs, with their names.
    """

    def __init__(self, exported: Any) -> None:
        self.exported = exported
        self.config: SequenceEncoderConfig = exported.config
        self.device: torch.device = exported.device
        self.dtype: torch.dtype = exported.dtype
        (component,) = exported.components.values()
        self._inputs = tuple(component.metadata.kwargs)
        self.outputs = str(component.metadata.out_spec)
        # OpenVINO rejects a request while another one runs.
        is_openvino = exported.export_format == "openvino"
        self._running: AbstractContextManager[Any] = threading.Lock() if is_openvino else nullcontext()

    @property
    def runs_groups(self) -> bool:
        """Whether to run texts of similar length together. Such small batches do not keep a GPU busy."""
        return self.device.type == "cpu"

    def __call__(self, **inputs: Any) -> Any:
        """Run the graph on the outputs of a tokenizer, and return what the model returns.

        Args:
            **inputs: Tensors or arrays (B, S), such as `input_ids` and `attention_mask`. Others than those of the graph
                are ignored.

        Raises:
            ValueError: If an input of the graph is missing, or has another shape than the others.
        """
        # OpenVINO would compute with other values.
        given = [name for name, value in inputs.items() if value is not None]
        if missing := [name for name in self._inputs if name not in given]:
            raise ValueError(f"The graph also needs {' and '.join(missing)}, got only {', '.join(given) or 'none'}.")
        tensors = {name: torch.as_tensor(inputs[name]) for name in self._inputs}
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if len(set(shapes.values())) > 1:
            found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ValueError(f"All inputs must have the same shape, got {found}.")
        return ModelOutput(self._compute(tensors))

    def _compute(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        with self._running:
            return self.exported(**inputs)


class ExportedHead(TextLengthMixin, ExportedGraph):
    """An exported model with a head. The name of its class is that of the model.

    Load one with `load_exported_head`.

    Args:
        exported: The `ExportedModel` of transformers.
        calibration: Its calibration, if it has one.
    """

    def __init__(self, exported: Any, calibration: Calibration | None) -> None:
        super().__init__(exported)
        self.calibration = calibration

    def _compute(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Run the graph. A classifier runs texts of similar length together."""
        # Transformers can export a model without this input.
        mask = inputs.get("attention_mask", torch.empty(0)) != 0
        if not (is_classifier(self) and mask.numel() and self.runs_groups):
            return super()._compute(inputs)
        # The number of columns up to the last token, since padding may also be on the left.
        lengths = (mask * torch.arange(1, mask.shape[1] + 1)).amax(dim=1).clamp(min=1).tolist()
        groups, places = similar_lengths(lengths)
        run = super()._compute
        parts = [run({name: each[group, : lengths[group[-1]]] for name, each in inputs.items()}) for group in groups]
        return {name: torch.cat([part[name] for part in parts])[places] for name in parts[0]}

    @property
    def base_model(self) -> ExportedHead:
        """The model itself, since a graph has no parts."""
        return self

    def forward(self, **inputs: Any) -> Any:
        """Run the graph."""
        return self(**inputs)

    def can_generate(self) -> bool:
        """Return whether the model generates text."""
        return False

    def to(self, device: Any) -> ExportedHead:
        """Return the model, whose device was chosen when it was loaded."""
        return self


def is_classifier(model: Any) -> bool:
    """Return whether a model, which may be exported, has a head for sequence classification."""
    kind = SequenceEncoderForSequenceClassification
    return isinstance(model, kind) or (isinstance(model, ExportedHead) and type(model).__name__ == kind.__name__)
