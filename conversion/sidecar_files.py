"""The other files of a checkpoint: its tokenizer, its sentence-transformers modules and its card."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

from ..command_line.quiet import without_warning
from ..saving.exported_models import EXPORT_MANIFEST
from ..saving.model_files import PYTHON_CONFIG, TOKENIZER_FILES, VOCABULARIES
from ..saving.module_list import MODULE_LIST, module_paths
from .peft_adapters import ADAPTER_CONFIG, find_adapter
from .source_models import transformer_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Patterns of the sentence-transformers files, the card and the licence. Each module has a separate folder.
_ABOUT = ("README.md", "LICENSE*")
SIDECAR_FILES = (MODULE_LIST, "sentence_*_config.json", "config_sentence_transformers.json", *_ABOUT)


def folder_of(source: str) -> Path:
    """Return a local folder with the sidecar files of a checkpoint.

    A Hub id is downloaded, without the weights of its encoder.

    Raises:
        FileNotFoundError: If `source` is not a local folder and cannot be downloaded.
    """
    if os.path.exists(transformer_folder(source)):
        return Path(source)
    configs = ("config.json", PYTHON_CONFIG, "gliner_config.json", ADAPTER_CONFIG, EXPORT_MANIFEST)
    folder = download(source, [*SIDECAR_FILES, *TOKENIZER_FILES, *configs])
    if modules := module_folders(folder):
        download(source, [f"{module}/*" for module in modules])
    return folder


def download(source: str, patterns: list[str]) -> Path:
    """Download the files of a Hub id that match patterns, and return their folder.

    Raises:
        FileNotFoundError: If they cannot be downloaded.
    """
    try:
        return Path(snapshot_download(source, allow_patterns=patterns))
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{source} is neither a local folder nor a model on the Hub that you have access to."
        ) from error
    except (OSError, HFValidationError) as error:
        reason = f"{error.__cause__ or error}".partition("\n")[0]
        raise FileNotFoundError(
            f"{source} is not a local folder and could not be downloaded from the Hub: {reason}"
        ) from error


def module_folders(folder: Path) -> list[str]:
    """Return the folders of the sentence-transformers modules, or an empty list if there is no module list.

    Raises:
        ValueError: If the list is invalid, or if a module's folder is not inside `folder`.
    """
    return [path for path in module_paths(folder) if path]


def copy_sidecar_files(folder: Path, encoder: Path, target: Path, modules: bool = True) -> None:
    """Copy the sidecar files to `target`, except those in the encoder's folder.

    A module without files, such as `Normalize`, need not have a folder.

    Args:
        folder: The folder of the checkpoint.
        encoder: The folder of its encoder.
        target: The folder to write into.
        modules: Whether to copy the modules of sentence-transformers, and not only the card and the licence.
    """
    files = [path for pattern in (SIDECAR_FILES if modules else _ABOUT) for path in folder.glob(pattern)]
    for module in module_folders(folder) if modules else []:
        inside = (folder / module).rglob("*") if folder / module != encoder else encoder.glob("sentence_*_config.json")
        files += [path for path in inside if path.is_file()]
    if find_adapter(folder) is not None:
        # The card of an adapter says how to use it with its base model, which the new folder does not need.
        files = [path for path in files if path.name != "README.md"]
    for path in files:
        place = target / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def load_tokenizer(folder: str | os.PathLike[str], model: PreTrainedModel) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer in a folder. A peft adapter without one uses the tokenizer of its base model.

    Returns:
        The tokenizer, or None if the model has none.

    Raises:
        ValueError: If the tokenizer cannot be read, or if it has ids for which the model has no embedding.
    """
    if not any((Path(folder) / name).is_file() for name in VOCABULARIES):
        adapter = find_adapter(folder)
        return None if adapter is None else load_tokenizer(transformer_folder(folder_of(adapter.base)), model)
    tokenizer = read_tokenizer(folder)
    largest = max(tokenizer.get_vocab().values(), default=0)
    rows = cast(Any, model.get_input_embeddings()).weight.shape[0]
    if largest >= rows:
        raise ValueError(f"The tokenizer in {folder} has ids up to {largest}, but the model has {rows} embeddings.")
    return tokenizer


def read_tokenizer(source: str | os.PathLike[str]) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder or a Hub id.

    Raises:
        FileNotFoundError: If there is no such folder or model.
        ValueError: If it has no tokenizer, or if the tokenizer cannot be read.
    """
    from transformers import AutoTokenizer

    # Loading from the local folder saves transformers the requests to the Hub.
    folder = folder_of(os.fspath(source))
    try:
        # Transformers warns of model types that it does not know, although their tokenizers do not depend on them.
        with without_warning("transformers.configuration_utils", "You are using a model of type"):
            # `None` would ask on a terminal whether to run code from the Hub.
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        # The new folder does not have the code that this refers to. Saving adds the reference to our own code again.
        tokenizer.init_kwargs.pop("auto_map", None)
        return tokenizer
    except Exception as error:  # Tokenizer files have a dozen formats, and their parsers raise all kinds of errors.
        if not any((folder / name).is_file() for name in TOKENIZER_FILES):
            raise ValueError(f"{source} has no tokenizer files, such as tokenizer.json.") from error
        needs_code = "trust_remote_code" in str(error)
        reason = "it needs code from the Hub, which this package does not run" if needs_code else error
        raise ValueError(f"The tokenizer in {source} cannot be read: {reason}") from error


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, texts: list[str]) -> None:
    """Save a tokenizer with its new model, and check on sample texts that it loads as the same tokenizer.

    Raises:
        ValueError: If it loads as a different tokenizer.
    """
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(folder)
    again = AutoTokenizer.from_pretrained(folder)
    if (
        again(texts, texts)["input_ids"] != tokenizer(texts, texts)["input_ids"]
        or again.pad_token != tokenizer.pad_token
    ):
        raise ValueError(f"The saved {type(tokenizer).__name__} loads as a different tokenizer with the new model.")
