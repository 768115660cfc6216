"""Worked example: join the entities of a corpus to a small knowledge base, and draw what it knows.

    sequence-encoder convert urchade/gliner_small-v2.1 --output_dir gliner
    python knowledge_base.py --model_name_or_path gliner --output_dir knowledge

or, for your own texts,

    sequence-encoder extract gliner --corpus "texts/*.jsonl" --labels person organisation --output_dir entities
    python knowledge_base.py --entities_dir entities --output_dir knowledge

`entities.parquet` has a row for each entity, `mentions.parquet` for each place that names one, and `documents.parquet`
for each document with entities. `mentions` joins the other two by `entity` and `document`. `knowledge.png` shows the
most frequent entities, and how many documents two of them share.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from common import read_arguments
from matplotlib.figure import Figure

from sequence_encoder import extract_corpus, read_documentation

LABELS = ["person", "organisation", "programming language", "software library", "file format", "algorithm"]


@dataclass
class KnowledgeArguments:
    """The entities, and the folder of the tables."""

    output_dir: str = field(default="knowledge", metadata={"help": "Folder for the tables and the picture."})
    entities_dir: str | None = field(default=None, metadata={"help": "Folder from `sequence-encoder extract`."})
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Model that extracts the entities of the documentation on this disk instead."}
    )
    labels: list[str] = field(default_factory=LABELS.copy, metadata={"help": "Labels to look for there."})
    documents: int = field(default=1000, metadata={"help": "Number of docstrings to read."})
    threshold: float = field(default=0.5, metadata={"help": "Probability above which a span is an entity."})
    shown: int = field(default=16, metadata={"help": "Number of entities in the picture."})


def extract(arguments: KnowledgeArguments, output: Path) -> Path:
    """Extract the entities of docstrings, and return the folder with them."""
    if arguments.model_name_or_path is None:
        raise SystemExit("Give --entities_dir, or --model_name_or_path to read the documentation on this disk.")
    corpus, entities = output / "documentation.jsonl", output / "extracted"
    # An interrupted extraction continues, if its corpus is the same.
    if not corpus.is_file():
        found = read_documentation()
        chosen = random.Random(0).sample(found, min(arguments.documents, len(found)))
        lines = [json.dumps({"text": each.text, "library": each.library}) for each in chosen]
        corpus.write_text("\n".join(lines), encoding="utf-8")
    options = {"labels": arguments.labels, "threshold": arguments.threshold, "columns": ["library"]}
    extract_corpus(arguments.model_name_or_path, corpus, entities, **options)
    return entities


def join(found: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return the tables of entities, of their mentions, and of documents, the most frequent entities first."""
    found = found.rename(columns={"id": "document"})
    # Spellings that differ in case or spaces are one entity, but the same name with two labels is two.
    found["key"] = found["text"].str.casefold().str.split().str.join(" ")
    entities = found.groupby(["label", "key"], as_index=False).agg(
        name=("text", lambda texts: texts.mode()[0]),
        mentions=("text", "size"),
        documents=("document", "nunique"),
    )
    entities = entities.sort_values(["mentions", "label", "key"], ascending=[False, True, True], ignore_index=True)
    entities["entity"] = entities.index
    mentions = found.merge(entities[["label", "key", "entity"]])
    copied = found.columns.difference(["start", "end", "text", "label", "score", "key", "document"]).tolist()
    documents = mentions.groupby("document", as_index=False).agg(
        mentions=("entity", "size"), entities=("entity", "nunique"), **{name: (name, "first") for name in copied}
    )
    return (
        entities[["entity", "name", "label", "mentions", "documents"]],
        mentions[["entity", "document", "start", "end", "text", "score"]],
        documents,
    )


def draw(entities: pd.DataFrame, mentions: pd.DataFrame, shown: int, file: Path) -> None:
    """Draw the most frequent entities, and the number of documents that two of them share."""
    top = entities.head(shown)
    in_documents = pd.crosstab(mentions["document"], mentions["entity"])[top["entity"]].clip(upper=1)
    shared = in_documents.T.dot(in_documents).to_numpy(copy=True)
    np.fill_diagonal(shared, 0)
    figure = Figure(figsize=(11, 1.6 + 0.32 * len(top)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.2])
    for number, (label, rows) in enumerate(top.groupby("label")):
        left.barh(rows.index, rows["mentions"], color=f"C{number % 10}", label=label)
    left.set_yticks(range(len(top)), top["name"].str.slice(0, 30))
    left.set_ylim(len(top) - 0.5, -0.5)
    left.set_xlabel("mentions")
    left.legend()
    image = right.imshow(shared, cmap="Blues", aspect="auto")
    right.set_xticks(range(len(top)), top["name"].str.slice(0, 30), rotation=90)
    right.set_yticks([])
    figure.colorbar(image, label="documents with both")
    figure.savefig(file, dpi=120)


def main() -> None:
    """Write the tables and the picture."""
    (arguments,) = read_arguments(KnowledgeArguments)
    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    found = pd.read_parquet(arguments.entities_dir or extract(arguments, output))
    if found.empty:
        raise SystemExit("There are no entities; choose other labels, or a lower threshold.")
    entities, mentions, documents = join(found)
    for name, table in {"entities": entities, "mentions": mentions, "documents": documents}.items():
        table.to_parquet(output / f"{name}.parquet", index=False)
    draw(entities, mentions, arguments.shown, output / "knowledge.png")
    print(f"{len(entities)} entities, {len(mentions)} mentions and {len(documents)} documents, in {output}.")
    first = entities.iloc[0]
    where = documents.merge(mentions[mentions["entity"] == first["entity"]]["document"].drop_duplicates())
    print(f"{first['name']} ({first['label']}) is in these documents, among others:")
    print(where.head().to_string(index=False))


if __name__ == "__main__":
    main()
