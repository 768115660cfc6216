"""How models, configurations and tokenizers are saved and shared: whole, and with the code that loads them."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers.utils import PushToHubMixin

from .code_bundle import write_code
from .staged_files import staged

# Those of a repository that are not uploaded again are of an earlier model.
_WEIGHTS = ["model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"]
_PUSH_OPTIONS = set(inspect.signature(PushToHubMixin.push_to_hub).parameters) - {"self", "max_shard_size"}


class SavedWhole(PushToHubMixin):
    """`save_pretrained` and `push_to_hub` that leave nothing half-done. To stand before a class of transformers."""

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, push_to_hub: bool = False, **kwargs: Any
    ) -> Any:
        """Saves into a folder: what is saved appears there at the end, all at once, or nothing does.

        Other files of the folder stay, but for weights of an earlier model that would be left over.

        Args:
            save_directory: the folder, made if it is not there.
            args: as of transformers.
            push_to_hub: whether to push as well, to `repo_id` (by default the name of the folder).
            kwargs: of transformers' `save_pretrained`, and of `push_to_hub`.

        Raises:
            FileExistsError: if the folder is a file, or a folder is in the place of a file that is to be saved.
        """
        push_options = {name: kwargs.pop(name) for name in _PUSH_OPTIONS & kwargs.keys()}
        folder = Path(save_directory)
        if kwargs.get("distributed_checkpoint"):
            # All processes write into one folder, each its part.
            saved = self._write(folder, *args, **kwargs)
        else:
            with staged(folder, _left_over(kwargs.get("variant"))) as new:
                saved = self._write(new, *args, **kwargs)
            if isinstance(saved, tuple):
                saved = tuple(str(folder / Path(path).relative_to(new)) for path in saved)
        if push_to_hub and kwargs.get("is_main_process", True):
            self.push_to_hub(push_options.pop("repo_id", folder.resolve().name), **push_options)
        return saved

    def _write(self, folder: Path, *args: Any, **kwargs: Any) -> Any:
        return super().save_pretrained(folder, *args, **kwargs)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str | None = "50GB",
        tags: list[str] | None = None,
    ) -> Any:
        """Saves, and uploads in one commit: the repository shows all of it or nothing.

        Args:
            repo_id: `user/name`, or `name` among those of the user; made if it is not there.
            commit_message: by default what is uploaded.
            commit_description: more of it.
            private: whether a new repository is private.
            token: of the user; by default the stored one.
            revision: the branch; made if it is not there.
            create_pr: whether to open a pull request instead.
            max_shard_size: of a file of weights.
            tags: for the search of the Hub; they go to the model card.

        Returns:
            The `CommitInfo`.

        Raises:
            huggingface_hub.errors.HfHubHTTPError: if the Hub refuses it.
        """
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, max_shard_size=max_shard_size)
            card = self._card(repo_id, tags, token)
            if card is not None:
                card.save(Path(folder, "README.md"))
            return api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message or f"Upload {type(self).__name__}",
                commit_description=commit_description,
                revision=revision,
                create_pr=create_pr,
                delete_patterns=_WEIGHTS if any(Path(folder).glob("*.safetensors")) else None,
            )

    def _card(self, repo_id: str, tags: list[str] | None, token: str | bool | None) -> Any:
        """The model card to upload, None for none."""
        return None


class SavedWithCode(SavedWhole):
    """As `SavedWhole`, with the code that loads a model where this package is not installed."""

    def _write(self, folder: Path, *args: Any, **kwargs: Any) -> Any:
        saved = super()._write(folder, *args, **kwargs)
        write_code(folder)
        return saved


class SavedWithCard(SavedWhole):
    """As `SavedWhole`, with the package's model card where the repository has none that someone wrote."""

    def _card(self, repo_id: str, tags: list[str] | None, token: str | bool | None) -> Any:
        try:
            # Not a statement, which would make cards a part of the code that is saved with every model.
            model_card = importlib.import_module(".model_card", __package__)
        except ModuleNotFoundError:
            return None
        return model_card.card_to_push(self, repo_id, tags, token)


def _left_over(variant: str | None) -> Callable[[str, set[str]], bool]:
    """Says which weights of a folder are of an earlier model; transformers would read some of them before the new ones.

    It is called with the name of a file and those of all new files.
    """
    dotted = "" if variant is None else re.escape(f".{variant}")
    weights = re.compile(rf"model{dotted}(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index{dotted}\.json")
    return lambda name, new: bool(weights.fullmatch(name)) and name not in new and any(map(weights.fullmatch, new))
