"""Worked example: extract the named entities of raw texts into a table, as JSON Lines.

    python tweets.py tweets
    sequence-encoder adapt MODEL --task ner --train_file tweets/train.jsonl --test_file tweets/test.jsonl \
        --num_train_epochs 8 --learning_rate 2e-4 --output_dir tagger
    python extract_entities.py --model_name_or_path tagger --text_file texts.txt --output_file entities.jsonl

Each line describes one entity: its kind, its name as first spelled, the number of its mentions, and the position of
each mention, which is a line of the text file and a range of characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import read_arguments
from transformers import pipeline

import sequence_encoder  # noqa: F401 # registers the models with the Auto classes


@dataclass
class ExtractionArguments:
    """The model, the texts and the output."""

    model_name_or_path: str = field(metadata={"help": "Model from `sequence-encoder adapt --task ner`."})
    text_file: str = field(metadata={"help": "File with one text per line."})
    output_file: str = field(default="entities.jsonl", metadata={"help": "File for the table."})
    least_score: float = field(default=0.5, metadata={"help": "Minimum score of an entity."})


def find(texts: list[str], model: str, least_score: float) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number of the text, entity) for all texts."""
    # As in training, the label of a word is that of its first token.
    tag = pipeline("token-classification", model=model, aggregation_strategy="first")
    for number, entities in enumerate(tag(texts)):
        yield from ((number, entity) for entity in entities if float(entity["score"]) >= least_score)


def table(texts: list[str], found: Iterable[tuple[int, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return a row for each entity, the most frequent first."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for number, entity in found:
        start, end = int(entity["start"]), int(entity["end"])
        name, kind = texts[number][start:end], entity["entity_group"]
        row = rows.setdefault((kind, name.casefold()), {"kind": kind, "name": name, "count": 0, "mentions": []})
        row["count"] += 1
        row["mentions"].append({"text": number, "start": start, "end": end, "score": round(float(entity["score"]), 3)})
    return sorted(rows.values(), key=lambda row: -row["count"])


def main() -> None:
    """Extract the entities of a file and write the table."""
    (arguments,) = read_arguments(ExtractionArguments)
    texts = Path(arguments.text_file).read_text(encoding="utf-8").splitlines()
    rows = table(texts, find(texts, arguments.model_name_or_path, arguments.least_score))
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    Path(arguments.output_file).write_text(lines, encoding="utf-8")
    print(f"{len(rows)} entities with {sum(row['count'] for row in rows)} mentions, in {arguments.output_file}.")


if __name__ == "__main__":
    main()
