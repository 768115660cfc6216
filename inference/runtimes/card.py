"""The card of an exported model: how to use it, its inputs and outputs, and how it was checked."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from huggingface_hub import ModelCardData
from transformers import PreTrainedModel

from ...hub.card.rules import check_card
from ...modeling import SequenceEncoderForSpanExtraction, SequenceEncoderPreTrainedModel
from ...saving.auto_classes import model_class_of
from ...saving.card_mark import save_card
from .comparison import ExportCheck
from .javascript_examples import javascript_example
from .requirements import FORMATS

_CARD = """\
---
{metadata}
---

# {name}

A {kind} of sequence-encoder with {parameters:,} parameters, exported to {format}.

## How to use

```{language}
{code}
```

{needs}

| | name | shape | type |
|---|---|---|---|
{table}

{note}

## Check

{check}

## Licence

{licence}
"""
_NEEDS = "Other languages need a tokenizer that reads `tokenizer.json`, and `{file}` with `{weights}` beside it. "
_JAVASCRIPT = (
    "transformers.js reads `onnx/model.onnx` and the files with other precisions beside it, which `dtype` chooses: "
    "{dtypes}. "
)
_TORCH = (
    'Torch alone also runs the file, on the CPU: `torch.export.load("{file}").module()` takes the inputs by name and '
    "returns a dictionary. The file can run any code when it is loaded, so only load it if you trust its author. "
    "Other versions of torch than that of the check may not be able to read it. "
)
_SIZES = "Texts may have any number of tokens{limit}, and a batch any number of texts."
_MASK = (
    "`attention_mask` is 1 at tokens and 0 at padding, which may be on either side. In the layers, only attention "
    "computes padding."
)
_ENCODE = """\
from sequence_encoder import ExportedEncoder

model = ExportedEncoder.from_pretrained({place}{trust})
vectors = model.encode(["A short text.", "Another one."])"""
_EXTRACT = """\
from sequence_encoder import ExportedExtractor

model = ExportedExtractor.from_pretrained({place}{trust})
spans = model.extract("Ada Lovelace lived in London.", ["person", "city"])"""
_RUN = """\
import sequence_encoder
from transformers import AutoTokenizer
from transformers.exporters import ExportedModel

model = ExportedModel.from_pretrained({place}{trust})
tokenizer = AutoTokenizer.from_pretrained({place})
outputs = model(**tokenizer(["A short text."], return_tensors="pt"))"""
_PRECISION = (
    " OpenVINO computes in bfloat16 if the processor has instructions for it. For the numbers of this check, compile "
    'the model with `INFERENCE_PRECISION_HINT="f32"`, as `ExportedEncoder` does.'
)

_EIGHT_BITS = (
    " The model is quantized to eight bits. Its layers round their inputs, and runtimes that round differently at a "
    "boundary return slightly other numbers."
)
_EIGHT_BIT_WEIGHTS = (
    " The weights have eight bits. The program computes with them in float32, without rounding its inputs."
)


def write_card(
    folder: Path,
    name: str,
    model: PreTrainedModel,
    check: ExportCheck,
    inherited: Mapping[str, Any],
    inputs: Mapping[str, int],
    outputs: Mapping[str, tuple[str, ...]],
    mask_token: str | None = None,
) -> None:
    """Write the card of an exported model into its folder.

    Args:
        folder: The folder to write into.
        name: The final name of the folder.
        model: The model that was exported.
        check: How it was checked.
        inherited: The fields of the source's card that derived models inherit, such as the licence.
        inputs: The number of dimensions of each input.
        outputs: The shape of each output in words.
        mask_token: The mask token of the tokenizer, if it has one.

    Raises:
        ValueError: If the Hub would reject the card.
    """
    model_class = model_class_of(model)
    data = ModelCardData(
        library_name=check.to,
        pipeline_tag=model_class.hub_task,
        tags=["sequence-encoder", check.to],
        **inherited,
    )
    axes = {2: "batch, sequence", 3: "batch, choices, sequence"}
    rows = [f"| input | `{each}` | {axes[dimensions]} | int64 |" for each, dimensions in inputs.items()]
    rows += [f"| output | `{each}` | {', '.join(shape)} | float32 |" for each, shape in outputs.items()]
    config, to = model.config, FORMATS[check.to]
    language = "js" if to.several_dtypes else "python"
    code = _ENCODE if model_class.auto_classes[0] == "AutoModel" else _RUN
    code = (_EXTRACT if isinstance(model, SequenceEncoderForSpanExtraction) else code).format(
        place=json.dumps(name, ensure_ascii=False), trust=", trust_remote_code=True" * to.runs_code
    )
    if to.several_dtypes:
        code = javascript_example(cast(SequenceEncoderPreTrainedModel, model), name, mask_token)
    limit = f" up to {config.max_position_embeddings:,}" if config.position_embedding == "learned" else ""
    needs = (_JAVASCRIPT if to.several_dtypes else _NEEDS if to.weights else _TORCH).format(
        file=to.file, weights=to.weights, dtypes=", ".join(f"`{each}`" for each in check.cosines)
    )
    needs += _SIZES.format(limit=limit)
    versions = ", ".join(f"{each} {version(each)}" for each in ("torch", "transformers", *to.libraries))
    eight_bits = _EIGHT_BIT_WEIGHTS if check.to == "torch" else _EIGHT_BITS
    licence = " ".join(str(inherited[key]) for key in ("license", "license_name", "license_link") if key in inherited)
    text = _CARD.format(
        metadata=data.to_yaml(),
        name=name,
        kind=type(model).__name__,
        parameters=model.num_parameters(),
        format=to.title,
        language=language,
        code=code,
        needs=_wrapped(needs),
        table="\n".join(rows),
        note=_wrapped(_MASK + eight_bits * check.eight_bits + _PRECISION * (check.to == "openvino")),
        check=_wrapped(f"{check} The versions were {versions}."),
        licence=licence or "The licence of the source was not found. Ask its publisher before you use this model.",
    )
    errors, _ = check_card(text)
    if errors:
        raise ValueError(f"The Hub would reject this model card: {'; '.join(errors)}.")
    save_card(folder / "README.md", text)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)
