"""Saves models, configurations and tokenizers atomically, and pushes them to the Hub in a single commit."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, cast

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.utils import validate_repo_id
from transformers.utils import logging

from .calibration_files import CALIBRATION_FILES
from .code_bundle import OLDER_FILES
from .finite_weights import find_non_finite, summarize_names
from .saving import PUSH_OPTIONS, SavingMixin
from .staged_files import files_in, staged

logger = logging.get_logger(__name__)


class AtomicSavingMixin(SavingMixin):
    """Mixin whose `save_pretrained` and `push_to_hub` write all files or none.

    List it before the base class of transformers.
    """

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, push_to_hub: bool = False, **kwargs: Any
    ) -> Any:
        """Save to a folder. Either all files appear there at the end, or none do.

        Weights of an earlier model that the new ones do not replace are removed. All other files in the folder are
        kept.

        Args:
            save_directory: The folder, which is created if it does not exist.
            *args: Arguments of transformers' `save_pretrained`.
            push_to_hub: Whether to push the saved files to `repo_id`, which defaults to the name of the folder.
            **kwargs: Arguments of transformers' `save_pretrained` and of `push_to_hub`.

        Raises:
            FileExistsError: If `save_directory` is a file, or has a folder with the name of a file to save.
            huggingface_hub.errors.HFValidationError: If `repo_id` is invalid. This is checked before saving.
        """
        folder = Path(save_directory)
        push_options = {name: kwargs.pop(name) for name in PUSH_OPTIONS & kwargs.keys()}
        repo_id = push_options.pop("repo_id", folder.resolve().name)
        if push_to_hub:
            validate_repo_id(repo_id)
        if kwargs.get("distributed_checkpoint"):
            # All processes write their parts into the same folder, and transformers pushes the result.
            shared = {"push_to_hub": True, "repo_id": repo_id, **push_options} if push_to_hub else {}
            return self._write(folder, *args, **shared, **kwargs)
        left_over = _outdated_weights(kwargs.get("variant"))
        with staged(folder, left_over) as new:
            saved = self._write(new, *args, **kwargs)
            if kwargs.get("is_main_process", True):
                self._write_beside(new, folder)
            names = files_in(new)
        if isinstance(saved, tuple):
            saved = tuple(str(folder / Path(path).relative_to(new)) for path in saved)
        if push_to_hub and names:
            self._upload(folder, names, left_over, repo_id, **push_options)
        return saved

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
        """Save, and upload all files in a single commit.

        Args:
            repo_id: `user/name`, or `name` for a repository of the current user. It is created if it does not exist.
            commit_message: The message of the commit; by default the name of the class that is uploaded.
            commit_description: The description of the commit.
            private: Whether a new repository is private.
            token: The access token; by default the stored one.
            revision: The branch, which is created if it does not exist.
            create_pr: Whether to open a pull request instead of committing to the branch.
            max_shard_size: Maximum size of a weight file.
            tags: Tags for the model card.

        Returns:
            The `CommitInfo`.

        Raises:
            huggingface_hub.errors.HfHubHTTPError: If the Hub refuses the upload.
        """
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            self.save_pretrained(folder, max_shard_size=max_shard_size)
            place: dict[str, Any] = {"revision": revision, "create_pr": create_pr, "private": private, "token": token}
            commit_fields: dict[str, Any] = {"commit_message": commit_message, "commit_description": commit_description}
            return self._upload(
                folder, files_in(folder), _outdated_weights(None), repo_id, tags=tags, **place, **commit_fields
            )

    def _upload(
        self,
        folder: Path,
        names: set[str],
        left_over: Callable[[str, set[str]], bool],
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        tags: list[str] | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        commit_message: str | None = None,
        **commit: Any,
    ) -> Any:
        """Commit the named files of a folder and a model card, and delete weights that they leave outdated.

        The other arguments are those of `push_to_hub`.
        """
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        changes: list[Any] = [CommitOperationAdd(name, folder / name) for name in sorted(names)]
        there = api.list_repo_files(repo_id, revision=revision)
        changes += [CommitOperationDelete(name) for name in there if name not in names and left_over(name, names)]
        card = self._card(api, repo_id, revision, tags)
        if card is not None:
            changes.append(CommitOperationAdd("README.md", str(card).encode()))
        return api.create_commit(
            repo_id,
            changes,
            commit_message=commit_message or f"Upload {type(self).__name__}",
            revision=revision,
            create_pr=create_pr,
            **commit,
        )

    def _card(self, api: HfApi, repo_id: str, revision: str | None, tags: list[str] | None) -> Any:
        """Return the model card to upload, if any."""
        return None


class ModelSavingMixin(AtomicSavingMixin):
    """Mixin like `AtomicSavingMixin` for models, which also pushes a model card and protects good weights.

    A push does not replace a card that a user wrote. Weights that are NaN or infinite never overwrite other weights.

    Attributes:
        card_to_push: The function that makes the card.
        trim_card: The function that removes from the card in a folder what is not true of the saved model.
    """

    card_to_push: ClassVar[Callable[..., Any] | None] = None
    trim_card: ClassVar[Callable[..., Any] | None] = None

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Save to a folder like `AtomicSavingMixin.save_pretrained`, and warn if weights are NaN or infinite.

        Args:
            save_directory: The folder.
            *args: Arguments of `AtomicSavingMixin.save_pretrained`.
            **kwargs: Keyword arguments of `AtomicSavingMixin.save_pretrained`.

        Raises:
            ValueError: If such weights would overwrite those in the folder.
        """
        state_dict = args[1] if len(args) > 1 else kwargs.get("state_dict")
        if names := find_non_finite(cast(Any, self), state_dict):
            problem = f"The weights of this {type(self).__name__} are NaN or infinite in {summarize_names(names)}"
            if any(Path(save_directory).glob("model*.safetensors")):
                raise ValueError(f"{problem}, and would replace those in {save_directory}; choose another folder.")
            logger.warning(f"{problem}. They are saved anyway; the training has probably diverged.")
        saved = super().save_pretrained(save_directory, *args, **kwargs)
        if self.trim_card is not None and kwargs.get("is_main_process", True):
            self.trim_card(Path(save_directory))
        return saved

    def _card(self, api: HfApi, repo_id: str, revision: str | None, tags: list[str] | None) -> Any:
        return None if self.card_to_push is None else self.card_to_push(api, repo_id, revision, tags)


def _outdated_weights(variant: str | None) -> Callable[[str, set[str]], bool]:
    """Return a predicate for weights of an earlier model, which transformers might load instead of the new ones.

    It takes the name of a file and the names of all new files. The calibration of that model is outdated as well, and
    so is a file of code that earlier versions saved.
    """
    dotted = "" if variant is None else re.escape(f".{variant}")
    weights = re.compile(rf"model{dotted}(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index{dotted}\.json")

    def outdated(name: str, new: set[str]) -> bool:
        known = weights.fullmatch(name) or (name in CALIBRATION_FILES | OLDER_FILES and variant is None)
        return bool(known) and name not in new and any(map(weights.fullmatch, new))

    return outdated
