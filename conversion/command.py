"""`sequence-encoder convert`: converts a checkpoint, checks that both models agree on texts, and only then writes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..configuration import SequenceEncoderConfig
from ..hub.whole_folders import check_replaceable, written_whole
from .convert import convert_and_release, our_config
from .source_models import load_checkpoint, transformer_folder

# Whose model it is, and under which conditions.
CARDS = ("README.md", "LICENSE*")
# What makes a model one of sentence-transformers; the folders are those of its modules.
TRAVELLING = ("modules.json", "sentence_*_config.json", "config_sentence_transformers.json", "[0-9]*_*/**/*", *CARDS)
TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "*.model", "*.codes", "*_tokens*.json")
# On the Hub a star stands for slashes too.
HUB_PATTERNS = [pattern.replace("**/", "") for pattern in (*TRAVELLING, *TOKENIZER_FILES, "config.json")]
SAMPLES = (
    "A short text.",
    "Encoders read a text as a whole, and give a vector for each of its tokens.",
    "¿Qué tal? Ça va. 42 % of them are 3.14 times as long; naïve façades, e.g. in Zürich.",
    "def add(a, b):\n    return a + b",
)
# Rounding of float32 differs with the order of sums; anything above this is no rounding.
TOLERANCE = 1e-3


def convert_checkpoint(
    source: str, target: str, to: str | None = None, base_model: bool = False, force: bool = False
) -> float:
    """Converts `source`, a folder or a Hub id, into the folder `target`, and returns the largest difference seen.

    Holds the weights once, in float32, and one tensor more: what has been converted is released at once.

    Args:
        source: as of `convert`.
        target: the folder to write.
        to: as of `convert`.
        base_model: as of `convert`.
        force: whether to replace `target` if it is the folder of a saved model.

    Raises:
        FileExistsError: if `target` exists and may not be replaced, before anything is loaded.
        ValueError: if the checkpoint cannot be converted, or the models do not agree; nothing is written then.
    """
    output = Path(target)
    check_replaceable(output, force, "--force", kept=Path(source))
    beside = folder_of(source)
    encoder = Path(transformer_folder(beside))
    model = load_checkpoint(source if encoder == beside else encoder, base_model)
    tokenizer = load_tokenizer(encoder, model)
    texts = sample_ids(our_config(model), tokenizer)
    before, original = outputs_of(model, texts), type(model).__name__
    converted = convert_and_release(model, to)
    difference = largest_difference(before, outputs_of(converted, texts))
    names = f"{original} to {type(converted).__name__}"
    print(f"{names}: on sample texts their outputs differ by at most {difference:.1e}.")
    if not difference <= TOLERANCE:
        raise ValueError(f"The outputs differ by {difference:.1e}, more than rounding explains; nothing was written.")
    with written_whole(output) as written:
        converted.save_pretrained(written / encoder.relative_to(beside))
        if tokenizer is not None:
            save_tokenizer(tokenizer, written / encoder.relative_to(beside))
        for path in (path for pattern in TRAVELLING for path in beside.glob(pattern) if path.is_file()):
            if path.parent == encoder != beside and not path.match("sentence_*_config.json"):
                continue
            place = written / path.relative_to(beside)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    print(f"Saved in {output}.")
    return difference


def folder_of(source: str) -> Path:
    """The folder itself, or one with what a Hub id has besides weights.

    Raises:
        FileNotFoundError: if there is neither.
    """
    if os.path.exists(transformer_folder(source)):
        return Path(source)
    try:
        return Path(snapshot_download(source, allow_patterns=HUB_PATTERNS))
    except (OSError, HFValidationError) as error:
        raise FileNotFoundError(f"There is no folder {source} here, and as a Hub id: {error}") from error


def load_tokenizer(folder: Path, model: PreTrainedModel) -> PreTrainedTokenizerBase | None:
    """The tokenizer in a folder, if there is one.

    Raises:
        ValueError: if it cannot be read, or has ids for which the model has no vectors.
    """
    if not any(found for pattern in TOKENIZER_FILES for found in folder.glob(pattern)):
        print(f"There is no tokenizer in {folder}; none will be saved, and the sample texts are random ids.")
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # Whatever the parsers of a dozen kinds of files raise.
        raise ValueError(f"The tokenizer in {folder} cannot be read: {error}") from error
    largest, rows = (
        max(tokenizer.get_vocab().values(), default=0),
        cast(Any, model.get_input_embeddings()).num_embeddings,
    )
    if largest >= rows:
        raise ValueError(f"The tokenizer in {folder} has ids up to {largest}, but the model has {rows} vectors.")
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Saves a tokenizer, with its class, and checks that it loads to the same beside its new model.

    Raises:
        ValueError: if it does not.
    """
    tokenizer.save_pretrained(folder)
    again = AutoTokenizer.from_pretrained(folder)
    texts = list(SAMPLES)
    if (
        again(texts, texts)["input_ids"] != tokenizer(texts, texts)["input_ids"]
        or again.pad_token != tokenizer.pad_token
    ):
        raise ValueError(f"The tokenizer, a {type(tokenizer).__name__}, loads as another one beside the new model.")


def sample_ids(config: SequenceEncoderConfig, tokenizer: PreTrainedTokenizerBase | None) -> list[torch.Tensor]:
    """Token ids, (1, S) each, of sample texts; of chance where there is no tokenizer."""
    longest = config.max_position_embeddings
    if tokenizer is not None:
        return [tokenizer(text, return_tensors="pt")["input_ids"][:, :longest] for text in SAMPLES]
    # Without padding, which RoBERTa counts out of its positions.
    words = torch.tensor([id_ for id_ in range(config.vocab_size) if id_ != config.pad_token_id])
    generator = torch.Generator().manual_seed(0)
    choices = (torch.randint(len(words), (1, min(4 * n, longest)), generator=generator) for n in range(1, 5))
    return [words[choice] for choice in choices]


@contextmanager
def in_float32(model: PreTrainedModel) -> Iterator[None]:
    """The model with 16-bit tensors as float32, which holds them exactly, and afterwards as they were."""
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
    """All outputs for each text, computed in float32."""
    choices = "MultipleChoice" in type(model).__name__
    with in_float32(model.eval()):
        outputs = [model(input_ids=ids[None].expand(1, 2, -1) if choices else ids, return_dict=True) for ids in texts]
    return [tuple(value for value in output.to_tuple() if isinstance(value, torch.Tensor)) for output in outputs]


def largest_difference(one: list[tuple[torch.Tensor, ...]], other: list[tuple[torch.Tensor, ...]]) -> float:
    """The largest difference between the outputs that both have; NaN if there is one."""
    pairs = [pair for first, second in zip(one, other, strict=True) for pair in zip(first, second, strict=False)]
    # torch's maximum is NaN where one of them is, and Python's is not.
    return float(torch.stack([(a - b).abs().max() for a, b in pairs]).max())
