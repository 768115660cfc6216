"""One line that makes what a program already has faster: `model = optimize(model)`."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, TypeVar

from ...modeling import SequenceEncoderModel, SequenceEncoderPreTrainedModel
from ..preparation import optimize_for_inference
from .finding import encoders_in, joined, modules_in
from .linked_encoder import LinkedEncoder
from .padding_free import PaddingFree, inference_dtype, make_padding_free, obstacle_of
from .precision import chosen_dtype
from .sentence_transformers_inputs import reads_flat_batches, unpad_inputs
from .span_markers import optimize_span_marker, span_markers_in

Anything = TypeVar("Anything")


def optimize(model: Anything, *, exact: bool = True, training: bool = False) -> Anything:
    """Let the encoders in an object compute without padding, in place, with the same weights.

    The object keeps its class and its methods, and saves the files that it would have saved. Only the forward pass of
    its encoders changes. The original forward still runs where it is as fast, as for a single short text, and for
    arguments that a SequenceEncoder handles differently, such as `output_attentions=True`. Call `optimize` again after
    you have changed weights through `.data`.

    A SequenceEncoder already leaves out padding. `optimize` prepacks its weights for inference on a CPU, and lets
    sentence-transformers concatenate texts instead of padding them, so that the modules after the encoder leave out
    padding, too.

    Args:
        model: A `SentenceTransformer`, `CrossEncoder`, `SparseEncoder` or `MultiVectorEncoder`, a pipeline, a
            `SetFitModel`, a GLiNER, a model of transformers, or any object that holds one of these.
        exact: Whether to keep the outputs, up to the rounding of float32. Otherwise, encoders compute in bfloat16 if
            that is faster on this machine and the cosines of the vectors to the exact ones are at least 0.999. Their
            outputs and weights keep their dtype, and training stays exact; a SequenceEncoder is cast.
        training: Whether the object will be trained, so that its weights are not prepacked.

    Returns:
        The same object.

    Raises:
        ValueError: If there is no encoder inside, or if `exact=False` is combined with `training=True`.
    """
    if training and not exact:
        raise ValueError("exact=False is for inference only; pass training=True alone.")
    found = [encoder for _, encoder in encoders_in(model)]
    if not found:
        kind = type(model).__name__
        raise ValueError(f"model must have an encoder of transformers inside, got a {kind}, which has none.")
    for encoder in found:
        if not isinstance(encoder, SequenceEncoderPreTrainedModel):
            # `describe` says why an encoder is left alone.
            with suppress(ValueError):
                link = LinkedEncoder(encoder, prepacked=not training, dtype=None)
                link.dtype = None if exact else chosen_dtype(link)
                make_padding_free(encoder, link)
    for _, outermost in modules_in(model):
        for module in outermost.modules():
            if isinstance(module, SequenceEncoderPreTrainedModel) and not training:
                _prepare(module, exact)
            if reads_flat_batches(module):
                unpad_inputs(module)
        for _, marker in span_markers_in(outermost):
            optimize_span_marker(marker)
    return model


def describe(model: Any) -> str:
    """Return a line for each encoder in an object, which says how it computes, and why it is as it was if it is.

    Args:
        model: The object, before or after `optimize`.
    """
    lines = []
    for path, encoder in encoders_in(model):
        obstacle = None if isinstance(encoder, SequenceEncoderModel) else obstacle_of(encoder)
        if isinstance(encoder, PaddingFree | SequenceEncoderModel) and not obstacle:
            dtype = inference_dtype(encoder) if isinstance(encoder, PaddingFree) else encoder.dtype
            words = f"without padding, in {dtype or encoder.dtype}".replace("torch.", "")
        else:
            words = f"as it was: {obstacle or 'optimize() was not called'}"
        lines.append(f"{path or 'model'}: {type(encoder).__name__} computes {words}")
    for outside, outermost in modules_in(model):
        for path, marker in span_markers_in(outermost):
            words = "words once" if "forward" in vars(marker) else "as it was: optimize() was not called"
            lines.append(f"{joined(outside, path)}: {type(marker).__name__} computes {words}")
    return "\n".join(lines) or f"There is no encoder of transformers in this {type(model).__name__}."


def _prepare(model: SequenceEncoderPreTrainedModel, exact: bool) -> None:
    if exact:
        model.prepack_weights()
    else:
        optimize_for_inference(model)
