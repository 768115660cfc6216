"""What `optimize` does to objects of other libraries that hold all-MiniLM-L6-v2, as they are and with `exact=False`.

python benchmarks/optimize.py
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from minilm import MINILM
from peers import interleaved, print_machine, short_texts
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import (
    AutoTokenizer,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    pipeline,
)

from sequence_encoder import optimize
from sequence_encoder.data.documentation import STANDARD_LIBRARY, docstrings_of, find_libraries

TEXTS, BATCH = 256, 32
HEADS: dict[str, type] = {
    "text-classification": BertForSequenceClassification,
    "token-classification": BertForTokenClassification,
    "feature-extraction": BertModel,
}


def ragged_texts(count: int) -> list[str]:
    """Return docstrings of the standard library, from a word to some paragraphs, in random order."""
    docs = [doc for path in find_libraries()[STANDARD_LIBRARY] for doc in docstrings_of(path)]
    order = np.random.default_rng(0).permutation(len(docs))[:count]
    return [docs[index][:2000] for index in order]


def variants(make: Callable[[], Any]) -> dict[str, Any]:
    """Return an object as it is, optimized, and optimized without being exact."""
    torch.manual_seed(0)
    original = make()
    return {
        "as it was": original,
        "optimize": optimize(copy.deepcopy(original)),
        "exact=False": optimize(copy.deepcopy(original), exact=False),
    }


def compare(title: str, objects: dict[str, Any], run: Callable[[Any], Any]) -> None:
    """Print how much faster each object is, as a row of a table."""
    seconds = interleaved({name: lambda each=each: run(each) for name, each in objects.items()})  # type: ignore[misc]
    first = seconds["as it was"]
    print(f"| {title} | {first:.2f} s | " + " | ".join(f"{first / value:.2f}" for value in seconds.values()) + " |")


def main() -> None:
    """Measure every object."""
    print_machine()
    print("\n| object | seconds | as it was | `optimize` | `exact=False` |\n|---|---|---|---|---|")
    ragged, sentences = ragged_texts(TEXTS), short_texts(TEXTS)
    sentence_encoders = variants(lambda: SentenceTransformer(str(MINILM), device="cpu"))
    vectors = {name: each.encode(ragged) for name, each in sentence_encoders.items()}
    for title, texts in (("ragged texts", ragged), ("sentences", sentences), ("equal lengths", [ragged[0]] * TEXTS)):
        compare(f"SentenceTransformer, {title}", sentence_encoders, lambda each, texts=texts: each.encode(texts))
    compare("SentenceTransformer, one short text", sentence_encoders, lambda each: each.encode("A short text."))
    rerankers = variants(lambda: CrossEncoder(str(MINILM), num_labels=1, device="cpu"))
    pairs = list(zip(ragged[::2], ragged[1::2], strict=True))
    compare("CrossEncoder, ragged pairs", rerankers, lambda each: each.predict(pairs))
    tokenizer = AutoTokenizer.from_pretrained(MINILM)
    for task, head in HEADS.items():
        model = head.from_pretrained(MINILM)  # type: ignore[attr-defined]
        pipes = variants(lambda: pipeline(task, model, tokenizer=tokenizer, device="cpu", batch_size=BATCH))  # noqa: B023
        compare(f"pipeline, {task}, ragged texts", pipes, lambda each: each(ragged, truncation=True))
    exact, rounded = (vectors[name] for name in ("optimize", "exact=False"))
    print(f"\nLargest difference of a vector: {np.abs(exact - vectors['as it was']).max():.1e}; least cosine with")
    print(f"exact=False: {(rounded * vectors['as it was']).sum(axis=1).min():.5f}.")


if __name__ == "__main__":
    main()
