"""Tokenises a corpus into windows once, in parallel. `datasets` keeps them on disk for every epoch."""

from __future__ import annotations

import os
import sys
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..command_line import UsageError
from ..command_line.progress import Progress
from .corpus import texts_of
from .windows import segment_windows

# Number of documents that a process keeps in memory at once, with their tokens.
_BATCH = 100


def windows_of(
    texts: Any, tokenizer: PreTrainedTokenizerBase, max_length: int, pairs: bool = True, num_proc: int | None = None
) -> Any:
    """Tokenise a `datasets.Dataset` with a column "text" into a `datasets.Dataset` of windows.

    Texts that the same tokenizer has tokenised before come from the cache of `datasets`.

    Args:
        texts: The documents.
        tokenizer: The tokenizer of the model.
        max_length: The maximum number of tokens in a window.
        pairs: Whether to cut windows into two segments.
        num_proc: The number of processes. Defaults to one per core, or fewer if there are few documents.

    Raises:
        UsageError: If no document has a token.
    """
    from datasets import Features, Sequence, Value

    # The first call changes the state of a tokenizer, and with it the fingerprint in the cache.
    tokenizer("", add_special_tokens=False)
    processes = num_proc or min(os.cpu_count() or 1, len(texts) // 1000 + 1)
    # On a terminal, `datasets` shows a bar.
    with Progress("Tokenising", show=not sys.stderr.isatty()):
        windows = texts.map(
            _cut,
            batched=True,
            batch_size=_BATCH,
            remove_columns=texts.column_names,
            features=Features({"input_ids": Sequence(Value("int32")), "cut": Value("int32"), "length": Value("int32")}),
            fn_kwargs={"tokenizer": tokenizer, "max_length": max_length, "pairs": pairs},
            num_proc=processes if processes > 1 else None,
            desc="Tokenising",
        )
    if not len(windows):
        raise UsageError(f"none of the {len(texts)} documents has a token, so there is nothing to train on.")
    return windows


def _cut(batch: Any, tokenizer: PreTrainedTokenizerBase, max_length: int, pairs: bool) -> dict[str, list[Any]]:
    windows = list(segment_windows(texts_of(batch), tokenizer, max_length, pairs))
    return {name: [window[name] for window in windows] for name in ("input_ids", "cut", "length")}
