"""What travels with a checkpoint: its tokenizer, the modules of sentence-transformers around it, its card."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, cast

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..saving.model_files import TOKENIZER_FILES, VOCABULARIES
from ..saving.module_list import MODULE_LIST, module_paths
from .source_models import transformer_folder

# What makes a model one of sentence-transformers, and whose it is, under which conditions. Modules have folders beside.
TRAVELLING = (MODULE_LIST, "sentence_*_config.json", "config_sentence_transformers.json", "README.md", "LICENSE*")


def folder_of(source: str) -> Path:
    """The folder itself, or one with what a Hub id has besides the weights of its encoder.

    Raises:
        FileNotFoundError: if there is neither.
    """
    if os.path.exists(transformer_folder(source)):
        return Path(source)
    try:
        folder = Path(snapshot_download(source, allow_patterns=[*TRAVELLING, *TOKENIZER_FILES, "config.json"]))
        if modules := module_folders(folder):
            snapshot_download(source, allow_patterns=[f"{module}/*" for module in modules])
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{source} is neither a folder here nor a model on the Hub that you have access to."
        ) from error
    except (OSError, HFValidationError) as error:
        reason = f"{error.__cause__ or error}".partition("\n")[0]
        raise FileNotFoundError(
            f"{source} is not a folder here, and could not be downloaded from the Hub: {reason}"
        ) from error
    return folder


def module_folders(folder: Path) -> list[str]:
    """The folders of sentence-transformers' modules; none where there is no list of them.

    Raises:
        ValueError: if the list is not what it should be, or one of the folders is not inside `folder`.
    """
    return [path for path in module_paths(folder) if path]


def copy_sidecar_files(folder: Path, encoder: Path, target: Path) -> None:
    """Copies to `target` all that travels, but what is in the folder of the encoder itself.

    A module without files, such as one that scales vectors to length 1, need not have a folder.
    """
    files = [path for pattern in TRAVELLING for path in folder.glob(pattern)]
    for module in module_folders(folder):
        inside = (folder / module).rglob("*") if folder / module != encoder else encoder.glob("sentence_*_config.json")
        files += [path for path in inside if path.is_file()]
    for path in files:
        place = target / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def load_tokenizer(folder: str | os.PathLike[str], model: PreTrainedModel) -> PreTrainedTokenizerBase | None:
    """The tokenizer in a folder, None if there is none.

    Raises:
        ValueError: if it cannot be read, or has ids for which the model has no vectors.
    """
    if not any((Path(folder) / name).is_file() for name in VOCABULARIES):
        return None
    tokenizer = read_tokenizer(folder)
    largest = max(tokenizer.get_vocab().values(), default=0)
    rows = cast(Any, model.get_input_embeddings()).weight.shape[0]
    if largest >= rows:
        raise ValueError(f"The tokenizer in {folder} has ids up to {largest}, but the model has {rows} vectors.")
    return tokenizer


def read_tokenizer(source: str | os.PathLike[str]) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or a Hub id.

    Raises:
        FileNotFoundError: if there is no such folder or model.
        ValueError: if there is no tokenizer in it, or it cannot be read.
    """
    # From its folder, which `transformers` need not look for on the Hub.
    folder = folder_of(os.fspath(source))
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # Whatever the parsers of a dozen kinds of files raise.
        if not any((folder / name).is_file() for name in TOKENIZER_FILES):
            raise ValueError(f"{source} holds no tokenizer, such as a tokenizer.json.") from error
        raise ValueError(f"The tokenizer in {source} cannot be read: {error}") from error


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, texts: list[str]) -> None:
    """Saves a tokenizer, with its class, and checks on texts that it loads to the same beside its new model.

    Raises:
        ValueError: if it does not.
    """
    tokenizer.save_pretrained(folder)
    again = AutoTokenizer.from_pretrained(folder)
    if (
        again(texts, texts)["input_ids"] != tokenizer(texts, texts)["input_ids"]
        or again.pad_token != tokenizer.pad_token
    ):
        raise ValueError(f"The tokenizer, a {type(tokenizer).__name__}, loads as another one beside the new model.")
