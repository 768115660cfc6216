"""How encoders are trained: corpora, objectives and recipes. Nothing here is needed to use one."""


class UsageError(ValueError):
    """What a command was asked for cannot be done; its message says why, and no traceback is needed."""
