"""The checks of the exporters, in place of transformers' own, which the archive lacks.

Each model is exported with fixed and with dynamic shapes, and its exported program must return what it returns.
"""

import logging
from typing import Any

import pytest
import torch
from parameterized import parameterized

pytest.importorskip("transformers.exporters.runners", reason="older releases cannot run exported models")

from transformers.exporters.auto import get_exporter_class

# Fixed shapes make few differences once a program is traced.
_FORMATS = [("dynamo", False), ("dynamo", True), ("onnx", True), ("openvino", True)]
# OpenVINO otherwise computes in bfloat16 if the processor has instructions for it.
_OPTIONS = {"openvino": {"config": {"INFERENCE_PRECISION_HINT": "f32"}}}
_TOLERANCE = 1e-3
# Pytest would keep the many records of each trace.
logging.getLogger("torch.__trace").setLevel(logging.WARNING)


class ExportTesterMixin:
    """Tests that every class of a model can be exported."""

    model_tester: Any
    all_model_classes: Any
    _prepare_for_class: Any

    @parameterized.expand(_FORMATS, name_func=lambda test, _, given: f"{test.__name__}_{given.args[0]}_{given.args[1]}")
    @torch.no_grad()
    def test_export(self, to: str, dynamic: bool) -> None:
        """Export each class, and compare the outputs."""
        exporter: Any = get_exporter_class(to)()
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        for model_class in self.all_model_classes:
            model = model_class(config).eval()
            given = self._prepare_for_class(inputs, model_class)
            expected = model(**given)
            exported = exporter.export(model, dict(given), exporter.config_class(dynamic=dynamic))
            found = exported.to("cpu", **_OPTIONS.get(to, {}))(**given)
            for name, tensor in expected.items():
                if isinstance(tensor, torch.Tensor):
                    scale = max(1.0, float(tensor.clamp(min=-1e30).abs().max()))
                    difference = (tensor.clamp(min=-1e30) - found[name].clamp(min=-1e30)).abs().max()
                    assert float(difference) < _TOLERANCE * scale, f"{model_class.__name__}: {name}"
