"""Folders that are there as a whole or not at all, and never in place of anything but an older model."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_replaceable(output: Path, replace: bool, option: str, kept: Path | None = None) -> None:
    """Checks that nothing but an older model would be replaced, and not where one is, nor what is still needed.

    Args:
        output: the folder to be written.
        replace: whether the user allows it to be replaced.
        option: what the user says to allow that.
        kept: what must not be in `output`.

    Raises:
        FileExistsError: if the folder exists and may not be replaced.
    """
    if not (output.exists() or output.is_symlink()):
        return
    if not replace:
        raise FileExistsError(f"{output} exists; choose another folder, or replace it with {option}.")
    if output.is_symlink() or os.path.ismount(output) or not (_is_model(output) or _is_empty(output)):
        raise FileExistsError(f"{output} exists and is no folder of a saved model; {option} replaces nothing else.")
    resolved = output.resolve()
    if kept is not None and resolved in (kept.resolve(), *kept.resolve().parents):
        raise FileExistsError(f"{output} holds {kept}, which is to be read; choose another folder.")
    if resolved in (Path.cwd(), *Path.cwd().parents):
        raise FileExistsError(f"{output} is where you are; choose another folder.")


def _is_model(folder: Path) -> bool:
    try:
        return "model_type" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


@contextmanager
def written_whole(output: Path) -> Iterator[Path]:
    """Gives a new folder to write into. It takes the place of `output` at the end, if nothing went wrong until then.

    Whether that may be replaced is for `check_replaceable` to say, before the work.

    Raises:
        OSError: if nothing can be written beside `output`.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    # Beside the output, so that the finished folder only has to be renamed.
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as scratch:
        written, replaced = Path(scratch, "written"), Path(scratch, "replaced")
        written.mkdir()
        yield written
        if output.exists():
            output.rename(replaced)
        try:
            written.rename(output)
        except BaseException:
            if replaced.exists():
                replaced.rename(output)
            raise
