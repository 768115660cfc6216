"""`sequence-encoder convert`: converts a checkpoint and saves it only if both models have the same outputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..command_line.progress import Progress, Steps, counted_by, say
from ..configuration import SequenceEncoderConfig
from ..hub.card.sections import example_of, replace_section
from ..modeling import (
    SequenceEncoderForMaskedLM,
    SequenceEncoderForRetrieval,
    SequenceEncoderModel,
    SequenceEncoderPreTrainedModel,
)
from ..saving.whole_folders import atomic_folder, check_replaceable
from .arguments import ConvertArguments
from .converting import convert_and_release, our_config
from .formats.flag_embedding import HEAD_FILES, add_heads, heads_of, read_heads, write_heads
from .key_mapping import Tensors
from .sidecar_files import save_tokenizer
from .source import Source
from .source_models import is_adapted

SAMPLES = (
    "A short text.",
    "Encoders read a text as a whole, and give a vector for each of its tokens.",
    "¿Qué tal? Ça va. 42 % of them are 3.14 times as long; naïve façades, e.g. in Zürich.",
    "def add(a, b):\n    return a + b",
)
# Relative to the largest output, or to 1 if all are smaller. float32 sums round differently in different orders, but
# not by this much.
TOLERANCE = 1e-3
_CARD_SECTION = """\
## Load this converted model

Its weights were converted to a SequenceEncoder, which has the same outputs. The rest of this card, including its code,
describes the original model.

```python
{lines}
```

`trust_remote_code=True` runs the Python files of this repository. If you have installed the package
`sequence-encoder`, you can `import sequence_encoder` instead and leave out `trust_remote_code`.
"""


@dataclass(frozen=True)
class _Original:
    """A loaded checkpoint.

    Attributes:
        checkpoint: Where it is.
        model: The model. If its code never runs, it is already converted.
        tokenizer: Its tokenizer, or None.
        config: Our configuration for the model.
    """

    checkpoint: Source
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    config: SequenceEncoderConfig


@dataclass(frozen=True)
class _Plan:
    """What is done with a loaded checkpoint.

    Attributes:
        converts: Whether the weights are converted. Loading is enough if the code of the checkpoint never runs, or if
            it is an adapter of a model of this package.
        to: The family to convert to; None for a SequenceEncoder.
        only_encoder: Whether the head of the model is not converted.
        heads: The weights of heads for retrieval, which are saved with the encoder; None if there are none.
    """

    converts: bool
    to: str | None
    only_encoder: bool
    heads: Tensors | None


def convert_checkpoint(
    source: str, output_dir: str, to: str | None = None, base_model: bool = False, overwrite: bool = False
) -> float | None:
    """Convert a checkpoint, compare the outputs of both models, and save the new model.

    The weights are in memory only once, in float32, plus one tensor: each weight is released when it is converted. If
    the code of the source is on the Hub, the outputs cannot be compared, because that code is not run.

    Args:
        source: A folder or a Hub id.
        output_dir: The folder to write.
        to: See `convert`.
        base_model: See `convert`.
        overwrite: Whether to replace a saved model in `output_dir`.

    Returns:
        The largest difference between the outputs of the two models; None if they cannot be compared.

    Raises:
        FileExistsError: If `output_dir` exists and must not be replaced. This is checked before anything is loaded.
        ValueError: If the checkpoint cannot be converted, or if the outputs differ. Nothing is written then.
    """
    output = Path(output_dir)
    check_replaceable(output, overwrite, "--overwrite", kept=Path(source))
    with Steps("Converting", 3) as steps:
        steps.begin("loading the model")
        original = _load(source, base_model)
        plan = _decide(original, to, base_model)
        steps.begin("converting the weights and comparing the outputs")
        converted, difference = _convert(original, plan)
        steps.begin("writing the model")
        with atomic_folder(output, overwrite, "--overwrite") as written:
            _write(original, plan, converted, written, output.resolve().name)
    return difference


def convert_command(options: ConvertArguments) -> None:
    """Run `sequence-encoder convert`."""
    convert_checkpoint(options.model, options.output_dir, options.to, options.base_model, options.overwrite)
    print(f"Saved in {Path(options.output_dir)}.")


def _load(source: str, base_model: bool) -> _Original:
    """Load a checkpoint and its tokenizer.

    Raises:
        ValueError: If it cannot be converted.
    """
    checkpoint = Source(source)
    model = checkpoint.load_original(base_model)
    tokenizer = checkpoint.own_tokenizer(model)
    if tokenizer is None:
        say(f"{checkpoint.encoder} has no tokenizer, so none is saved and the models are compared on random token ids.")
    config = our_config(model)
    if tokenizer is not None and config.position_offset and tokenizer.pad_token_id != config.pad_token_id:
        raise ValueError(
            f"pad_token_id is {config.pad_token_id} in the configuration but {tokenizer.pad_token_id} in the "
            "tokenizer. They must be equal, because this family's positions skip padding tokens."
        )
    return _Original(checkpoint, model, tokenizer, config)


def _decide(original: _Original, to: str | None, base_model: bool) -> _Plan:
    model, place = original.model, original.checkpoint.place
    heads = None
    if isinstance(model, SequenceEncoderForRetrieval):
        heads = heads_of(model)
    elif to is None and type(model).__name__.endswith("Model") and not base_model:
        heads = read_heads(place, original.config.hidden_size)
    loading_is_enough = to is None and (
        original.checkpoint.remote_code is not None
        or (isinstance(model, SequenceEncoderPreTrainedModel) and is_adapted(place))
    )
    return _Plan(not loading_is_enough, to, base_model or heads is not None, heads)


def _convert(original: _Original, plan: _Plan) -> tuple[PreTrainedModel, float | None]:
    """Convert a model, and compare its outputs with those of the original one.

    Returns:
        The new model, and the largest difference between the outputs; None if they cannot be compared.

    Raises:
        ValueError: If the model cannot be converted, or if the outputs differ.
    """
    model, tokenizer, name = original.model, original.tokenizer, type(original.model).__name__
    texts = sample_ids(original.config, tokenizer)
    before = outputs_of(model, texts)
    if (code := original.checkpoint.remote_code) is not None:
        check_finite_outputs(before)
        say(
            f"Converted {code.architecture} to {name}. Their outputs could not be compared, because the code of "
            f"{code.architecture} is {code.where} and is not run. The new model uses all weights, and none is "
            "missing or has another shape."
        )
    elif not plan.converts:
        print(f"Loaded {name} from {original.checkpoint.name}, with the adapter in its weights.")
    converted = convert_and_release(model, plan.to, plan.only_encoder) if plan.converts else model
    if plan.heads is not None and isinstance(converted, SequenceEncoderModel):
        converted = add_heads(converted, plan.heads, tokenizer)
    difference = None
    if converted is not model:
        difference = check_same_outputs(before, outputs_of(converted, texts))
        names = f"{name} to {type(converted).__name__}"
        say(f"Converted {names}. On sample texts, their outputs differ by at most {difference:.1e}.")
    if isinstance(converted, SequenceEncoderForMaskedLM) and tokenizer is not None:
        _set_special_tokens(converted.config, tokenizer)
    if plan.heads is not None:
        say(f"The weights of {' and '.join(HEAD_FILES)} are unchanged.")
    return converted, difference


def _write(original: _Original, plan: _Plan, converted: PreTrainedModel, target: Path, name: str) -> None:
    """Write the new model, and copy the other files of the checkpoint.

    Args:
        original: The checkpoint.
        plan: What was done with it.
        converted: The new model.
        target: The folder to write.
        name: The name that the folder will have, for the card.
    """
    folder = original.checkpoint.encoder_in(target)
    converted.save_pretrained(folder)
    if plan.heads is not None and not isinstance(converted, SequenceEncoderForRetrieval):
        write_heads(folder, plan.heads)
    if original.tokenizer is not None:
        save_tokenizer(original.tokenizer, folder, list(SAMPLES))
    original.checkpoint.copy_sidecar_files(target)
    _adjust_card(target, name, converted)


def _adjust_card(folder: Path, name: str, model: PreTrainedModel) -> None:
    """Add a section on loading the converted model to the top of its card, or remove it from that of another family."""
    converted = isinstance(model, SequenceEncoderPreTrainedModel)
    text = _CARD_SECTION.format(lines=example_of(folder, name, model)) if converted else None
    replace_section(folder, "conversion", text)


def _set_special_tokens(config: SequenceEncoderConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set the special tokens that `generate` needs, and that the configurations of most families lack."""
    for name in ("cls_token_id", "sep_token_id", "mask_token_id"):
        if getattr(config, name) is None:
            setattr(config, name, getattr(tokenizer, name))


def sample_ids(config: SequenceEncoderConfig, tokenizer: PreTrainedTokenizerBase | None) -> list[torch.Tensor]:
    """Return token ids of sample texts, (1, S) each, or random ids if there is no tokenizer.

    If the model compares texts with labels, each text starts with a label.
    """
    label = (config.zero_shot_classification or {}).get("label_token_id")
    if label is not None:
        texts = _texts_of(config, tokenizer, config.max_position_embeddings - 1)
        return [torch.cat([torch.tensor([[label]]), ids], dim=1) for ids in texts]
    return _texts_of(config, tokenizer, config.max_position_embeddings)


def _texts_of(
    config: SequenceEncoderConfig, tokenizer: PreTrainedTokenizerBase | None, longest: int
) -> list[torch.Tensor]:
    if tokenizer is not None:
        return [tokenizer(text, return_tensors="pt")["input_ids"][:, :longest] for text in SAMPLES]
    # Leave out the padding id, because RoBERTa's positions skip it.
    words = torch.tensor([id_ for id_ in range(config.vocab_size) if id_ != config.pad_token_id])
    generator = torch.Generator().manual_seed(0)
    choices = (torch.randint(len(words), (1, min(4 * n, longest)), generator=generator) for n in range(1, 5))
    return [words[choice] for choice in choices]


@contextmanager
def in_float32(model: PreTrainedModel) -> Iterator[None]:
    """Cast the model's 16-bit tensors to float32, which is exact, and restore their dtypes on exit."""
    halved = [t for t in (*model.parameters(), *model.buffers()) if t.dtype in (torch.float16, torch.bfloat16)]
    dtypes = [tensor.dtype for tensor in halved]
    for tensor in halved:
        tensor.data = tensor.data.float()
    try:
        yield
    finally:
        for tensor, dtype in zip(halved, dtypes, strict=True):
            tensor.data = tensor.data.to(dtype)


@torch.no_grad()
def outputs_of(model: PreTrainedModel, texts: list[torch.Tensor]) -> list[tuple[torch.Tensor, ...]]:
    """Return all outputs for each text, computed in float32."""
    choices = "MultipleChoice" in type(model).__name__
    with in_float32(model.eval()):
        counted_texts = counted_by(Progress("Running the model on sample texts", len(texts), "text"), texts)
        inputs = (ids[None].expand(1, 2, -1) if choices else ids for ids in counted_texts)
        outputs = [model(input_ids=ids, return_dict=True) for ids in inputs]
    return [tuple(value for value in output.to_tuple() if isinstance(value, torch.Tensor)) for output in outputs]


def check_finite_outputs(outputs: list[tuple[torch.Tensor, ...]]) -> None:
    """Check that outputs which cannot be compared are at least finite.

    Raises:
        ValueError: If one of them is NaN or infinite.
    """
    if not all(tensor.isfinite().all() for text in outputs for tensor in text):
        raise ValueError("The outputs of the converted model are NaN or infinite; nothing was written.")


def check_same_outputs(one: list[tuple[torch.Tensor, ...]], other: list[tuple[torch.Tensor, ...]]) -> float:
    """Compare the outputs of two models, and return the largest difference.

    Raises:
        ValueError: If the difference is NaN, or larger than rounding explains for outputs of this size.
    """
    pairs = [pair for first, second in zip(one, other, strict=True) for pair in zip(first, second, strict=False)]
    # Unlike Python's max, torch's propagates NaN.
    difference = float(torch.stack([(a - b).abs().max() for a, b in pairs]).max())
    scale = float(torch.stack([a.abs().max() for a, _ in pairs]).max())
    if not difference <= TOLERANCE * max(1.0, scale):
        raise ValueError(
            f"The outputs differ by {difference:.1e}, which rounding does not explain; nothing was written."
        )
    return difference
