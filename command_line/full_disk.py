"""Recognises the errors of a full disk, which some libraries raise as errors of their own."""

from __future__ import annotations

import errno
import os

# No space, no more space for this user, and a file above the limit.
_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error says that there is no room for what was to be written."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _ERRORS
    # LanceDB, safetensors and ONNX repeat what the system says.
    return any(os.strerror(number) in str(error) for number in _ERRORS)
