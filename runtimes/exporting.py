"""Exports a model to a folder: traces it, checks the saved file against the model, and only then keeps the folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..cards.inherited_fields import inherited_card_fields
from ..command_line.progress import Steps
from ..conversion.command import SAMPLES, in_float32
from ..conversion.peft_adapters import check_merged
from ..modeling import (
    SequenceEncoderForMultipleChoice,
    SequenceEncoderForSpanExtraction,
    SequenceEncoderForZeroShotClassification,
    SequenceEncoderModel,
    SequenceEncoderPreTrainedModel,
)
from ..modeling.calibration.calibration import calibration_of
from ..modeling.heads.label_prompts import SAMPLE_LABELS
from ..modeling.quantized.eight_bit_linear import EightBitLinear
from ..modeling.text_encoding.evaluation_mode import evaluation_mode
from ..modeling.text_encoding.recipe_files import write_recipe
from ..saving.whole_folders import atomic_folder, check_replaceable
from .card import write_card
from .comparison import ExportCheck, Inputs, compare
from .exported_extractor import write_head
from .graphs import (
    exporter_of,
    graph_module,
    input_names,
    sample_inputs,
    trace,
)
from .loading import open_exported, runtime_options
from .quiet import quiet_exporters
from .requirements import FORMATS, check_format

# Number of times that the batch for the measurement of speed repeats the sample texts.
_REPEATED = 4


def export(
    model: SequenceEncoderPreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | os.PathLike[str],
    to: str = "onnx",
    *,
    pooled: bool = False,
    replace: bool = False,
) -> ExportCheck:
    """Export a model to a format of another runtime, with its tokenizer and a card.

    The graph takes any number of texts of any length, in float32. In its layers, only attention computes padding. Those
    in eight bits keep their weights and scales, and multiply integers, except in torch programs. The graph is saved
    only if its outputs on sample texts are those of the model; with eight bits, if their cosines are at least 0.99.

    Args:
        model: The model, on the CPU.
        tokenizer: The tokenizer of the model.
        folder: The folder to write. It is complete or absent, even if the export fails.
        to: The format, `onnx`, `openvino` or `torch`.
        pooled: Whether the graph of an encoder ends with the pooling and the normalisation of its embedding recipe. Its
            only output is then `sentence_embedding`.
        replace: Whether to replace `folder` if it contains a saved model.

    Returns:
        What the comparison of both models has found.

    Raises:
        MissingLibraryError: If a library is missing or too old. This is checked first.
        FileExistsError: If `folder` exists and must not be replaced.
        ValueError: If an argument is not allowed, or if the outputs differ. Nothing is written then.
    """
    source = getattr(model, "name_or_path", "")
    inherited = inherited_card_fields(Path(source)) if source else {}
    check_format(to)
    if source and Path(source).exists():
        check_replaceable(Path(folder), replace, "replace=True", kept=Path(source))
    with checked_export(model, tokenizer, folder, to, pooled, inherited, (replace, "replace=True")) as check:
        return check


@contextmanager
def checked_export(
    model: SequenceEncoderPreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | os.PathLike[str],
    to: str,
    pooled: bool,
    inherited: Mapping[str, Any],
    may_replace: tuple[bool, str],
) -> Iterator[ExportCheck]:
    """Export a model, and yield the result of the check before the folder appears.

    Args:
        model: See `export`.
        tokenizer: See `export`.
        folder: See `export`.
        to: See `export`.
        pooled: See `export`.
        inherited: The fields of the source's card that derived models inherit.
        may_replace: Whether to replace a saved model, and the option by which the user allows that.
    """
    check_format(to)
    _check_model(model)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ValueError(f"tokenizer must be a transformers tokenizer, got a {type(tokenizer).__name__}.")
    module = graph_module(model, pooled)
    encoder = cast(SequenceEncoderModel, model.base_model)
    longest = encoder.longest_text(tokenizer)
    check_replaceable(Path(folder), *may_replace)
    with quiet_exporters():
        exporter = exporter_of(to)
    names = input_names(model, tokenizer)
    if isinstance(model, SequenceEncoderForZeroShotClassification):
        ids = model.label_prompts(SAMPLES, SAMPLE_LABELS, tokenizer, longest)["input_ids"]
    else:
        ids = [tokenizer(text)["input_ids"][:longest] for text in SAMPLES]
    batches = [sample_inputs(model, texts, names) for texts in (ids[:1], ids, ids * _REPEATED)]
    # As `save_pretrained` does. Pipelines read it.
    model.config.architectures = [type(encoder if pooled else model).__name__]
    with atomic_folder(Path(folder), *may_replace) as written, ExitStack() as stack:
        steps = stack.enter_context(Steps(f"Exporting to {FORMATS[to].title}", 3))
        stack.enter_context(evaluation_mode(module))
        stack.enter_context(in_float32(model))
        stack.enter_context(torch.no_grad())
        with quiet_exporters():
            steps.begin("tracing the graph")
            traced = trace(exporter, module, batches[1])
            steps.begin("writing the graph")
            traced.save_pretrained(written)
        tokenizer.save_pretrained(written)
        if isinstance(model, SequenceEncoderForSpanExtraction) and not pooled:
            write_head(written, model)
        recipe = encoder.recipe_for() if pooled else encoder.embedding_recipe
        if model is encoder and recipe is not None:
            write_recipe(written, recipe, model.config.hidden_size)
        if not pooled and (calibration := calibration_of(model)) is not None:
            calibration.write(written)
        steps.begin("comparing the outputs")
        check, shapes = _check(to, module, written, batches)
        dimensions = {name: tensor.dim() for name, tensor in batches[1].items()}
        if isinstance(model, SequenceEncoderForMultipleChoice):
            shapes["logits"] = ("batch", "choices")
        write_card(written, Path(folder).resolve().name, model, check, inherited, dimensions, shapes)
        steps.close()
        yield check


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
    options = {"trust_remote_code": FORMATS[to].runs_code, **runtime_options(to)}
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
