"""One line that makes what a program already has faster: `model = optimize(model)`."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, TypeVar

from ..inference.optimizing import optimize_for_inference
from ..modeling import SequenceEncoderModel, SequenceEncoderPreTrainedModel
from ..vectors.unpadded import reads_flat_batches, unpad_inputs
from .finding import encoders_in, modules_in
from .padding_free import PaddingFree, inference_dtype, make_padding_free, obstacle_of
from .precision import chosen_dtype
from .span_markers import optimize_span_marker, span_markers_in

Anything = TypeVar("Anything")


def optimize(model: Anything, *, exact: bool = True, training: bool = False) -> Anything:
    """Let the encoders in an object compute without padding, in place, with the same weights.

    The object keeps its class, its methods and its files: what it saves is what it would have saved. Only the passes
    of its encoders change. A pass that is not faster, such as that of one short text, is computed as before, and so is
    one with arguments that a SequenceEncoder does not compute alike, such as `output_attentions=True`. After weights
    were changed through `.data`, call it again.

    A SequenceEncoder leaves out padding anyway. On a CPU, its weights are prepacked for inference; and with it,
    sentence-transformers concatenates texts instead of padding them, so that its modules after the encoder leave out
    padding, too.

    Args:
        model: A `SentenceTransformer`, `CrossEncoder`, `SparseEncoder` or `MultiVectorEncoder`, a pipeline, a
            `SetFitModel`, a GLiNER, a model of transformers, or any object that holds one of these.
        exact: Whether to keep the outputs, up to the rounding of float32. Otherwise, encoders compute in bfloat16 if
            that is faster on this machine and the cosines of the vectors to the exact ones are at least 0.999. Their
            outputs and weights keep their dtype, and training stays exact; a SequenceEncoder is cast.
        training: Whether the object will be trained, so that nothing is prepared for inference.

    Returns:
        The same object.

    Raises:
        ValueError: If there is no encoder inside, or if `exact=False` is combined with `training=True`.
    """
    if training and not exact:
        raise ValueError("exact=False is for inference only; pass training=True alone.")
    found = [encoder for _, encoder in encoders_in(model)]
    if not found:
        raise ValueError(f"model must have an encoder of transformers inside, got a {type(model).__name__} without.")
    for encoder in found:
        if not isinstance(encoder, SequenceEncoderPreTrainedModel):
            # `describe` says why an encoder is left alone.
            with suppress(ValueError):
                make_padding_free(encoder, not training, None if exact else chosen_dtype(encoder))
    for module in (each for _, outermost in modules_in(model) for each in outermost.modules()):
        if isinstance(module, SequenceEncoderPreTrainedModel) and not training:
            _prepare(module, exact)
        if reads_flat_batches(module):
            unpad_inputs(module)
    for _, outermost in modules_in(model):
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
            lines.append(f"{'.'.join(filter(None, (outside, path)))}: {type(marker).__name__} computes {words}")
    return "\n".join(lines) or f"There is no encoder of transformers in this {type(model).__name__}."


def _prepare(model: SequenceEncoderPreTrainedModel, exact: bool) -> None:
    if exact:
        model.prepack_weights()
    else:
        optimize_for_inference(model)
