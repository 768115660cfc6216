"""Lets a command that only reads configurations start without torch, whose import takes seconds."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_ADVICE = "TRANSFORMERS_NO_ADVISORY_WARNINGS"


@contextmanager
def without_torch() -> Iterator[None]:
    """Hide torch from transformers, whose configurations import it if it is installed, unless it is imported already.

    transformers remembers that torch is missing, so this is only for the last thing that a process does.
    """
    if "torch" in sys.modules:
        yield
        return
    given = os.environ.get(_ADVICE)
    sys.modules["torch"] = None  # type: ignore[assignment] # `import torch` and `find_spec` then find no such module.
    # Otherwise, transformers says that models are not available.
    os.environ[_ADVICE] = "1"
    try:
        yield
    finally:
        del sys.modules["torch"]
        if given is None:
            del os.environ[_ADVICE]
        else:
            os.environ[_ADVICE] = given
