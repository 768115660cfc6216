"""Hides the messages and progress bars of libraries while a command runs."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from .progress import Progress, counted_by

# The commands check loaded weights themselves, they cut long texts or read them in parts, and a model may take the ids
# of its tokenizer. A EuroBERT configuration cannot go without a mask token, not even while a model is compared with it.
_HIDDEN = (
    *(" LOAD REPORT", "Token indices sequence length is longer"),
    *("The tokenizer has new PAD/BOS/EOS tokens", "Model config: mask_token_id must be"),
)
_DATASETS = "HF_DATASETS_DISABLE_PROGRESS_BARS"


@contextmanager
def quiet_libraries(dataset_bars: bool = False) -> Iterator[None]:
    """Hide progress bars of libraries, and messages that users of a command cannot act on.

    Downloads from the Hub keep their bars.

    Args:
        dataset_bars: Whether `datasets` keeps its bars on a terminal, which know the time that is left.
    """
    with ExitStack() as stack:
        stack.enter_context(_without_messages())
        stack.enter_context(_without_model_bars())
        if not (dataset_bars and sys.stderr.isatty()):
            stack.enter_context(_without_dataset_bars())
        yield


@contextmanager
def new_head() -> Iterator[None]:
    """Silence the reports of missing and unexpected weights, which a new head causes, and of deprecated calls."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
            yield
    finally:
        transformers_logging.set_verbosity(level)


@contextmanager
def without_warning(logger: str, beginning: str) -> Iterator[None]:
    """Hide the messages of a logger that start with the given words."""

    def does_not_start(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(beginning)

    logging.getLogger(logger).addFilter(does_not_start)
    try:
        yield
    finally:
        logging.getLogger(logger).removeFilter(does_not_start)


@contextmanager
def without_bars_of(function: Any) -> Iterator[None]:
    """Hide the bars that a function of a library shows with tqdm, where the library has no setting for them."""
    module: Any = sys.modules[function.__module__]
    if not hasattr(module, "tqdm"):  # Not every kind of model, in every version, shows bars.
        yield
        return
    tqdm, module.tqdm = module.tqdm, lambda items, *args, **options: items
    try:
        yield
    finally:
        module.tqdm = tqdm


@contextmanager
def _without_messages() -> Iterator[None]:
    from transformers.utils import logging as transformers_logging

    def is_wanted(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not any(part in message for part in _HIDDEN)

    # This logger adds the handler of all loggers of transformers, whose filters see the records of each of them.
    handlers = [*transformers_logging.get_logger("transformers").handlers]
    for handler in handlers:
        handler.addFilter(is_wanted)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_wanted)


@contextmanager
def _without_model_bars() -> Iterator[None]:
    import huggingface_hub.utils as hub_bars
    from transformers.utils import logging as transformers_bars

    models, downloads = transformers_bars.is_progress_bar_enabled(), not hub_bars.are_progress_bars_disabled()
    transformers_bars.disable_progress_bar()
    # Not every version of transformers lets others count the weights that it loads.
    set_hook = getattr(transformers_bars, "set_tqdm_hook", lambda hook: None)
    earlier = set_hook(_count_weights)
    if downloads:
        # transformers has disabled the bars of downloads as well.
        hub_bars.enable_progress_bars()
    try:
        yield
    finally:
        set_hook(earlier)
        if models:
            transformers_bars.enable_progress_bar()


def _count_weights(bar: Any, given: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Show our progress instead of the bar with which transformers counts the weights that it loads."""
    if options.get("desc") != "Loading weights" or not given:
        return bar(*given, **options)
    return counted_by(Progress("Loading the weights", len(given[0]), "weight"), given[0])


@contextmanager
def _without_dataset_bars() -> Iterator[None]:
    if _DATASETS in os.environ:
        yield
        return
    if "datasets" not in sys.modules:
        # Not every command needs `datasets`, whose import takes a second. It reads the variable when it is imported.
        os.environ[_DATASETS] = "1"
        try:
            yield
        finally:
            os.environ.pop(_DATASETS, None)
        return
    from datasets import utils as datasets_bars

    shown = not datasets_bars.are_progress_bars_disabled()
    datasets_bars.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets_bars.enable_progress_bars()
