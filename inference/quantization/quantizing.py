"""Quantizes a model to eight bits, and leaves out the layers that would change its outputs most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ...command_line.counts import counted
from ...command_line.progress import Progress, counted_by
from ...conversion.peft_adapters import check_merged
from ...modeling import (
    SequenceEncoderForZeroShotClassification,
    SequenceEncoderModel,
    SequenceEncoderPreTrainedModel,
)
from ...modeling.heads.label_prompts import SAMPLE_LABELS
from ...modeling.quantized.eight_bit_config import EightBitConfig
from ...modeling.quantized.eight_bit_linear import EightBitLinear, multiplies_integers
from ...modeling.quantized.eight_bit_quantizer import EightBitQuantizer
from ...modeling.text_encoding.evaluation_mode import evaluation_mode
from .fitting import fit_embedding, fit_linear
from .input_ranges import (
    default_texts,
    mean_cosine,
    outputs_of,
    record_inputs,
)

logger = logging.get_logger(__name__)

# The hidden channels of a feed-forward network have few but large outliers.
_HIDDEN_OUTLIERS = 16
# A text each for the ranges of inputs, for their errors, and for the result.
_FEWEST_TEXTS = 3

Metric = Callable[[SequenceEncoderPreTrainedModel], float]


@dataclass(frozen=True)
class QuantizationReport:
    """What `quantize` has done.

    Attributes:
        found: The mean cosine to the model before quantization, or the value of the metric.
        target: The least value that was asked for.
        is_cosine: Whether these are cosines.
        quantized: The names of the quantized modules.
        kept: The names of the linear layers and embeddings that are left as they were, because quantizing them would
            have missed the target.
        size: The size of the model in bytes.
        size_before: Its size before quantization.
    """

    found: float
    target: float
    is_cosine: bool
    quantized: tuple[str, ...]
    kept: tuple[str, ...]
    size: int
    size_before: int

    def __str__(self) -> str:
        """Return the report in sentences."""
        what = "mean cosine to the original" if self.is_cosine else "metric"
        verb = "stays as it was" if len(self.kept) == 1 else "stay as they were"
        kept = f", and {len(self.kept)} {verb} ({', '.join(self.kept)})" if self.kept else ""
        return (
            f"{counted(len(self.quantized), 'layer has', 'layers have')} eight bits{kept}. On texts that were not "
            f"used for calibration, the {what} is {self.found:.5f} (at least {self.target:g} was asked for). The model "
            f"takes {self.size / 2**20:.1f} instead of {self.size_before / 2**20:.1f} MiB."
        )


def quantize(
    model: SequenceEncoderPreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str] | None = None,
    *,
    target: float = 0.999,
    metric: Metric | None = None,
) -> QuantizationReport:
    """Quantize the layers and the token embeddings of a model to eight bits, in place.

    A third of the texts determines the ranges of the inputs of each layer, a third is for comparing scales, and a third
    for measuring the result. If the result is below the target, layers are restored, first the one without which the
    result is best.

    Args:
        model: The model, on the CPU. It can no longer be trained.
        tokenizer: Its tokenizer.
        texts: A few hundred texts like those that the model will read; by default English sentences from the
            documentation of Python's standard library.
        target: The least mean cosine of the vectors of `encode`, or of the logits of a head, to those of the model
            before quantization; or the least value of `metric`.
        metric: A function of the model whose value must reach the target, such as the accuracy on labelled texts.

    Returns:
        The report.

    Raises:
        ValueError: If an argument is invalid, or the model has no layers to quantize. The model is unchanged then.
    """
    config = EightBitConfig(target if metric is None else None, texts)
    report = quantize_with(model, tokenizer, config, target, metric)
    # As `from_pretrained` leaves a quantized model.
    quantizer = EightBitQuantizer(config, pre_quantized=True)
    vars(model).update(is_quantized=True, quantization_method=config.quant_method, hf_quantizer=quantizer)
    quantizer.postprocess_model(model)
    return report


def quantize_with(
    model: SequenceEncoderPreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: EightBitConfig,
    target: float,
    metric: Metric | None,
) -> QuantizationReport:
    """Quantize a model in place, as `quantize`.

    Args:
        model: See `quantize`.
        tokenizer: See `quantize`.
        config: The settings, which receive the modules and the cosine.
        target: See `quantize`.
        metric: See `quantize`.
    """
    _check(model)
    if not multiplies_integers():
        logger.warning(
            "torch cannot multiply eight-bit integers on this processor, so inputs are not quantized here, and the "
            "result does not show what this costs on others."
        )
    # Names are those in the encoder, so that it can be loaded with a head and without.
    encoder = cast(SequenceEncoderModel, model.base_model)
    texts, encoded = _texts_with_ids(model, tokenizer, config.texts)
    size = model.get_memory_footprint()
    with evaluation_mode(model):
        measure: Callable[[], float]
        if metric is None:
            measure = _cosine_to_now(model, tokenizer, texts[2::3], encoded[2::3])
        else:
            measure = partial(metric, model)
            if not (value := measure()) >= target:
                raise ValueError(f"The model misses target={target} before quantization: its metric is {value}.")
        originals = _modules_to_quantize(model)
        quantized = _fitted(encoder, originals, encoded[0::3], encoded[1::3])
        try:
            found = _choose(encoder, originals, quantized, target, measure)
        except BaseException:
            _put(encoder, originals)
            raise
    chosen = {name: module for name, module in quantized.items() if encoder.get_submodule(name) is module}
    if not any(isinstance(module, EightBitLinear) for module in chosen.values()):
        _put(encoder, originals)
        raise ValueError(f"target={target} leaves no linear layer in eight bits; choose a lower one.")
    config.modules = {
        name: module.outliers if isinstance(module, EightBitLinear) else 0 for name, module in chosen.items()
    }
    config.found = found if metric is None else None
    return QuantizationReport(
        found,
        target,
        metric is None,
        tuple(chosen),
        tuple(name for name in originals if name not in chosen),
        model.get_memory_footprint(),
        size,
    )


def _cosine_to_now(
    model: SequenceEncoderPreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    ids: list[list[int]],
) -> Callable[[], float]:
    """Return a function that compares the outputs of the model with those that it has now."""
    before = outputs_of(model, tokenizer, texts, ids)
    return lambda: mean_cosine(before, outputs_of(model, tokenizer, texts, ids))


def _check(model: Any) -> None:
    check_merged(model)
    if not isinstance(model, SequenceEncoderPreTrainedModel):
        raise ValueError(f"model must be a SequenceEncoder, got a {type(model).__name__}; convert it with `convert`.")
    if any(isinstance(module, EightBitLinear) for module in model.modules()):
        raise ValueError("model is already quantized to eight bits; use it as it is, or quantize the original model.")
    if model.device.type != "cpu":
        raise ValueError(f"model must be on the CPU, got {model.device}; move it there with model.to('cpu').")
    if model.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"model must be in float32 or bfloat16, got {model.dtype}.")


def _texts_with_ids(
    model: SequenceEncoderPreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str] | None
) -> tuple[list[str], list[list[int]]]:
    """Return the texts for calibration that have tokens, and their ids."""
    given: Any = default_texts() if texts is None else texts if isinstance(texts, str) else list(texts)
    if isinstance(given, str) or len(given) < _FEWEST_TEXTS or not all(isinstance(text, str) for text in given):
        raise ValueError(f"texts must be at least {_FEWEST_TEXTS} strings, got {len(given)}: {given[:3]!r}.")
    longest = cast(SequenceEncoderModel, model.base_model).longest_text(tokenizer)
    if isinstance(model, SequenceEncoderForZeroShotClassification):
        ids: Any = model.label_prompts(given, SAMPLE_LABELS, tokenizer, longest)["input_ids"]
    else:
        ids = tokenizer(given, truncation=longest is not None, max_length=longest)["input_ids"]
    pairs = [(text, row) for text, row in zip(given, ids, strict=True) if row]
    if len(pairs) < _FEWEST_TEXTS:
        raise ValueError(f"texts must have at least {_FEWEST_TEXTS} with tokens, got {len(pairs)}.")
    return [text for text, _ in pairs], [row for _, row in pairs]


def _modules_to_quantize(model: SequenceEncoderPreTrainedModel) -> dict[str, nn.Module]:
    """Return the linear layers of all encoder layers, and the token embeddings unless a head shares their weights."""
    encoder = cast(SequenceEncoderModel, model.base_model)
    inside = {id(module) for module in encoder.layers.modules() if type(module) is nn.Linear}
    if not inside:
        raise ValueError("model has no linear layers to quantize.")
    if cast(Any, model).get_output_embeddings() is None:
        inside.add(id(encoder.get_input_embeddings()))
    return {name: module for name, module in encoder.named_modules() if id(module) in inside}


def _fitted(
    encoder: SequenceEncoderModel, originals: dict[str, nn.Module], seen: Any, unseen: Any
) -> dict[str, nn.Module]:
    linear = [name for name, module in originals.items() if type(module) is nn.Linear]
    with Progress("Running on the texts for calibration", len(seen) + len(unseen), "text") as texts:
        ranges, others = (record_inputs(encoder, linear, ids, texts.update) for ids in (seen, unseen))
    quantized: dict[str, nn.Module] = {}
    for name, module in counted_by(Progress("Quantizing", len(originals), "layer"), originals.items()):
        if isinstance(module, nn.Embedding):
            quantized[name] = fit_embedding(module)
        elif name in ranges:
            hidden = name.endswith(".down_proj")
            # The first layer of a plain network quantizes its output for the second one, with a single scale.
            uniform = hidden and encoder.config.feed_forward == "mlp"
            outliers = min(_HIDDEN_OUTLIERS, cast(nn.Linear, module).in_features // 4) if hidden else 0
            quantized[name] = fit_linear(cast(nn.Linear, module), ranges[name], others[name], outliers, uniform)
    return quantized


def _choose(
    encoder: SequenceEncoderModel,
    originals: dict[str, nn.Module],
    quantized: dict[str, nn.Module],
    target: float,
    measure: Callable[[], float],
) -> float:
    """Put quantized modules into the encoder, as many as the target allows, and return the value that they reach."""
    _put(encoder, quantized)
    found = measure()
    if found >= target:
        return found
    gains = {}
    for name in counted_by(Progress("Choosing layers", len(quantized), "layer"), quantized):
        _put(encoder, {name: originals[name]})
        gains[name] = measure()
        _put(encoder, {name: quantized[name]})
    for name in sorted(gains, key=gains.__getitem__, reverse=True):
        _put(encoder, {name: originals[name]})
        found = measure()
        if found >= target:
            break
    return found


def _put(model: nn.Module, modules: dict[str, nn.Module]) -> None:
    for name, module in modules.items():
        model.set_submodule(name, module)
