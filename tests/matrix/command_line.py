"""Runs a command of the package in this process, as a user does."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout

from sequence_encoder.__main__ import main


class Refused(Exception):
    """A command refuses a model, and says why."""


def run(*arguments: object) -> str:
    """Run a command, and return what it prints.

    Raises:
        Refused: If it ends with a message.
    """
    printed = io.StringIO()
    try:
        with redirect_stdout(printed), redirect_stderr(io.StringIO()):
            main([*map(str, arguments)])
    except SystemExit as error:
        if not isinstance(error.code, str):
            raise RuntimeError(f"{arguments[0]} ended with {error.code!r}.") from error
        raise Refused(error.code.partition(": ")[2]) from error
    return printed.getvalue()
