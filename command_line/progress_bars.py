"""Hides the progress bars and the reports of libraries."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import huggingface_hub.utils as hub_bars
from transformers.utils import logging as transformers_bars


@contextmanager
def hide_progress_bars() -> Iterator[None]:
    """Hide the progress bars for loading and saving models, and the bars of `datasets` if there is no terminal.

    Downloads from the Hub keep their bars.
    """
    from datasets import utils as datasets_bars

    texts = datasets_bars.are_progress_bars_disabled() is False
    if texts and not sys.stderr.isatty():
        datasets_bars.disable_progress_bars()
    try:
        with hide_model_bars():
            yield
    finally:
        if texts:
            datasets_bars.enable_progress_bars()


@contextmanager
def hide_model_bars() -> Iterator[None]:
    """Hide the progress bars for loading and saving models. Downloads from the Hub keep theirs."""
    models, downloads = transformers_bars.is_progress_bar_enabled(), not hub_bars.are_progress_bars_disabled()
    transformers_bars.disable_progress_bar()
    if downloads:
        # transformers has disabled the bars of downloads as well.
        hub_bars.enable_progress_bars()
    try:
        yield
    finally:
        if models:
            transformers_bars.enable_progress_bar()


@contextmanager
def new_head() -> Iterator[None]:
    """Silence the reports of missing and unexpected weights, which a new head causes, and of deprecated calls."""
    level = transformers_bars.get_verbosity()
    transformers_bars.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
            yield
    finally:
        transformers_bars.set_verbosity(level)
