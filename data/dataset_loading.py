"""Loads files and Hub datasets with `datasets`, with errors that name what cannot be loaded."""

from __future__ import annotations

import copy
import glob
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..command_line import UsageError


def read_files(reader: str, files: list[Path], named: str, streaming: bool = False, **options: Any) -> Any:
    """Read the rows of files as a dataset or a stream, with a reader of `datasets` and its options.

    Raises:
        UsageError: If a file cannot be read. The message names the file, or what the user gave, `named`.
    """
    from datasets import load_dataset

    from ..command_line.quiet import without_warning

    def load(files: list[Path], streaming: bool) -> Any:
        # `datasets` treats file names as patterns.
        names = [glob.escape(str(file)) for file in files]
        with quiet_hub():
            return load_dataset(reader, data_files=names, split="train", streaming=streaming, **options)

    # The errors below repeat this message and add a remedy.
    with without_warning(f"datasets.packaged_modules.{reader}.{reader}", "Failed to "):
        try:
            rows = load(files, streaming)
            if streaming:
                next(iter(copy.deepcopy(rows)), None)
            return rows
        # Each reader raises its own kinds of errors.
        except Exception as error:
            if isinstance(error, OSError) and error.errno:
                raise
            for file in files:
                try:
                    for _ in load([file], True):
                        pass
                except Exception as cause:
                    raise UsageError(
                        f"{file} cannot be read as {reader}: {str(cause) or type(cause).__name__}"
                    ) from error
            raise UsageError(f"{named} cannot be read: {error.__cause__ or error}") from error


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Keep `datasets` from sending a request to the Hub, which counts downloads, when it reads local files."""
    from datasets import config

    counted = config.HF_UPDATE_DOWNLOAD_COUNTS
    config.HF_UPDATE_DOWNLOAD_COUNTS = False
    try:
        yield
    finally:
        config.HF_UPDATE_DOWNLOAD_COUNTS = counted


def load_from_hub(name: str, argument: str, config: str | None, **options: Any) -> Any:
    """Load a dataset from the Hub, whose id came from the option `argument`.

    Raises:
        UsageError: If there is no such dataset, or if it cannot be loaded.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        return load_dataset(name, config, **options)
    except (DatasetNotFoundError, ValueError, ConnectionError) as error:
        raise UsageError(f"--{argument} {name}: {error}") from error


def commit_of(name: str) -> str | None:
    """Return the newest commit of a dataset on the Hub, or None if the Hub cannot be asked."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    # Connection errors are not OSErrors, but share the second base class of HfHubHTTPError.
    failures: tuple[type[Exception], ...] = (OSError, ValueError, HfHubHTTPError.__mro__[1])
    try:
        return HfApi().dataset_info(name).sha
    except failures:
        # The dataset may be in the cache.
        return None
