"""A tiny encoder and small learnable examples of every task, for the tests of `sequence-encoder adapt`."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sequence_encoder import SequenceEncoderConfig, SequenceEncoderModel, SequenceEncoderTokenizer
from sequence_encoder.command_line import UsageError
from sequence_encoder.training.adaptation.adapt import adapt
from sequence_encoder.training.adaptation.report import Results
from sequence_encoder.training.adaptation.run import parse

COLOURS, ANIMALS = ["red", "green", "blue"], ["cat", "dog", "owl"]
FILLERS = ["a", "the", "is", "here", "of", "and", "we", "saw", "it", "by"]
WORDS = [*COLOURS, *ANIMALS, *FILLERS, "where", "which", "?"]


# The number of examples in each split, and arguments with which a tiny encoder learns them in seconds.
COUNTS = {"train": 240, "validation": 40, "test": 40}
FAST: dict[str, Any] = {"learning_rate": 8e-3, "num_train_epochs": 4, "per_device_train_batch_size": 16}


def save_encoder(folder: Path, **overrides: Any) -> Path:
    """Save a tiny encoder with random weights and its tokenizer."""
    tokenizer = SequenceEncoderTokenizer.train_from_iterator([" ".join(WORDS)] * 5, vocab_size=90, show_progress=False)
    fields = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "pad_token_id": tokenizer.pad_token_id,
        "type_vocab_size": 2,
        "classifier_head": "linear",
        "pooling": "mean",
        **overrides,
    }
    torch.manual_seed(0)
    SequenceEncoderModel(SequenceEncoderConfig.from_preset("modernbert", **fields)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def examples_of(task: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Return rows with the default columns of a task."""
    rng = random.Random(seed)
    return [_example(task, rng) for _ in range(count)]


def _example(task: str, rng: random.Random) -> dict[str, Any]:
    colour, animal = rng.choice(COLOURS), rng.choice(ANIMALS)
    words = rng.sample(FILLERS, 4)
    place = rng.randrange(4)
    text = " ".join([*words[:place], colour, *words[place:], animal])
    if task == "classification":
        return {"text": text, "label": colour}
    if task == "multi-label":
        return {"text": text, "labels": [colour, animal]}
    if task == "regression":
        return {"text": text, "label": float(COLOURS.index(colour))}
    if task == "ner":
        tokens = text.split()
        tags = ["B-colour" if word in COLOURS else "B-animal" if word in ANIMALS else "O" for word in tokens]
        return {"tokens": tokens, "ner_tags": tags}
    if task == "qa":
        start = text.index(animal)
        return {"question": "which ?", "context": text, "answers": {"text": [animal], "answer_start": [start]}}
    if task == "multiple-choice":
        label = rng.randrange(2)
        choices = [rng.choice(FILLERS), rng.choice(FILLERS)]
        choices[label] = animal
        return {"text": text, "choices": choices, "label": label}
    if task == "infilling":
        return {"text": text}
    if task == "conversation":
        turns = [("user", f"where is the {animal} ?"), ("assistant", f"here is a {colour} {animal}")]
        turns += [("user", "which"), ("assistant", f"the {colour}")]
        return {"messages": [{"role": role, "content": content} for role, content in turns]}
    # The same words in another order.
    other = " ".join(rng.sample(text.split(), len(text.split())))
    if task == "embedding":
        return {"text": text, "text_pair": other}
    label = rng.randrange(2)
    return {"text": text, "text_pair": f"{rng.choice(FILLERS)} {animal if label else colour}", "label": label}


def write_examples(folder: Path, task: str, counts: dict[str, int]) -> dict[str, str]:
    """Write JSON Lines for each split, and return the arguments that name them."""
    arguments = {}
    for number, (split, count) in enumerate(counts.items()):
        arguments[f"{split}_file"] = write_rows(folder / f"{task}-{split}.jsonl", examples_of(task, count, number))
    return arguments


def write_rows(file: Path, rows: list[dict[str, Any]]) -> str:
    """Write JSON Lines, and return the name of the file."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def corpus_of(share: float) -> tuple[Any, ...]:
    """Return vectors, tokens and labels of 600 texts, and vectors of the names of their two classes.

    The names alone are often wrong. Vectors and tokens together tell almost all.

    Args:
        share: The share of texts of the first class.
    """
    rng = np.random.default_rng(0)
    labels = (rng.random(600) > share).astype(int)
    names = rng.normal(size=(2, 64))
    vectors = 0.15 * names[labels] + rng.normal(size=(600, 64))
    tokens = [[*rng.integers(20 * label, 20 * label + 20, 3), *rng.integers(40, 60, 6)] for label in labels]
    return vectors, tokens, labels, names


def arguments(task: str, encoder: Path, output: Path, **options: Any) -> list[str]:
    """Return the command line after `sequence-encoder adapt`."""
    given = {
        "task": task,
        "model": encoder,
        "output_dir": output,
        "bf16": False,
        "disable_tqdm": True,
        "logging_strategy": "no",
        "save_strategy": "no",
        **options,
    }
    parts = []
    for name, value in given.items():
        values = value if isinstance(value, list) else [value]
        parts += [f"--{name}", *map(str, values)]
    return parts


def refusal_of(task: str, file: str, options: dict[str, Any]) -> str:
    """Return the error with which the command line refuses options of a task."""
    given = [f"--{name}={value}" for name, value in options.items()]
    with pytest.raises(UsageError) as caught:
        parse(["--task", task, "--model", "encoder", "--train_file", file, *given])
    return str(caught.value)


def run(task: str, encoder: Path, output: Path, **options: Any) -> Results:
    """Run `sequence-encoder adapt` in this process."""
    return adapt(parse(arguments(task, encoder, output, **options)))
