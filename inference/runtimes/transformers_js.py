"""What transformers.js reads from a folder: the graphs in `onnx/`, the fields of `config.json`, and the tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedTokenizerBase

from ...modeling import SequenceEncoderPreTrainedModel
from ...modeling.quantized.eight_bit_linear import EightBitLinear
from ...saving.auto_classes import model_class_of
from ...saving.model_files import GRAPHS
from ...tokenizer.private_copy import lowercased, private_copy, without_special_tokens
from .comparison import Inputs, compare_outputs
from .loading import runtime_options
from .requirements import DTYPES, check_dtypes

# The model type whose classes stand for ours. Each runs any graph with the inputs that the graph names.
_MODEL_TYPE = "bert"
_CLASSES = {
    "SequenceEncoderModel": "BertModel",
    "SequenceEncoderForRetrieval": "BertModel",
    "SequenceEncoderForMaskedLM": "BertForMaskedLM",
    "SequenceEncoderForSequenceClassification": "BertForSequenceClassification",
    "SequenceEncoderForTokenClassification": "BertForTokenClassification",
    "SequenceEncoderForQuestionAnswering": "BertForQuestionAnswering",
}
DEFAULT_DTYPES = ("fp32", "q8")
# The classes of tokenizers that return segments there, without "Fast".
_WITH_SEGMENTS = {
    f"{family}Tokenizer"
    for family in ("Albert", "Bert", "ConvBert", "Deberta", "DebertaV2", "Electra", "Herbert", "MobileBert", "RoFormer")
}
# The bytes of weights beside which a graph fits into a file. Protobuf does not read files of 2 GiB.
_LARGEST_WEIGHTS = 2**31 - 2**24
# Numbers that share a scale in four bits, as in the files that transformers.js' own script writes.
_BLOCK = 32


def chosen_dtypes(model: SequenceEncoderPreTrainedModel, dtypes: Sequence[str] | None) -> tuple[str, ...]:
    """Return the precisions to write for a model, in the order of `DTYPES`.

    Args:
        model: The model.
        dtypes: Those that were asked for; None for the default.

    Raises:
        ValueError: If transformers.js has no class for the model, or a precision is not possible.
    """
    name = model_class_of(model).name
    if name not in _CLASSES:
        raise ValueError(
            f"transformers.js cannot run a {name}. It runs encoders and models for {', '.join(_tasks())}; export it to "
            "onnx instead."
        )
    if dtypes is None:
        return ("q8",) if is_in_eight_bits(model) else DEFAULT_DTYPES
    check_dtypes(dtypes, "dtypes")
    if is_in_eight_bits(model) and set(dtypes) != {"q8"}:
        raise ValueError(
            f"dtypes must be q8 for a model in eight bits, got {', '.join(dtypes)}; export the model that it was "
            "quantized from."
        )
    return tuple(each for each in DTYPES if each in dtypes)


def is_in_eight_bits(model: SequenceEncoderPreTrainedModel) -> bool:
    """Return whether a model has been quantized."""
    return any(isinstance(layer, EightBitLinear) for layer in model.modules())


def _tasks() -> list[str]:
    heads = (name.partition("For")[2] for name in _CLASSES.values())
    return [
        "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in head)[1:] for head in heads if head
    ]


def write_graph(graph: Path, folder: Path, dtype: str) -> bool:
    """Write a graph into a single file in `onnx/`, or with its weights beside it if it is too large.

    Args:
        graph: The file of the graph, in the precision `dtype`, or in float32 if that can be made from it.
        folder: The folder to write into.
        dtype: The precision.

    Returns:
        Whether its weights are beside it.
    """
    import onnx

    model: Any = onnx.load(graph)
    # The names of places in Python code take as much space as the graph itself.
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    if dtype == "fp16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        # Without inferred shapes, which are those of the samples in some nodes.
        model = convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True)
    elif dtype == "q4":
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantizer = MatMulNBitsQuantizer(model, block_size=_BLOCK, is_symmetric=True)
        quantizer.process()
        model = quantizer.model.model
    file = folder / GRAPHS / f"model{DTYPES[dtype].suffix}.onnx"
    file.parent.mkdir(exist_ok=True)
    split = sum(len(weight.raw_data) for weight in model.graph.initializer) > _LARGEST_WEIGHTS
    if split:
        onnx.save(model, file, save_as_external_data=True, location=f"{file.name}_data")
    else:
        onnx.save(model, file)
    return split


def cosine_to(expected: Mapping[str, Any], folder: Path, dtype: str, inputs: Inputs) -> float:
    """Return the least cosine of the outputs of a file to those of the model.

    Args:
        expected: The outputs of the model.
        folder: The folder with the file.
        dtype: The precision of the file.
        inputs: The inputs of both.

    Raises:
        ValueError: If a cosine is below what the precision allows.
    """
    import onnxruntime

    options = runtime_options("onnx")["session_options"]
    file = folder / GRAPHS / f"model{DTYPES[dtype].suffix}.onnx"
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    outputs = session.run(names, {name: tensor.numpy() for name, tensor in inputs.items()})
    found = {name: torch.from_numpy(each).float() for name, each in zip(names, outputs, strict=True)}
    return compare_outputs(expected, found, DTYPES[dtype].least_cosine)[1]


def config_fields(
    config: Mapping[str, Any], model: SequenceEncoderPreTrainedModel, dtypes: Sequence[str], split: Sequence[str]
) -> dict[str, Any]:
    """Return the content of a `config.json` for transformers.js.

    Args:
        config: The content of the model's own `config.json`.
        model: The model.
        dtypes: The precisions of the files.
        split: The precisions of those files whose weights are beside them.
    """
    name = model_class_of(model).name
    options: dict[str, Any] = {}
    # Otherwise it would look for the file of the precision that is usual for the device.
    if missing := [each for each in DEFAULT_DTYPES if each not in dtypes]:
        options["dtype"] = next((each for each in DEFAULT_DTYPES if each not in missing), dtypes[0])
    if split:
        options["use_external_data_format"] = {f"model{DTYPES[each].suffix}.onnx": True for each in split}
    fields = {**config, "model_type": _MODEL_TYPE, "architectures": [_CLASSES[name]], "transformers.js_config": options}
    if model.config.num_labels == 1:
        # Its pipeline for text classification takes the sigmoid of each logit then, instead of a softmax over one.
        fields["problem_type"] = "multi_label_classification"
    return fields


def write_tokenizer(
    folder: Path, model: SequenceEncoderPreTrainedModel, tokenizer: PreTrainedTokenizerBase, segments: bool
) -> None:
    """Write a tokenizer that reads texts as `encode` does, also in pipelines.

    Args:
        folder: The folder.
        model: The model.
        tokenizer: The tokenizer.
        segments: Whether the graph has segments as an input.
    """
    encoder = cast(Any, model.base_model)
    own = private_copy(tokenizer)
    longest = encoder.longest_text(own)
    own.model_max_length = longest or own.model_max_length
    recipe = encoder.embedding_recipe
    if recipe is not None and recipe.lowercase:
        own = lowercased(own)
    if model.config.is_static:
        own = without_special_tokens(own)
    own.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    fields = json.loads(file.read_text(encoding="utf-8"))
    # The classes only differ in whether they return segments; everything else is in tokenizer.json.
    fields["tokenizer_class"] = "BertTokenizer" if segments else "PreTrainedTokenizerFast"
    file.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def returns_segments(folder: Path) -> bool:
    """Return whether the tokenizer in a folder returns segments in transformers.js."""
    try:
        fields = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return str(fields.get("tokenizer_class")).removesuffix("Fast") in _WITH_SEGMENTS
