"""A tiny classifier that is overconfident by a known factor, and examples with the labels that it should expect."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch

from sequence_encoder import SequenceEncoderForSequenceClassification, SequenceEncoderTokenizer

HOME = [
    "the",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "and",
    "runs",
    "in",
    "to",
    "an",
    "old",
    "barn",
    "by",
    "night",
]
AWAY = ["zebra", "quartz", "vixen", "python", "kernel", "matrix", "tensor", "socket"]
TEMPERATURE = 2.5


def tokenizer_of_words() -> SequenceEncoderTokenizer:
    """Train a tokenizer that knows all words."""
    words = [" ".join(HOME), " ".join(AWAY)] * 2
    return SequenceEncoderTokenizer.train_from_iterator(words, vocab_size=200, show_progress=False)


def texts_of(words: list[str], number: int, seed: int = 0) -> list[str]:
    """Return random texts."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(words, k=rng.randint(3, 9))) for _ in range(number)]


def overconfident(
    tiny_config: Callable[..., Any], randomize: Callable[..., Any], tokenizer: Any, **fields: Any
) -> SequenceEncoderForSequenceClassification:
    """Build a classifier with logits of a few units."""
    names = [f"kind {number}" for number in range(fields.pop("labels", 2))]
    # Fixtures of modules are made before `_seed` of conftest.py.
    torch.manual_seed(0)
    fields = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}, **fields}
    model = SequenceEncoderForSequenceClassification(tiny_config("bert", vocab_size=len(tokenizer), **fields))
    model = randomize(model)
    with torch.no_grad():
        logits = logits_of(model, tokenizer, texts_of(HOME, 64))
        spread = logits.std(0).mean()
        model.classifier.weight.mul_(4 * TEMPERATURE / spread)
        model.classifier.bias.zero_()
        model.classifier.bias.sub_(logits_of(model, tokenizer, texts_of(HOME, 64)).mean(0))
    return model


@torch.no_grad()
def logits_of(model: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """Return the logits (N, C) of texts."""
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    return model(**batch).logits


def by_temperature(logits: torch.Tensor) -> torch.Tensor:
    """Scale logits by `TEMPERATURE`."""
    return logits / TEMPERATURE


def examples_with(
    model: Any,
    tokenizer: Any,
    number: int,
    seed: int = 0,
    scaled: Callable[[torch.Tensor], torch.Tensor] = by_temperature,
) -> list[dict[str, Any]]:
    """Return texts whose labels are drawn from the probabilities of scaled logits."""
    texts = texts_of(HOME, number, seed)
    probabilities = scaled(logits_of(model, tokenizer, texts)).softmax(-1)
    drawn = torch.multinomial(probabilities, 1, generator=torch.Generator().manual_seed(seed))[:, 0].tolist()
    names = model.config.id2label
    return [{"text": text, "label": names[index]} for text, index in zip(texts, drawn, strict=True)]
