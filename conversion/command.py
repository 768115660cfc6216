"""`sequence-encoder convert`: converts a checkpoint, checks that both models agree on texts, and only then writes."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from ..modeling import SequenceEncoderPreTrainedModel
from .convert import convert
from .source_models import load_checkpoint

# What makes a model one of sentence-transformers; the folders are those of its modules.
TRAVELLING = ("modules.json", "sentence_*_config.json", "config_sentence_transformers.json", "[0-9]*_*/**/*")
TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "*.model", "*.codes", "*_tokens*.json")
SAMPLES = (
    "A short text.",
    "Encoders read a text as a whole, and give a vector for each of its tokens.",
    "¿Qué tal? Ça va. 42 % of them are 3.14 times as long; naïve façades, e.g. in Zürich.",
    "def add(a, b):\n    return a + b",
)
# Rounding of float32 differs with the order of sums; anything above this is no rounding.
TOLERANCE = 1e-3


def convert_checkpoint(source: str, target: str, to: str | None = None, force: bool = False) -> float:
    """Converts `source`, a folder or a Hub id, into the folder `target`, and returns the largest difference seen.

    Holds both models in memory, and copies of them in float32 if they are in another dtype.

    Raises:
        FileExistsError: if `target` exists and may not be replaced, before anything is loaded.
        ValueError: if the checkpoint cannot be converted, or the models do not agree; nothing is written then.
    """
    output = Path(target)
    check_target(output, Path(source), force)
    model = load_checkpoint(source)
    converted = convert(model, to=to)
    patterns = [*TRAVELLING, *TOKENIZER_FILES, "config.json"]
    beside = Path(source) if os.path.isdir(source) else Path(snapshot_download(source, allow_patterns=patterns))
    tokenizer = None
    if any(found for pattern in TOKENIZER_FILES for found in beside.glob(pattern)):
        tokenizer = AutoTokenizer.from_pretrained(beside)
    difference = largest_difference(model, converted, sample_ids(model, converted, tokenizer))
    names = f"{type(model).__name__} to {type(converted).__name__}"
    print(f"{names}: on sample texts their outputs differ by at most {difference:.1e}.")
    if not difference <= TOLERANCE:
        raise ValueError(f"The outputs differ by {difference:.1e}, more than rounding explains; nothing was written.")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".convert-", dir=output.parent) as scratch:
        written, replaced = Path(scratch, "converted"), Path(scratch, "replaced")
        converted.save_pretrained(written)
        if tokenizer is not None:
            save_tokenizer(tokenizer, written)
        for path in (path for pattern in TRAVELLING for path in beside.glob(pattern) if path.is_file()):
            place = written / path.relative_to(beside)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
        # Only what is whole takes the place of what was there.
        if output.exists():
            output.rename(replaced)
        try:
            written.rename(output)
        except BaseException:
            if replaced.exists():
                replaced.rename(output)
            raise
    print(f"Saved in {output}.")
    return difference


def check_target(output: Path, source: Path, force: bool) -> None:
    """Checks that nothing but a saved model would be replaced, and not the source.

    Raises:
        FileExistsError: if the folder exists and may not be replaced.
    """
    if not (output.exists() or output.is_symlink()):
        return
    if not force:
        raise FileExistsError(f"{output} exists; use --force to replace it.")
    if output.is_symlink() or not (output / "config.json").is_file():
        raise FileExistsError(f"{output} exists; it is no folder of a saved model, and --force replaces nothing else.")
    if any(output.resolve() in (kept, *kept.parents) for kept in (source.resolve(), Path.cwd())):
        raise FileExistsError(f"{output} holds the source {source}, or is where you are; choose another target.")


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


def sample_ids(
    model: PreTrainedModel, converted: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
) -> list[torch.Tensor]:
    """Token ids, (1, S) each, of sample texts; of chance where there is no tokenizer."""
    ours = model.config if isinstance(model, SequenceEncoderPreTrainedModel) else converted.config
    longest = ours.max_position_embeddings
    if tokenizer is not None:
        return [tokenizer(text, return_tensors="pt")["input_ids"][:, :longest] for text in SAMPLES]
    # Without padding, which RoBERTa counts out of its positions.
    words = torch.tensor([id_ for id_ in range(ours.vocab_size) if id_ != ours.pad_token_id])
    generator = torch.Generator().manual_seed(0)
    choices = (torch.randint(len(words), (1, min(4 * n, longest)), generator=generator) for n in range(1, 5))
    return [words[choice] for choice in choices]


@torch.inference_mode()
def largest_difference(one: PreTrainedModel, other: PreTrainedModel, texts: list[torch.Tensor]) -> float:
    """The largest difference between outputs that both have, in float32."""
    models = [copy.deepcopy(m).float() if m.dtype != torch.float32 else m for m in (one, other)]
    choices = "MultipleChoice" in type(one).__name__
    differences = []
    for ids in texts:
        ids = ids[None].expand(1, 2, -1) if choices else ids
        first, second = (model.eval()(input_ids=ids, return_dict=True) for model in models)
        for a, b in zip(_tensors(first), _tensors(second), strict=False):
            differences.append((a - b).abs().max())
    # torch's maximum is NaN where one of them is, and Python's is not.
    return float(torch.stack(differences).max())


def _tensors(output: ModelOutput) -> list[torch.Tensor]:
    return [value for value in output.to_tuple() if isinstance(value, torch.Tensor)]
