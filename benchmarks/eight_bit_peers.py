"""BERT in eight bits by other libraries: by NNCF for OpenVINO, and in CTranslate2. Both are optional.

pip install nncf ctranslate2
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
from minilm import MINILM
from transformers import BertConfig, PreTrainedTokenizerBase

Run = Callable[[dict[str, np.ndarray]], np.ndarray]


def is_installed(name: str) -> bool:
    """Return whether a library is installed, and otherwise print that its rows are missing."""
    if importlib.util.find_spec(name) is not None:
        return True
    print(f"{name} is not installed, and not in the tables")
    return False


def quantize_with_nncf(
    onnx: Path, tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int, path: Path
) -> None:
    """Quantize an ONNX model for OpenVINO with the settings of NNCF for transformers.

    Args:
        onnx: The model in float32.
        tokenizer: Its tokenizer.
        texts: Texts for calibration.
        max_length: The most tokens of a text.
        path: The file to write.
    """
    import nncf
    import openvino

    model = openvino.Core().read_model(onnx)
    taken = [argument.any_name for argument in model.inputs]
    options = {"truncation": True, "max_length": max_length, "return_token_type_ids": True, "return_tensors": "np"}

    def inputs_of(text: str) -> dict[str, np.ndarray]:
        encoded = tokenizer(text, **options)
        return {name: encoded[name] for name in taken}

    dataset = nncf.Dataset(texts, inputs_of)
    quantized = nncf.quantize(model, dataset, subset_size=len(texts), model_type=nncf.ModelType.TRANSFORMER)
    openvino.save_model(quantized, path, compress_to_fp16=False)


def ctranslate2_runs(folder: Path, threads: int) -> dict[str, Run]:
    """Convert BERT to CTranslate2, and load it in float32 and in eight bits."""
    import ctranslate2

    # The converter asserts this field, which newer configurations lack.
    BertConfig.position_embedding_type = "absolute"
    ctranslate2.converters.TransformersConverter(str(MINILM)).convert(str(folder))
    return {
        f"BERT in CTranslate2, {name}": _ctranslate2_run(
            ctranslate2.Encoder(str(folder), compute_type=kind, intra_threads=threads)
        )
        for name, kind in (("float32", "float32"), ("eight bits", "int8_float32"))
    }


def _ctranslate2_run(encoder: object) -> Run:
    from ctranslate2 import StorageView

    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        ids, lengths = inputs["input_ids"], inputs["attention_mask"].sum(1)
        views = (StorageView.from_array(array.astype(np.int32)) for array in (ids, lengths))
        return np.array(encoder.forward_batch(*views).last_hidden_state)

    return run
