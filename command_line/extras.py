"""Optional libraries: one check for them, and one message with the command that installs them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.util import find_spec

from . import UsageError


class MissingLibraryError(UsageError, ImportError):
    """An optional library is not installed. Commands print the message alone; in Python it is an `ImportError`."""


def require(purpose: str, *libraries: str, extra: str | None = None) -> None:
    """Check that optional libraries are installed, without importing them.

    Args:
        purpose: what needs them, as the user asked for it, such as "--tuning lora".
        libraries: the names that they are imported by.
        extra: the extra of this package that installs them; None for libraries that are in no extra.

    Raises:
        MissingLibraryError: if any of them is missing.
    """
    missing = [name for name in libraries if not is_installed(name)]
    if missing:
        wanted = f"'sequence-encoder[{extra}]'" if extra else " ".join(missing)
        raise MissingLibraryError(
            f"{purpose} needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed. "
            f"Install with: pip install {wanted}"
        )


def require_reporters(names: Iterable[str]) -> None:
    """Check the libraries of `--report_to` that an extra installs; the callbacks of `Trainer` look for all others.

    Raises:
        MissingLibraryError: if one is missing.
    """
    if "tensorboard" in names:
        require("--report_to tensorboard", "tensorboard", extra="train")


def is_installed(library: str) -> bool:
    """Whether a library can be imported."""
    if library in sys.modules:
        return sys.modules[library] is not None
    return find_spec(library) is not None
