"""Shared parts of all commands: the parser, the console, and errors that need no traceback."""


class UsageError(ValueError):
    """A user error. A command prints its message without a traceback."""
