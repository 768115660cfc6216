"""A checkpoint in a folder or on the Hub, which is found once and then read from a local folder."""

from __future__ import annotations

import os
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..command_line import UsageError
from ..command_line.progress import Progress
from ..modeling import SequenceEncoderPreTrainedModel
from ..modeling.text_encoding.recipe_files import SETTINGS, read_json
from ..saving.exported_models import is_exported
from .converting import convert, convert_loaded, convert_remote_code
from .formats.checkpoints import load_checkpoint
from .formats.package_checkpoints import PackageCheckpoint
from .formats.remote_code_checkpoints import RemoteCodeCheckpoint, find_remote_code
from .formats.static_embeddings import StaticCheckpoint
from .sidecar_files import copy_sidecar_files, folder_of, load_tokenizer
from .source_models import transformer_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BLOCK = 2**22


class Source:
    """The model that a user names.

    Args:
        name: A folder or a Hub id.

    Attributes:
        name: The name, as the user wrote it.
        folder: The local folder. That of a Hub id has all files but the weights of the encoder, at one commit.
        encoder: The folder of the encoder, which is `folder` or that of its first module of sentence-transformers.
        place: Where to load the encoder from: the Hub id if `encoder` lacks the weights, otherwise `encoder`.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If the name is that of a file, or the folder has an invalid list of modules.
    """

    def __init__(self, name: str | os.PathLike[str]) -> None:
        self.name = os.fspath(name)
        self.folder = folder_of(self.name)
        self.encoder = Path(transformer_folder(self.folder))
        self.place = self.name if self.encoder == self.folder else str(self.encoder)

    def __reduce__(self) -> tuple[type[Source], tuple[str]]:
        # Another machine may have another folder.
        return Source, (self.name,)

    @cached_property
    def is_exported(self) -> bool:
        """Whether `sequence-encoder export` wrote this model."""
        return is_exported(self.folder)

    @property
    def identity(self) -> str:
        """What identifies the content of the checkpoint: its commit on the Hub, or a digest of the files in its folder.

        Raises:
            OSError: If a file cannot be read.
        """
        if not os.path.isdir(self.name):
            # The name of a folder in the cache of the Hub is the commit.
            return self.folder.name
        digest = blake2b(digest_size=16)
        for file in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            inside = file.relative_to(self.folder)
            if file.suffix == ".md" or any(part.startswith(".") for part in inside.parts):
                continue
            digest.update(f"{inside.as_posix()}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as content:
                while block := content.read(_BLOCK):
                    digest.update(block)
        return digest.hexdigest()

    @cached_property
    def remote_code(self) -> RemoteCodeCheckpoint | PackageCheckpoint | None:
        """The result of `find_remote_code`: how to convert a checkpoint whose code never runs, or None."""
        return find_remote_code(self.place)

    def load_original(self, base_model: bool = False) -> PreTrainedModel:
        """Load the checkpoint with the classes of its family, or convert it if transformers does not have them.

        Args:
            base_model: Whether to load only the encoder.

        Raises:
            MissingLibraryError: If it is a peft adapter, and peft is not installed.
            ValueError: If it cannot be converted.
        """
        found = self.remote_code
        return load_checkpoint(self.place, base_model) if found is None else convert_remote_code(found, base_model)

    def load(self, base_model: bool = False) -> SequenceEncoderPreTrainedModel:
        """Load the checkpoint as a model of this package. Other families are converted, if `convert` supports them.

        A `TaskAdapter` is loaded as a classifier, and a peft adapter is merged into its base model. The configuration
        of a cross-encoder states its activation.

        Args:
            base_model: Whether to load only the encoder.

        Raises:
            MissingLibraryError: If it is a peft adapter, and peft is not installed.
            ValueError: If it cannot be converted.
        """
        with Progress("Loading the model"):
            if self.remote_code is not None:
                loaded: Any = convert(self.place, base_model=base_model)
            else:
                loaded = load_checkpoint(self.place, base_model)
                if not isinstance(loaded, SequenceEncoderPreTrainedModel):
                    loaded = convert_loaded(loaded, self.place, base_model=base_model)
        # Since version 6, sentence-transformers states it in a separate file.
        if (settings := self.folder / SETTINGS).is_file():
            stated = read_json(settings).get("activation_fn")
            if stated is not None and getattr(loaded.config, "sentence_transformers", None) is None:
                loaded.config.sentence_transformers = {"activation_fn": stated}
        return cast(SequenceEncoderPreTrainedModel, loaded)

    def tokenizer_for(self, model: PreTrainedModel | SequenceEncoderPreTrainedModel) -> PreTrainedTokenizerBase:
        """Load the tokenizer, and check that it fits a model of this checkpoint.

        Raises:
            UsageError: If the checkpoint has no tokenizer.
            ValueError: If the tokenizer does not fit the model.
        """
        tokenizer = self.own_tokenizer(model)
        if tokenizer is None:
            raise UsageError(f"{self.name} has no tokenizer.")
        return tokenizer

    def own_tokenizer(self, model: PreTrainedModel | SequenceEncoderPreTrainedModel) -> PreTrainedTokenizerBase | None:
        """Load the tokenizer, or return None if the checkpoint has none. See `tokenizer_for`."""
        found = self.remote_code
        added = found.tokenizer() if isinstance(found, PackageCheckpoint) else None
        return load_tokenizer(self.encoder, cast(Any, model)) if added is None else added

    def encoder_in(self, target: Path) -> Path:
        """Return the folder of the encoder in a copy of the folder."""
        if isinstance(self.remote_code, StaticCheckpoint):
            return target  # The model has its own list of modules.
        return target / self.encoder.relative_to(self.folder)

    def copy_sidecar_files(self, target: Path) -> None:
        """Copy the card, the licence and the modules of sentence-transformers. See `copy_sidecar_files`."""
        modules = not isinstance(self.remote_code, StaticCheckpoint)
        copy_sidecar_files(self.folder, self.encoder, target, modules)
