"""What all commands share: the parser, the console, and errors that need no traceback."""


class UsageError(ValueError):
    """A command cannot do what it was asked to; the message says why, and no traceback is needed."""
