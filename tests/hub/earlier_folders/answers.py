"""What the folders of all kinds answer, as JSON has it. Only a search needs the package.

Each function returns the module that answers first, and takes further options of `from_pretrained`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

TEXTS = ["a bad cab", "dab", "cab a dab bad a cab", "a dad bad cab cad"]
LABELS = ["cab", "bad dab"]
CALLS: list[dict[str, Any]] = [{}, {"coverage": 0.8}, {"top_k": None, "abstain_below": 0.1}]


def vectors(folder: Path, **options: Any) -> Any:
    """Return the vectors of the texts."""
    model = transformers.AutoModel.from_pretrained(folder, **options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    return [type(model).__module__, model.encode(TEXTS, tokenizer).tolist()]


def logits(folder: Path, **options: Any) -> Any:
    """Return the logits of the texts."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, **options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    with torch.no_grad():
        return [type(model).__module__, model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits.tolist()]


def calibrated(folder: Path, **options: Any) -> Any:
    """Return scores, sets of labels and unfamiliarity, by several options of the pipeline."""
    pipe = transformers.pipeline("text-classification", model=str(folder), **options)
    return [type(pipe).__module__, [pipe(TEXTS, **call) for call in CALLS]]


def spans(folder: Path, **options: Any) -> Any:
    """Return all spans with their scores, and those that the pipeline finds."""
    model = transformers.AutoModel.from_pretrained(folder, **options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    pipe = transformers.pipeline("zero-shot-entities", model=str(folder), **options)
    found = model.extract(TEXTS, LABELS, tokenizer, threshold=0, nested=True, multi_label=True)
    return [type(model).__module__, [found, pipe(TEXTS, labels=LABELS)]]


def hits(folder: Path) -> Any:
    """Return the hits of each text by meaning, by words and by both, in an index of the vectors of the encoder."""
    from sequence_encoder import SearchIndex

    index = SearchIndex(folder, model=str(folder.with_name("encoder")))
    modes = ("vector", "text", "hybrid")
    found = [[vars(hit) for hit in index.search(text, 3, mode=mode)] for text in TEXTS for mode in modes]
    return [SearchIndex.__module__, found]


# The kinds by the names of their folders.
KINDS: dict[str, Callable[..., Any]] = {
    "encoder": vectors,
    "static-encoder": vectors,
    "eight-bit-encoder": vectors,
    "classifier": logits,
    "calibrated-classifier": calibrated,
    "extractor": spans,
    "search-index": hits,
}
