"""Worked example: search the lines of a file with the dense, sparse and multi-vector representations of BGE-M3.

    sequence-encoder convert BAAI/bge-m3 --output_dir bge-m3
    python search_three_ways.py --model_name_or_path bge-m3 --text_file texts.txt --questions "Where is the cat?"

For each question, the script prints the best lines by the weighted mean of the three scores, and each of the scores.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from common import read_arguments
from transformers import AutoTokenizer

from sequence_encoder import SequenceEncoderForRetrieval

PARTS = ("dense", "sparse", "colbert")
MEAN = "colbert+sparse+dense"


@dataclass
class SearchArguments:
    """The model, the texts and the questions."""

    model_name_or_path: str = field(metadata={"help": "Folder that `sequence-encoder convert BAAI/bge-m3` wrote."})
    text_file: str = field(metadata={"help": "File with one text per line."})
    questions: list[str] = field(metadata={"help": "Questions to answer."})
    weights: list[float] = field(
        default_factory=lambda: [0.4, 0.2, 0.4], metadata={"help": "Weights of the dense, sparse and colbert scores."}
    )
    max_length: int = field(default=512, metadata={"help": "Maximum number of tokens of a text."})
    top_k: int = field(default=3, metadata={"help": "Number of lines to print for each question."})


def main() -> None:
    """Encode the file, and print the best lines for each question."""
    (arguments,) = read_arguments(SearchArguments)
    model = SequenceEncoderForRetrieval.from_pretrained(arguments.model_name_or_path)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model_name_or_path)
    texts = [line for line in Path(arguments.text_file).read_text(encoding="utf-8").splitlines() if line.strip()]
    documents, questions = (
        model.encode_multi(each, tokenizer, max_length=arguments.max_length) for each in (texts, arguments.questions)
    )
    scores = model.similarity(questions, documents, arguments.weights)
    for row, question in enumerate(arguments.questions):
        print(question)
        for column in scores[MEAN][row].argsort(descending=True)[: arguments.top_k].tolist():
            parts = ", ".join(f"{part} {scores[part][row, column]:.3f}" for part in PARTS)
            print(f"  {scores[MEAN][row, column]:.3f} ({parts}) {texts[column]}")


if __name__ == "__main__":
    main()
