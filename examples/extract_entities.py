"""Worked example: extracts the named entities of raw text into a small table, as JSON Lines.

    python tweets.py tweets
    sequence-encoder adapt --task ner --from MODEL --train_file tweets/train.jsonl --test_file tweets/test.jsonl \
        --num_train_epochs 8 --learning_rate 2e-4 --output_dir tagger
    python extract_entities.py --model_name_or_path tagger --text_file texts.txt --output_file entities.jsonl

Each line is one entity: its kind, its name as first written, its number of mentions, and the place of each mention. A
place is the index of the text (a line of the file) and a range of characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import read_arguments
from transformers import pipeline

import sequence_encoder  # noqa: F401 # registers the Auto classes


@dataclass
class ExtractionArguments:
    """The model, the input, the output and the threshold."""

    model_name_or_path: str = field(metadata={"help": "Model from `--task ner`: a folder or a Hub id."})
    text_file: str = field(metadata={"help": "File with one text per line."})
    output_file: str = field(default="entities.jsonl", metadata={"help": "File to write the table to."})
    least_score: float = field(default=0.5, metadata={"help": "Lowest score of an entity, from 0 to 1."})


def find(texts: list[str], model: str, least_score: float) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (index of the text, entity) for all texts."""
    # The first token of a word determines its label, as in training.
    tag = pipeline("token-classification", model=model, aggregation_strategy="first")
    for number, entities in enumerate(tag(texts)):
        yield from ((number, entity) for entity in entities if float(entity["score"]) >= least_score)


def table(texts: list[str], found: Iterable[tuple[int, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return a row for each entity, with the most frequent ones first."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for number, entity in found:
        start, end = int(entity["start"]), int(entity["end"])
        name, kind = texts[number][start:end], entity["entity_group"]
        row = rows.setdefault((kind, name.casefold()), {"kind": kind, "name": name, "count": 0, "mentions": []})
        row["count"] += 1
        row["mentions"].append({"text": number, "start": start, "end": end, "score": round(float(entity["score"]), 3)})
    return sorted(rows.values(), key=lambda row: -row["count"])


def main() -> None:
    """Read the texts, find the entities and write the table."""
    (arguments,) = read_arguments(ExtractionArguments)
    texts = Path(arguments.text_file).read_text(encoding="utf-8").splitlines()
    rows = table(texts, find(texts, arguments.model_name_or_path, arguments.least_score))
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    Path(arguments.output_file).write_text(lines, encoding="utf-8")
    print(f"Wrote {len(rows)} entities with {sum(row['count'] for row in rows)} mentions to {arguments.output_file}.")


if __name__ == "__main__":
    main()
