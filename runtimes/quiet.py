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
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    # ONNX Runtime configures the root logger when its quantizer is imported.
    root, handlers, level = logging.getLogger(), logging.getLogger().handlers[:], logging.getLogger().level
    transformers_logging.set_verbosity_error()
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        root.handlers[:] = handlers
        for logger, before in ((root, level), *((logging.getLogger(name), levels[name]) for name in levels)):
            logger.setLevel(before)
