"""Hides what the exporters of transformers and torch print about their own work."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from transformers.utils import logging as transformers_logging

_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "onnxruntime.quantization.matmul_nbits_quantizer")


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Hide progress messages, and warnings about versions and about operations that models do not use.

    Errors are raised as usual.
    """
    verbosity = transformers_logging.get_verbosity()
    root, hidden = logging.getLogger(), [logging.getLogger(name) for name in _LOGGERS]
    levels, handlers = {logger: logger.level for logger in (root, *hidden)}, root.handlers[:]
    transformers_logging.set_verbosity_error()
    for logger in hidden:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        # ONNX Runtime configures the root logger when its quantizer is imported.
        root.handlers[:] = handlers
        for logger, level in levels.items():
            logger.setLevel(level)
