"""A corpus tokenised once, in parallel, and kept on the disk by `datasets`: windows that every epoch reads again."""

from __future__ import annotations

import os
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..command_line import UsageError
from .corpus import texts_of
from .windows import segment_windows

# Documents that a process holds in memory at once, with their tokens.
_BATCH = 100


def windows_of(
    texts: Any, tokenizer: PreTrainedTokenizerBase, max_length: int, pairs: bool = True, num_proc: int | None = None
) -> Any:
    """The windows of a `datasets.Dataset` with a column "text", as a `datasets.Dataset`.

    What was tokenised before with the same tokenizer is read from the cache of `datasets`.

    Args:
        texts: the documents.
        tokenizer: of the model.
        max_length: of a window.
        pairs: whether windows are cut into two segments.
        num_proc: processes; by default one a core, but one for few documents.

    Raises:
        UsageError: if there is nothing to train on.
    """
    from datasets import Features, Sequence, Value

    # A tokenizer changes when it is first used, and the name in the cache with it.
    tokenizer("", add_special_tokens=False)
    processes = num_proc or min(os.cpu_count() or 1, len(texts) // 1000 + 1)
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
        raise UsageError(f"None of the {len(texts)} documents has a token: there is nothing to train on.")
    return windows


def _cut(batch: Any, tokenizer: PreTrainedTokenizerBase, max_length: int, pairs: bool) -> dict[str, list[Any]]:
    windows = list(segment_windows(texts_of(batch), tokenizer, max_length, pairs))
    return {name: [window[name] for window in windows] for name in ("input_ids", "cut", "length")}
