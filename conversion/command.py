"""`sequence-encoder convert`: converts a checkpoint, checks that both models agree on texts, and only then writes."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from transformers import AutoTokenizer, PreTrainedModel
from transformers.utils import ModelOutput

from .convert import convert
from .source_models import load_checkpoint

# What stands beside the weights and stays true: the tokenizer, and what makes a model one of sentence-transformers.
TRAVELLING = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "*.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "modules.json",
    "sentence_*_config.json",
    "config_sentence_transformers.json",
    "[0-9]_*/*",
)
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
    if output.exists() and not (force and (output / "config.json").is_file()):
        hint = (
            "is no folder of a saved model, and --force replaces nothing else" if force else "use --force to replace it"
        )
        raise FileExistsError(f"{target} exists; {hint}.")
    model = load_checkpoint(source)
    converted = convert(model, to=to)
    beside = Path(source) if os.path.isdir(source) else Path(snapshot_download(source, allow_patterns=list(TRAVELLING)))
    difference = largest_difference(model, converted, sample_ids(model, beside))
    names = f"{type(model).__name__} to {type(converted).__name__}"
    print(f"{names}: on sample texts their outputs differ by at most {difference:.1e}.")
    if not difference <= TOLERANCE:
        raise ValueError(f"The outputs differ by {difference:.1e}, more than rounding explains; nothing was written.")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".convert-", dir=output.parent) as scratch:
        written = Path(scratch, "converted")
        converted.save_pretrained(written)
        for path in (path for pattern in TRAVELLING for path in beside.glob(pattern) if path.is_file()):
            place = written / path.relative_to(beside)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
        # Only what is whole takes the place of what was there.
        if output.exists():
            output.rename(Path(scratch, "replaced"))
        written.rename(output)
    print(f"Saved in {output}.")
    return difference


def sample_ids(model: PreTrainedModel, folder: Path) -> list[torch.Tensor]:
    """Token ids, (1, S) each, of sample texts; of chance where there is no tokenizer."""
    if any(folder.glob("tokenizer*")) or any(folder.glob("vocab*")):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return [tokenizer(text, return_tensors="pt")["input_ids"] for text in SAMPLES]
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(model.config.vocab_size, (1, 4 * n), generator=generator) for n in range(1, 5)]


@torch.inference_mode()
def largest_difference(one: PreTrainedModel, other: PreTrainedModel, texts: list[torch.Tensor]) -> float:
    """The largest difference between outputs that both have, in float32."""
    models = [copy.deepcopy(m).float() if m.dtype != torch.float32 else m for m in (one, other)]
    choices = "MultipleChoice" in type(one).__name__
    differences = []
    for ids in texts:
        ids = ids[None].expand(1, 2, -1) if choices else ids
        first, second = (model.eval()(input_ids=ids) for model in models)
        for a, b in zip(_tensors(first), _tensors(second), strict=False):
            differences.append((a - b).abs().max())
    # torch's maximum is NaN where one of them is, and Python's is not.
    return float(torch.stack(differences).max())


def _tensors(output: ModelOutput) -> list[torch.Tensor]:
    return [value for value in output.to_tuple() if isinstance(value, torch.Tensor)]
