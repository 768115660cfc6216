"""Worked example: what a question is about, and the text that answers it, with one frozen encoder.

    python answer_questions.py --model_name_or_path MODEL \
        --questions "how do I draw a histogram" "solve a system of linear equations"

The texts are the docstrings of the libraries on this disk; their first paragraphs, which are as short as questions. A
`TaskAdapter` learns which library such a text is about (the intent), and search among the texts of that library, or
among all where the intent is not sure, finds the answer.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import cast

import torch
from common import read_arguments
from transformers import AutoTokenizer, DataCollatorWithPadding, pipeline

from sequence_encoder import SequenceEncoderModel, TaskAdapter, convert, train_adapted_model
from sequence_encoder.conversion.source_models import load_checkpoint
from sequence_encoder.training.documentation import Docstring, read_documentation


@dataclass
class QuestionArguments:
    """What is asked, and what answers."""

    model_name_or_path: str = field(metadata={"help": "An encoder of sentences: ours, or one to be carried over."})
    questions: list[str] = field(metadata={"help": "In plain words."})
    libraries: int = field(default=8, metadata={"help": "How many, those with the most docstrings."})
    texts_per_library: int = field(default=1000, metadata={"help": "Of each library."})
    epochs: int = field(default=10, metadata={"help": "Of the adapter, which needs the encoder in the first alone."})
    least_score: float = field(default=0.5, metadata={"help": "How sure the intent must be to search by it."})


def texts_of(docs: list[Docstring], libraries: int, count: int) -> list[Docstring]:
    """As many docstrings of each of the largest libraries."""
    largest = [name for name, _ in Counter(doc.library for doc in docs).most_common(libraries)]
    drawn = random.Random(0).sample(docs, len(docs))
    return [doc for name in largest for doc in [doc for doc in drawn if doc.library == name][:count]]


def summary(text: str) -> str:
    """The first paragraph, as one line."""
    return " ".join(text.partition("\n\n")[0].split())


def load_encoder(name: str) -> SequenceEncoderModel:
    """An encoder without a head."""
    model = load_checkpoint(name, base_model=True)
    return cast(SequenceEncoderModel, model if isinstance(model, SequenceEncoderModel) else convert(model))


def main() -> None:
    """Learns intents, searches, prints."""
    (arguments,) = read_arguments(QuestionArguments)
    docs = texts_of(read_documentation(), arguments.libraries, arguments.texts_per_library)
    labels = sorted({doc.library for doc in docs})
    encoder = load_encoder(arguments.model_name_or_path)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model_name_or_path)

    # What a question is about. Names of libraries are hidden, so that it is learned from the rest.
    adapter = TaskAdapter(encoder, len(labels), id2label=dict(enumerate(labels)))
    items = [
        {**tokenizer(summary(doc.hidden), truncation=True, max_length=128), "labels": labels.index(doc.library)}
        for doc in docs
    ]
    collate = DataCollatorWithPadding(tokenizer)
    loader: torch.utils.data.DataLoader[dict[str, torch.Tensor]] = torch.utils.data.DataLoader(
        items,  # type: ignore[arg-type]
        batch_size=32,
        shuffle=True,
        collate_fn=collate,
    )
    train_adapted_model(adapter, loader, arguments.epochs, learning_rate=3e-3)
    intent = pipeline("text-classification", model=adapter, tokenizer=tokenizer)

    # What answers it.
    vectors = encoder.encode(
        [summary(doc.text) for doc in docs],
        tokenizer,
        max_length=128,
        normalize_embeddings=True,
        convert_to_tensor=True,
    )
    for question in arguments.questions:
        about = intent(question)[0]
        asked = encoder.encode(question, tokenizer, normalize_embeddings=True, convert_to_tensor=True)
        sure = about["score"] >= arguments.least_score
        among = torch.tensor([not sure or doc.library == about["label"] for doc in docs])
        best = docs[int((vectors @ asked).masked_fill(~among, -torch.inf).argmax())]
        print(f"\n{question}\n  about {about['label']} ({about['score']:.2f})\n  {summary(best.text)}\n  {best.path}")


if __name__ == "__main__":
    main()
