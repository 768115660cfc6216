"""Docstrings of the standard library as texts, and tokenizers trained on them."""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import random
import string
import textwrap
from pathlib import Path

from sequence_encoder import SequenceEncoderTokenizer

DOCUMENTED = [json, json.dumps, difflib, difflib.SequenceMatcher, difflib.unified_diff, random.Random, random.choices]
DOCUMENTED += [string.Formatter, textwrap.TextWrapper, textwrap.dedent, Path, Path.stat, inspect.signature, sorted]
TEXTS = [text for text in map(inspect.getdoc, DOCUMENTED) if text]
LONG = " ".join(f"word{i}" for i in range(40))


@functools.cache
def tokenizer_of(algorithm: str = "wordpiece") -> SequenceEncoderTokenizer:
    """Train a tokenizer on these texts."""
    return SequenceEncoderTokenizer.train_from_iterator(
        [*TEXTS, LONG], vocab_size=500, algorithm=algorithm, show_progress=False
    )
