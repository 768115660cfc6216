"""A graph of a model: checks the model, traces it, saves the graph, and compares the saved file with the model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from ...command_line.progress import Steps
from ...conversion.command import SAMPLES, in_float32
from ...conversion.peft_adapters import check_merged
from ...modeling import (
    SequenceEncoderForZeroShotClassification,
    SequenceEncoderModel,
    SequenceEncoderPreTrainedModel,
)
from ...modeling.graph_layouts import GraphLayout, PlainLayout
from ...modeling.heads.label_prompts import SAMPLE_LABELS
from ...modeling.layouts import PaddedLayout
from ...modeling.quantized.eight_bit_linear import EightBitLinear
from ...modeling.text_encoding.evaluation_mode import evaluation_mode
from .comparison import ExportCheck, Inputs, compare
from .graphs import ModelWithOwnSegments, exporter_of, graph_module, input_names, sample_inputs, trace
from .loading import open_exported, runtime_options
from .quiet import quiet_exporters
from .requirements import FORMATS, check_format

# Number of times that the batch for the measurement of speed repeats the sample texts.
_REPEATED = 4


class TracedGraph:
    """A graph that can be written. Everything is checked before it is traced.

    Args:
        model: See `export`.
        tokenizer: See `export`.
        to: See `export`.
        pooled: See `export`.
        padded: Whether the layers compute padding.
        own_segments: Whether the graph finds the segments of pairs itself, if the model has segments.

    Attributes:
        model: The model.
        encoder: Its encoder.
        module: What is traced.
        batches: Sample inputs.

    Raises:
        MissingLibraryError: If a library is missing or too old.
        ValueError: If an argument is not allowed.
    """

    # What a graph that is written in steps shows.
    steps = ("tracing the graph", "writing the graph", "comparing the outputs")

    def __init__(
        self,
        model: SequenceEncoderPreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        to: str,
        pooled: bool,
        padded: bool = False,
        own_segments: bool = False,
    ) -> None:
        check_format(to)
        _check_model(model)
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise ValueError(f"tokenizer must be a transformers tokenizer, got a {type(tokenizer).__name__}.")
        self.to, self.model, self.pooled, self.padded = to, model, pooled, padded
        self.own_segments = own_segments
        self.layout: type[PaddedLayout] = PlainLayout if padded else GraphLayout
        self.module = graph_module(model, pooled, with_states=FORMATS[to].several_dtypes)
        self.encoder = cast(SequenceEncoderModel, model.base_model)
        self.longest = self.encoder.longest_text(tokenizer)
        names = input_names(model, tokenizer)
        if own_segments and "token_type_ids" in names:
            self.module = _with_own_segments(self.module, tokenizer)
            names = names[:2]
        ids: Any
        if isinstance(model, SequenceEncoderForZeroShotClassification):
            ids = model.label_prompts(SAMPLES, SAMPLE_LABELS, tokenizer, self.longest)["input_ids"]
        else:
            ids = [tokenizer(text)["input_ids"][: self.longest] for text in SAMPLES]
        self.batches = [sample_inputs(model, texts, names) for texts in (ids[:1], ids, ids * _REPEATED)]

    def write(self, folder: Path, steps: Steps) -> tuple[ExportCheck, dict[str, tuple[str, ...]]]:
        """Trace the model, write the graph and the configuration into a folder, and compare them with the model.

        Args:
            folder: The folder.
            steps: The progress, to which `steps` are added.

        Returns:
            The result of the comparison, and the shapes of the outputs in words.

        Raises:
            MissingLibraryError: If a library is too old.
            ValueError: If the outputs differ.
        """
        tracing, writing, comparing = self.steps
        # As `save_pretrained` does. Pipelines read it.
        self.model.config.architectures = [type(self.encoder if self.pooled else self.model).__name__]
        with ExitStack() as stack:
            stack.enter_context(evaluation_mode(self.module))
            stack.enter_context(in_float32(self.model))
            stack.enter_context(torch.no_grad())
            with quiet_exporters():
                steps.begin(tracing)
                traced = trace(exporter_of(self.to), self.module, self.batches[1], self.layout)
                steps.begin(writing)
                traced.save_pretrained(folder)
            steps.begin(comparing)
            return _check(self.to, self.module, folder, self.batches)

    @torch.no_grad()
    def outputs(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        """Return the outputs of the model in float32."""
        with evaluation_mode(self.module), in_float32(self.model):
            return dict(self.module(**inputs))


def _with_own_segments(module: nn.Module, tokenizer: PreTrainedTokenizerBase) -> ModelWithOwnSegments:
    """Let a model find the segments of pairs, and check that it finds those of the tokenizer."""
    found = ModelWithOwnSegments(module, cast(int, tokenizer.sep_token_id))
    pair = tokenizer(*SAMPLES[:2], return_tensors="pt")
    if not torch.equal(found.segments(pair["input_ids"]), pair["token_type_ids"]):
        raise ValueError(
            "The second text of a pair must begin after the separator of the tokenizer, since transformers.js does not "
            "know its segments. Export to transformers.js without a layout instead."
        )
    return found


def _check_model(model: Any) -> None:
    check_merged(model)
    if not isinstance(model, SequenceEncoderPreTrainedModel):
        raise ValueError(f"model must be a SequenceEncoder, got a {type(model).__name__}; convert it with `convert`.")
    if model.device.type != "cpu":
        raise ValueError(f"model must be on the CPU, got {model.device}; move it there with model.to('cpu').")
    if model.dtype == torch.float64:
        raise ValueError("model must be in float32, bfloat16 or float16, got float64; call model.float().")
    implementation = model.config._attn_implementation
    if implementation not in ("sdpa", "eager"):
        raise ValueError(
            f"attn_implementation must be 'sdpa' or 'eager' to export a model, got {implementation!r}; call "
            "model.set_attn_implementation('sdpa')."
        )
    for name, needed in (("return_dict", True), ("output_hidden_states", False), ("output_attentions", False)):
        if bool(getattr(model.config, name, needed)) != needed:
            raise ValueError(f"config.{name} must be {needed} to export a model, got {not needed}.")


def _check(
    to: str, module: nn.Module, folder: Path, batches: Sequence[Inputs]
) -> tuple[ExportCheck, dict[str, tuple[str, ...]]]:
    """Compare the saved file with the model, and return the result and the shapes of the outputs in words."""
    # The file that was just written is safe to run.
    options = {"trust_remote_code": FORMATS[to].runs_code, **runtime_options(FORMATS[to].backend)}
    exported = open_exported(folder, device="cpu", **options)
    eight_bits = any(isinstance(layer, EightBitLinear) for layer in module.modules())
    check = compare(to, module, exported, batches, eight_bits)
    # The first two batches differ in the number of texts and of tokens.
    one, other = (exported(**batch) for batch in batches[:2])
    pairs = {name: (one[name].shape[1:], other[name].shape[1:]) for name in one}
    shapes = {
        name: ("batch", *(str(size) if size == again else "sequence" for size, again in zip(*sizes, strict=True)))
        for name, sizes in pairs.items()
    }
    return check, shapes
