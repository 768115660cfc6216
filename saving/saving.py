"""Saves models and configurations with what belongs to them, such as the code that loads them."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any, cast

from transformers.utils import PushToHubMixin

PUSH_OPTIONS = set(inspect.signature(PushToHubMixin.push_to_hub).parameters) - {"self", "max_shard_size"}


class SavingMixin(PushToHubMixin):
    """Mixin for classes that save more files than transformers does. List it before transformers' base class."""

    @classmethod
    def register_for_auto_class(cls, *args: Any, **kwargs: Any) -> None:
        """Register a user's subclass for an Auto class. Classes of this code are always in `auto_map`."""
        if cls.__module__.partition(".")[0] != __name__.partition(".")[0]:
            cast(Any, super()).register_for_auto_class(*args, **kwargs)

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, push_to_hub: bool = False, **kwargs: Any
    ) -> Any:
        """Save to a folder as transformers does, with the code that loads the folder.

        Args:
            save_directory: The folder, which is created if it does not exist.
            *args: Arguments of transformers' `save_pretrained`.
            push_to_hub: Whether to push the files to `repo_id`, which defaults to the name of the folder.
            **kwargs: Arguments of transformers' `save_pretrained` and of `push_to_hub`.
        """
        folder = Path(save_directory)
        options = {name: kwargs.pop(name) for name in PUSH_OPTIONS & kwargs.keys()}
        saved = self._write(folder, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            self._write_beside(folder, folder)
        if push_to_hub:
            self.push_to_hub(options.pop("repo_id", folder.resolve().name), **options)
        return saved

    def _write(self, folder: Path, *args: Any, **kwargs: Any) -> Any:
        return cast(Any, super()).save_pretrained(folder, *args, **kwargs)

    def _write_beside(self, folder: Path, there: Path) -> None:
        """Write additional files into `folder`, from which they are moved to `there`. Subclasses may override this."""
