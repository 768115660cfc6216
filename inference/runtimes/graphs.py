"""Traces models with the exporters of transformers, for any number of texts of any length.

Shapes: B batch, S sequence, C choices, D channels of the vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from ...command_line.extras import MissingLibraryError
from ...data.padded_inputs import padded_inputs
from ...modeling import (
    SequenceEncoderForMultipleChoice,
    SequenceEncoderForSpanExtraction,
    SequenceEncoderForZeroShotClassification,
    SequenceEncoderModel,
    SequenceEncoderPreTrainedModel,
)
from ...modeling.calibration.calibration import calibration_of
from ...modeling.calibration.layer_vectors import LAYER_VECTORS, LayerVectors
from ...modeling.feed_forward import MLP
from ...modeling.graph_layouts import GraphLayout, layout_in_graphs
from ...modeling.layouts import PaddedLayout
from ...modeling.pooling import POOLINGS
from ...modeling.quantized.eight_bit_graph import EightBitProduct
from ...modeling.quantized.eight_bit_linear import EightBitLinear
from ...modeling.text_encoding.embedding_recipe import EmbeddingRecipe
from .requirements import FORMATS

# The output of a graph with pooling, as sentence-transformers names it.
VECTORS = "sentence_embedding"
# How many choices the texts of a multiple-choice model have in the samples. The graph takes any number.
_CHOICES = 2


class PooledEncoder(nn.Module):
    """An encoder with the pooling of its embedding recipe, and the steps after it.

    Args:
        encoder: The encoder.
        recipe: Its recipe.
        with_states: Whether to return the hidden states, too.
    """

    def __init__(self, encoder: SequenceEncoderModel, recipe: EmbeddingRecipe, with_states: bool = False) -> None:
        super().__init__()
        self.encoder, self.recipe, self.config = encoder, recipe, encoder.config
        self.with_states = with_states

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **inputs: Any) -> dict[str, torch.Tensor]:
        """Compute the vectors of texts.

        Args:
            input_ids: (B, S).
            attention_mask: (B, S).
            **inputs: Other inputs of the encoder.

        Returns:
            `sentence_embedding` (B, D), and possibly `last_hidden_state` (B, S, D).
        """
        states = self.encoder(input_ids, attention_mask, return_dict=True, **inputs).last_hidden_state
        token_mask = attention_mask != 0
        vectors = torch.cat([POOLINGS[mode](states, token_mask) for mode in self.recipe.pooling], dim=-1)
        for step in self.recipe.after:
            vectors = step(vectors)
        outputs = {VECTORS: vectors[:, : self.recipe.kept_channels(self.config.hidden_size)]}
        return {"last_hidden_state": states, **outputs} if self.with_states else outputs


class ModelWithVectors(nn.Module):
    """A model that also returns the vectors of its texts after a layer, which its calibration needs.

    Args:
        model: The model.
        layer: The layer; see `LayerVectors`.
    """

    def __init__(self, model: SequenceEncoderPreTrainedModel, layer: int) -> None:
        super().__init__()
        self.model, self.layer, self.config = model, layer, model.config

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **inputs: Any) -> dict[str, torch.Tensor]:
        """Run the model.

        Args:
            input_ids: (B, S).
            attention_mask: (B, S).
            **inputs: Other inputs of the model.

        Returns:
            Its outputs, and `layer_vectors` (B, D).
        """
        vectors = LayerVectors([self.layer])
        outputs = cast(Any, self.model)(input_ids, attention_mask, return_dict=True, layer_vectors=vectors, **inputs)
        return {**outputs, LAYER_VECTORS: vectors[self.layer]}


class ModelWithLabelColumns(nn.Module):
    """A model that compares texts with labels, with a logit for each token, of which the first are those of the labels.

    A graph does not know the number of labels.

    Args:
        model: The model.
    """

    def __init__(self, model: SequenceEncoderForZeroShotClassification) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **inputs: Any) -> dict[str, torch.Tensor]:
        """Run the model.

        Args:
            input_ids: (B, S).
            attention_mask: (B, S).
            **inputs: Other inputs of the model.

        Returns:
            `logits` (B, S), which end with the lowest number of the dtype.
        """
        logits = cast(Any, self.model)(input_ids, attention_mask, return_dict=True, **inputs).logits
        missing = input_ids.shape[1] - logits.shape[1]
        return {"logits": F.pad(logits, (0, missing), value=torch.finfo(logits.dtype).min)}


class ModelWithOwnSegments(nn.Module):
    """A model that finds the segments of a pair of texts itself: the second one begins after a separator.

    Args:
        module: The model.
        sep_token_id: The id of the separator.
    """

    def __init__(self, module: nn.Module, sep_token_id: int) -> None:
        super().__init__()
        self.module, self.sep_token_id, self.config = module, sep_token_id, module.config

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        """Run the model.

        Args:
            input_ids: (B, S).
            attention_mask: (B, S).
        """
        return self.module(input_ids, attention_mask, token_type_ids=self.segments(input_ids) * attention_mask)

    def segments(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the segment of each token, 0 or 1, (B, S) to (B, S)."""
        ends = (input_ids == self.sep_token_id).long()
        return (ends.cumsum(dim=1) - ends).clamp(max=1)


def graph_module(model: SequenceEncoderPreTrainedModel, pooled: bool, with_states: bool = False) -> nn.Module:
    """Return the module to trace: the model, or with `pooled` its encoder with pooling.

    With `with_states`, the graph of an encoder has both the hidden states and, if it can, the vectors.

    For a model with a head for span extraction, this is its encoder: `exported_extractor.py` says why.

    The graph of a calibrated model also returns the vectors that its p-values need.

    Raises:
        ValueError: If the model is not an encoder, or its recipe cannot be a part of the graph.
    """
    if with_states and type(model) is SequenceEncoderModel and (recipe := model.recipe_for()).include_prompt:
        return PooledEncoder(model, recipe, with_states=True)
    if not pooled and isinstance(model, SequenceEncoderForZeroShotClassification):
        return ModelWithLabelColumns(model)
    if not pooled and isinstance(model, SequenceEncoderForSpanExtraction):
        return model.model
    if not pooled:
        calibration = calibration_of(model)
        score = None if calibration is None else calibration.unfamiliarity
        return model if score is None or score.layer is None else ModelWithVectors(model, score.layer)
    if not isinstance(model, SequenceEncoderModel):
        raise ValueError(
            f"pooled=True needs a SequenceEncoderModel, got a {type(model).__name__}; pass its base_model."
        )
    recipe = model.recipe_for()
    if not recipe.include_prompt:
        raise ValueError(
            "pooled=True is not supported for this model, because its pooling leaves out the tokens of prompts "
            "(include_prompt=False), which a graph cannot tell from others. Export it without pooling."
        )
    return PooledEncoder(model, recipe)


def input_names(model: SequenceEncoderPreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Return the names of the inputs of the graph: segments only if the model and the tokenizer have them."""
    has_segments = model.config.type_vocab_size > 1 and "token_type_ids" in tokenizer.model_input_names
    return ("input_ids", "attention_mask", *(("token_type_ids",) if has_segments else ()))


def inputs_of(ids: Sequence[Sequence[int]], pad_token_id: int | None, names: Sequence[str]) -> dict[str, Any]:
    """Return the inputs of a batch of texts, (B, S) each, with padding on the right.

    Args:
        ids: The token ids of each text.
        pad_token_id: The id of padding; None for 0.
        names: The names of the inputs.
    """
    types = "token_type_ids" in names
    rows = [{"input_ids": text, **({"token_type_ids": [0] * len(text)} if types else {})} for text in ids]
    return padded_inputs(rows, pad_token_id)


def sample_inputs(
    model: SequenceEncoderPreTrainedModel, ids: Sequence[Sequence[int]], names: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Return the inputs of sample texts, in the shape that the model takes; each text has two segments.

    Args:
        model: The model.
        ids: The token ids of each text.
        names: The names of the inputs.
    """
    inputs = inputs_of(ids, model.config.pad_token_id, names)
    if "token_type_ids" in inputs:
        lengths = inputs["attention_mask"].sum(dim=1, keepdim=True)
        index = torch.arange(inputs["input_ids"].shape[1])
        inputs["token_type_ids"] = ((2 * index >= lengths) & (index < lengths)).long()
    if isinstance(model, SequenceEncoderForMultipleChoice):
        return {name: tensor[:, None].repeat(1, _CHOICES, 1) for name, tensor in inputs.items()}
    return inputs


def exporter_of(to: str) -> Any:
    """Return the exporter of transformers for a format.

    Raises:
        MissingLibraryError: If a library that it needs is too old.
    """
    from transformers.exporters.auto import get_exporter_class

    try:
        return get_exporter_class(FORMATS[to].backend)()
    except ImportError as error:
        raise MissingLibraryError(f"export to {FORMATS[to].title}: {error}") from error


def trace(
    exporter: Any, module: nn.Module, inputs: Mapping[str, torch.Tensor], layout: type[PaddedLayout] = GraphLayout
) -> Any:
    """Trace a module for any size of the batch, of the choices and of the sequence.

    Args:
        exporter: The result of `exporter_of`.
        module: The module, in evaluation mode.
        inputs: Sample inputs, with at least two of each.
        layout: How tokens lie. By default, only attention computes padding in the layers of the graph.

    Returns:
        An `ExportedModel` of transformers.
    """
    names = ("batch", "choices", "sequence") if inputs["input_ids"].dim() == 3 else ("batch", "sequence")
    sizes = {axis: torch.export.Dim(name) for axis, name in enumerate(names)}
    config = exporter.config_class(dynamic_shapes=dict.fromkeys(inputs, sizes))
    encoder = next(each for each in module.modules() if isinstance(each, SequenceEncoderModel))
    replaced = "forward" in vars(module)
    backend = exporter.export_format
    form = _plain_outputs(module) if backend == "dynamo" else _integers_in_graphs(module, backend == "onnx")
    try:
        with layout_in_graphs(encoder, layout), form:
            return exporter.export(module, dict(inputs), config)
    finally:
        if not replaced:
            # The exporter restores the method as an attribute of this instance, which a copy would share.
            vars(module).pop("forward", None)


@contextmanager
def _plain_outputs(module: nn.Module) -> Iterator[None]:
    """Let a module return a plain dictionary in this block, so that torch can load its graph without transformers."""
    forward = module.forward
    module.forward = lambda **inputs: dict(forward(**inputs))
    try:
        yield
    finally:
        module.forward = forward


@contextmanager
def _integers_in_graphs(module: nn.Module, named_weights: bool) -> Iterator[None]:
    """Let graphs that are traced in this block multiply integers in the layers that have eight bits.

    Args:
        module: The module with the layers.
        named_weights: See `EightBitProduct`.
    """
    # Registers the operations with which graphs quantize.
    import_module("torch.ao.quantization.fx._decomposed")
    previous = {
        id(network.down_proj): cast(EightBitLinear, network.up_proj)
        for network in module.modules()
        if isinstance(network, MLP) and isinstance(network.up_proj, EightBitLinear)
    }
    layers = [each for each in module.modules() if isinstance(each, EightBitLinear)]
    for layer in layers:
        layer.graph_product = EightBitProduct(layer, previous.get(id(layer)), named_weights)
    try:
        yield
    finally:
        for layer in layers:
            layer.graph_product = None
