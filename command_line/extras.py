"""Checks for optional libraries, with an error message that says how to install them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import version
from importlib.util import find_spec

from . import UsageError


class MissingLibraryError(UsageError, ImportError):
    """An optional library is not installed. Commands print only the message; in Python, this is an `ImportError`."""


def require(purpose: str, *libraries: str, extra: str | None = None) -> None:
    """Check that optional libraries are installed, without importing them.

    Args:
        purpose: The feature that needs them, as the user asked for it, such as "--tuning lora".
        *libraries: The import names of the libraries.
        extra: The extra of this package that installs them, or None if no extra does.

    Raises:
        MissingLibraryError: If any of them is missing.
    """
    missing = [name for name in libraries if not is_installed(name)]
    if missing:
        wanted = f"'sequence-encoder[{extra}]'" if extra else " ".join(missing)
        *rest, last = missing
        named = f"{', '.join(rest)} and {last}" if rest else last
        raise MissingLibraryError(
            f"{purpose} needs {named}, which {'is' if len(missing) == 1 else 'are'} not installed. "
            f"Install with: pip install {wanted}"
        )


def require_version(purpose: str, library: str, least: str, reason: str, extra: str) -> None:
    """Check that an installed library is new enough.

    Args:
        purpose: The feature that needs it, as for `require`.
        library: The name of its distribution.
        least: The oldest version that works.
        reason: What older versions lack, such as "older ones cannot do that".
        extra: The extra of this package that installs it.

    Raises:
        MissingLibraryError: If it is older.
    """
    from packaging.version import Version

    if Version(found := version(library)) < Version(least):
        raise MissingLibraryError(
            f"{purpose} needs {library} {least} or newer, because {reason}, and {found} is installed. Install with: "
            f"pip install 'sequence-encoder[{extra}]'"
        )


def require_reporters(names: Iterable[str]) -> None:
    """Check the libraries of `--report_to` that an extra installs. `Trainer` itself checks for the others.

    Raises:
        MissingLibraryError: If a library is missing.
    """
    if "tensorboard" in names:
        require("--report_to tensorboard", "tensorboard", extra="train")


def is_installed(library: str) -> bool:
    """Return whether a library can be imported."""
    if library in sys.modules:
        return sys.modules[library] is not None
    return find_spec(library) is not None
