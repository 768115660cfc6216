"""Exports a model to a folder: traces it, checks the saved file against the model, and only then keeps the folder."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from ...command_line.progress import Steps
from ...hub.card.inherited_fields import inherited_card_fields
from ...modeling import (
    SequenceEncoderForMultipleChoice,
    SequenceEncoderForSpanExtraction,
    SequenceEncoderPreTrainedModel,
)
from ...modeling.calibration.calibration import calibration_of
from ...modeling.text_encoding.recipe_files import write_recipe
from ...saving.whole_folders import atomic_folder, check_replaceable
from ..quantization.quantizing import quantize
from .card import write_card
from .comparison import ExportCheck
from .exported_extractor import write_head
from .hub_layout import add_example, added_files, shared_config
from .javascript_examples import javascript_example
from .quiet import quiet_exporters
from .requirements import FORMATS, LAYOUTS, check_format, check_layout, is_in_place
from .traced_graph import TracedGraph
from .transformers_js import (
    chosen_dtypes,
    config_fields,
    cosine_to,
    is_in_eight_bits,
    returns_segments,
    write_graph,
    write_tokenizer,
)


def export(
    model: SequenceEncoderPreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | os.PathLike[str],
    to: str = "onnx",
    *,
    pooled: bool = False,
    replace: bool = False,
    dtypes: Sequence[str] | None = None,
    layout: str | None = None,
    texts: Sequence[str] | None = None,
) -> ExportCheck:
    """Export a model to a format of another runtime, with its tokenizer and a card.

    The graph takes any number of texts of any length, in float32. In its layers, only attention computes padding. Those
    in eight bits keep their weights and scales, and multiply integers, except in torch programs. The graph is saved
    only if its outputs on sample texts are those of the model; with eight bits, if their cosines are at least 0.99.

    Args:
        model: The model, on the CPU.
        tokenizer: The tokenizer of the model.
        folder: The folder to write. It is complete or absent, even if the export fails.
        to: The format, `onnx`, `openvino`, `torch` or `transformers.js`.
        pooled: Whether the graph of an encoder ends with the pooling and the normalisation of its embedding recipe. Its
            only output is then `sentence_embedding`. For transformers.js, every graph of an encoder has this output,
            too.
        replace: Whether to replace `folder` if it contains a saved model.
        dtypes: The precisions of the files for transformers.js: some of `fp32`, `fp16`, `q8` and `q4`; by default
            `fp32` and `q8`, or `q8` for a model in eight bits.
        layout: `hub`, with `to="onnx"`, adds the files for transformers.js to the folder that the model was loaded
            from, which then serves both. `webgpu`, with `to="transformers.js"`, writes a graph that computes padding,
            with operations alone that WebGPU has.
        texts: A few hundred texts to calibrate `q8` on, like those that the model will read; see `quantize`.

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
    check_layout(layout, to)
    if source and Path(source).exists() and not is_in_place(layout):
        check_replaceable(Path(folder), replace, "replace=True", kept=Path(source))
    may_replace = (replace, "replace=True")
    with checked_export(model, tokenizer, folder, to, pooled, inherited, may_replace, dtypes, layout, texts) as check:
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
    dtypes: Sequence[str] | None = None,
    layout: str | None = None,
    texts: Sequence[str] | None = None,
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
        dtypes: See `export`.
        layout: See `export`.
        texts: See `export`.
    """
    in_place = is_in_place(layout)
    padded = layout is not None and LAYOUTS[layout].padded
    if in_place:
        to = "transformers.js"
    # In place, the tokenizer's own files stay, and few of their classes return segments in JavaScript.
    own_segments = in_place and not returns_segments(Path(folder))
    graph = TracedGraph(model, tokenizer, to, pooled, padded, own_segments)
    if FORMATS[to].several_dtypes:
        dtypes = chosen_dtypes(model, dtypes)
    elif dtypes is not None:
        raise ValueError(f"dtypes is only for to='transformers.js', got {', '.join(dtypes)} with to={to!r}.")
    if texts is not None and ("q8" not in (dtypes or ()) or is_in_eight_bits(model)):
        raise ValueError("texts are only for q8, the precision for transformers.js, of a model that is not quantized.")
    name, mask_token = Path(folder).resolve().name, getattr(tokenizer, "mask_token", None)
    if in_place:
        with added_files(Path(folder), *may_replace) as written:
            check, _ = _write_for_transformers_js(
                written, graph, tokenizer, cast(Sequence[str], dtypes), texts, Path(folder)
            )
            add_example(Path(folder), written, javascript_example(model, name, mask_token))
            yield check
        return
    check_replaceable(Path(folder), *may_replace)
    with atomic_folder(Path(folder), *may_replace) as written:
        if dtypes is None:
            check, shapes = _write_flat(written, graph, tokenizer)
        else:
            check, shapes = _write_for_transformers_js(written, graph, tokenizer, dtypes, texts)
        dimensions = {name: tensor.dim() for name, tensor in graph.batches[1].items()}
        if isinstance(model, SequenceEncoderForMultipleChoice):
            shapes["logits"] = ("batch", "choices")
        write_card(written, name, model, check, inherited, dimensions, shapes, mask_token)
        yield check


Written = tuple[ExportCheck, dict[str, tuple[str, ...]]]


def _write_flat(folder: Path, graph: TracedGraph, tokenizer: PreTrainedTokenizerBase) -> Written:
    """Write a graph with its weights beside it, and what the classes of this package and of transformers read."""
    model, encoder = graph.model, graph.encoder
    with Steps(f"Exporting to {FORMATS[graph.to].title}", len(graph.steps)) as steps:
        check, shapes = graph.write(folder, steps)
    tokenizer.save_pretrained(folder)
    if isinstance(model, SequenceEncoderForSpanExtraction) and not graph.pooled:
        write_head(folder, model)
    recipe = encoder.recipe_for() if graph.pooled else encoder.embedding_recipe
    if model is encoder and recipe is not None:
        write_recipe(folder, recipe, model.config.hidden_size)
    if not graph.pooled and (calibration := calibration_of(model)) is not None:
        calibration.write(folder)
    return check, shapes


def _write_for_transformers_js(
    folder: Path,
    graph: TracedGraph,
    tokenizer: PreTrainedTokenizerBase,
    dtypes: Sequence[str],
    texts: Sequence[str] | None,
    beside: Path | None = None,
) -> Written:
    """Write graphs with their weights, and what transformers.js reads.

    A graph in eight bits is that of a quantized copy of the model. The others are made from the one in float32.

    Args:
        folder: The folder to write into.
        graph: The graph.
        tokenizer: The tokenizer of the model.
        dtypes: The precisions to write.
        texts: The texts to calibrate eight bits on.
        beside: The folder of the model, if the new files will be in it; its tokenizer stays as it is.
    """
    model, to = graph.model, graph.to
    flat = folder.parent / "float32"
    quantized = None
    if "q8" in dtypes and not is_in_eight_bits(model):
        quantized = TracedGraph(
            _quantized(model, tokenizer, texts), tokenizer, to, graph.pooled, graph.padded, graph.own_segments
        )
    with Steps(f"Exporting to {FORMATS[to].title}", len(graph.steps) * (1 if quantized is None else 2)) as steps:
        check, shapes = graph.write(flat, steps)
        files = dict.fromkeys(dtypes, flat / "model.onnx")
        if quantized is not None:
            files["q8"] = folder.parent / "eight_bits" / "model.onnx"
            quantized.write(files["q8"].parent, steps)
    with quiet_exporters():
        split = [dtype for dtype, file in files.items() if write_graph(file, folder, dtype)]
    inputs = graph.batches[1]
    expected = graph.outputs(inputs)
    cosines = {dtype: cosine_to(expected, folder, dtype, inputs) for dtype in dtypes}
    if beside is None:
        # Before config.json, beside which our tokenizers write the code of the model.
        write_tokenizer(folder, model, tokenizer, segments="token_type_ids" in inputs)
        config = json.loads((flat / "config.json").read_text(encoding="utf-8"))
    else:
        config = shared_config(beside, folder)
    fields = config_fields(config, model, dtypes, split)
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    return replaced(check, cosines=cosines), shapes


def _quantized(
    model: SequenceEncoderPreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str] | None
) -> Any:
    """Return a copy of a model in eight bits."""
    copied = copy.deepcopy(model)
    try:
        quantize(copied, tokenizer, texts)
    except ValueError as error:
        raise ValueError(f"The model cannot be quantized, so leave q8 out of the dtypes. {error}") from error
    return copied
