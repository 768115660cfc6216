"""Loads an exported model with its head as an object that has the methods of the model."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from ...modeling import SequenceEncoderForSpanExtraction, SequenceEncoderForZeroShotClassification
from ...modeling.calibration.calibration import read_calibration
from ...modeling.calibration.layer_vectors import LAYER_VECTORS
from ...modeling.heads.label_prompts import LabelPromptMixin
from .exported_extractor import ExportedExtractor
from .exported_graph import ExportedHead
from .loading import hub_options, load_exported


def load_exported_head(name: str | os.PathLike[str], **options: Any) -> tuple[ExportedHead, PreTrainedTokenizerBase]:
    """Load an exported model with its calibration, and its tokenizer. It computes in float32.

    A model for span extraction is an `ExportedExtractor`.

    Args:
        name: A folder or a Hub id.
        **options: Arguments of `transformers.exporters.ExportedModel.from_pretrained`.

    Raises:
        MissingLibraryError: If the runtime is not installed.
        OSError: If there is no exported model.
        ValueError: If a file cannot be read, or the format is not supported, or can run code and is not trusted.
    """
    hub = hub_options(options)
    exported, tokenizer = load_exported(name, **options)
    # Pipelines compare the name of the class with those that the task supports.
    name_of_class = next(iter(exported.config.architectures or ["ExportedModel"]))
    if name_of_class == SequenceEncoderForSpanExtraction.__name__:
        extractor: type[ExportedExtractor] = type(name_of_class, (ExportedExtractor,), {})
        return extractor.with_head(exported, tokenizer, name, hub), tokenizer
    prompted = name_of_class == SequenceEncoderForZeroShotClassification.__name__
    kind = type(name_of_class, (LabelPromptMixin, ExportedHead) if prompted else (ExportedHead,), {})
    head = kind(exported, read_calibration(name, **hub))
    if head.calibration is not None and head.calibration.needs_vectors and LAYER_VECTORS not in head.outputs:
        # An earlier version has exported it.
        head.calibration = replace(head.calibration, unfamiliarity=None)
    return head, tokenizer
