"""How models, configurations and tokenizers are saved and shared: whole, and with the code that loads them."""

from __future__ import annotations

import inspect
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, cast

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.utils import validate_repo_id
from transformers.utils import PushToHubMixin, logging

from .auto_classes import AUTO_CLASSES, is_ours
from .code_bundle import auto_map, custom_pipelines, write_code
from .finite_weights import in_words, not_finite
from .staged_files import files_in, staged

logger = logging.get_logger(__name__)

_PUSH_OPTIONS = set(inspect.signature(PushToHubMixin.push_to_hub).parameters) - {"self", "max_shard_size"}


class SavedWhole(PushToHubMixin):
    """`save_pretrained` and `push_to_hub` that leave nothing half-done. To stand before a class of transformers."""

    @classmethod
    def register_for_auto_class(cls, *args: Any, **kwargs: Any) -> None:
        """For classes that extend those of the package, which `auto_map` names anyway."""
        if not is_ours(cls):
            cast(Any, super()).register_for_auto_class(*args, **kwargs)

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, push_to_hub: bool = False, **kwargs: Any
    ) -> Any:
        """Saves into a folder: what is saved appears there at the end, all at once, or nothing does.

        Other files of the folder stay, but for weights of an earlier model that would be left over.

        Args:
            save_directory: the folder, made if it is not there.
            args: as of transformers.
            push_to_hub: whether to push what is saved as well, to `repo_id` (by default the name of the folder).
            kwargs: of transformers' `save_pretrained`, and of `push_to_hub`.

        Raises:
            FileExistsError: if the folder is a file, or a folder is in the place of a file that is to be saved.
            huggingface_hub.errors.HFValidationError: for a `repo_id` that can be none, before anything is saved.
        """
        folder = Path(save_directory)
        push_options = {name: kwargs.pop(name) for name in _PUSH_OPTIONS & kwargs.keys()}
        repo_id = push_options.pop("repo_id", folder.resolve().name)
        if push_to_hub:
            validate_repo_id(repo_id)
        if kwargs.get("distributed_checkpoint"):
            # All processes write into one folder, each its part, and transformers pushes what comes of it.
            shared = {"push_to_hub": True, "repo_id": repo_id, **push_options} if push_to_hub else {}
            return self._write(folder, *args, **shared, **kwargs)
        left_over = _left_over(kwargs.get("variant"))
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

    def _write(self, folder: Path, *args: Any, **kwargs: Any) -> Any:
        return super().save_pretrained(folder, *args, **kwargs)

    def _write_beside(self, folder: Path, there: Path) -> None:
        """Writes what else belongs to a saved folder into `folder`, whose files go to `there`; nothing by default."""

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
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            self.save_pretrained(folder, max_shard_size=max_shard_size)
            place: dict[str, Any] = {"revision": revision, "create_pr": create_pr, "private": private, "token": token}
            said: dict[str, Any] = {"commit_message": commit_message, "commit_description": commit_description}
            return self._upload(folder, files_in(folder), _left_over(None), repo_id, tags=tags, **place, **said)

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
        """Commits the named files of a folder, a model card, and the end of weights that would be left over.

        The options are those of `push_to_hub`.
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
        """The model card to upload, None for none."""
        return None


class SavedWithCode(SavedWhole):
    """As `SavedWhole`, with the code that loads a model where this package is not installed."""

    def _write(self, folder: Path, *args: Any, **kwargs: Any) -> Any:
        saved = super()._write(folder, *args, **kwargs)
        write_code(folder)
        return saved


class SavedWithAutoMap(SavedWithCode):
    """As `SavedWithCode`, for configurations, which name the classes in the code for each Auto class and pipeline."""

    def _write(self, folder: Path, *args: Any, **kwargs: Any) -> Any:
        config = cast(Any, self)
        if config.model_type not in AUTO_CLASSES:
            # Of a user, who extends one of ours by another type of models; what to save of them transformers knows.
            return SavedWhole._write(self, folder, *args, **kwargs)
        config.auto_map = auto_map(config.model_type, getattr(self, "auto_map", None) or {})
        given = self.__dict__.pop("custom_pipelines", None)
        given = given if isinstance(given, dict) else {}
        if named := custom_pipelines(next(iter(config.architectures or ()), None), given):
            config.custom_pipelines = named
        return super()._write(folder, *args, **kwargs)


class SavedWithCard(SavedWhole):
    """As `SavedWhole`, for models: with the package's model card where the repository has none that someone wrote.

    Weights that are NaN or infinite do not replace others.

    Attributes:
        card_to_push: makes that card. The package sets it, since cards are no part of the code that is saved with every
            model.
    """

    card_to_push: ClassVar[Callable[..., Any] | None] = None

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """As `SavedWhole.save_pretrained`. Warns of weights that are NaN or infinite.

        Raises:
            ValueError: if such weights would replace those that the folder holds.
        """
        state_dict = args[1] if len(args) > 1 else kwargs.get("state_dict")
        if names := not_finite(cast(Any, self), state_dict):
            problem = f"The weights of this {type(self).__name__} are NaN or infinite in {in_words(names)}"
            if any(Path(save_directory).glob("model*.safetensors")):
                raise ValueError(f"{problem}, and would replace those in {save_directory}; choose another folder.")
            logger.warning(f"{problem}. They are saved all the same; most likely the training diverged.")
        return super().save_pretrained(save_directory, *args, **kwargs)

    def _card(self, api: HfApi, repo_id: str, revision: str | None, tags: list[str] | None) -> Any:
        return None if self.card_to_push is None else self.card_to_push(api, repo_id, revision, tags)


def _left_over(variant: str | None) -> Callable[[str, set[str]], bool]:
    """Says which weights of a folder are of an earlier model; transformers would read some of them before the new ones.

    It is called with the name of a file and those of all new files.
    """
    dotted = "" if variant is None else re.escape(f".{variant}")
    weights = re.compile(rf"model{dotted}(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index{dotted}\.json")
    return lambda name, new: bool(weights.fullmatch(name)) and name not in new and any(map(weights.fullmatch, new))
