"""Small classifiers in place of a large one, alone or asking it if unsure: two of its six layers, and a table.

The teacher is all-MiniLM-L6-v2, adapted to half of the training texts of a set of `labelled_texts.py`. The student with
two layers learns from all training texts, without their labels, and from related ones: for `glosses`, the definitions
of all other nouns, and for `movies` and `tweets`, other texts with a sentiment. The static encoder is distilled from
all-MiniLM-L6-v2 with the corpus of `vector_tasks.py`; its head learns from the same labels, and is calibrated on texts
of the other half, which also choose the score below which the teacher reads a text.

    python benchmarks/small_classifiers.py movies operations --seconds 120
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from labelled_texts import DATA, SDIST, SENTIMENT, LabelledTexts, download, wordnet, words_of
from minilm import MINILM
from peers import print_machine
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from vector_tasks import corpus

from sequence_encoder import distill, evaluate
from sequence_encoder.__main__ import main as run
from sequence_encoder.examples.sentiment import read_sentiment

TEXTS = 50_000


def write(file: Path, rows: Iterable[dict[str, Any]]) -> str:
    """Write rows as JSON Lines."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def texts_for_student(data: LabelledTexts) -> list[str]:
    """Return the texts that a student with two layers learns from, without those of the test."""
    texts = [row["text"] for row in data.train]
    if data.name == "glosses":
        texts += [definition for _, definition, _, _ in wordnet("noun")]
    elif data.source == SENTIMENT:
        texts += [row["text"] for rows in read_sentiment(download(SENTIMENT, *SDIST)).values() for row in rows]
    texts = list(dict.fromkeys(filter(None, (" ".join(text.split()) for text in texts))))
    tests = {words_of(row["text"]) for row in data.test}
    return [text for text in texts if words_of(text) not in tests]


def load(folder: Path) -> tuple[Any, Any]:
    """Return a classifier and its tokenizer."""
    return AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def measure(name: str, static: Path, folder: Path, seconds: float, tuning: str) -> None:
    """Print the accuracy and the speed of the small classifiers for one set."""
    folder.mkdir()
    data = DATA[name]()
    half = len(data.train) // 2
    train = write(folder / "train.jsonl", data.train[:half])
    held_out = write(folder / "held-out.jsonl", data.train[half : half + 1000])
    texts = write(folder / "texts.jsonl", ({"text": text} for text in texts_for_student(data)))
    teacher, student, head = (folder / each for each in ("teacher", "student", "head"))
    adapt = ["adapt", "--task", "classification", "--train_file", train, "--max_length", "128"]
    run([*adapt, "--model", str(MINILM), "--tuning", tuning, "--output_dir", str(teacher)])
    run([*adapt, "--model", str(static), "--tuning", "head", "--output_dir", str(head)])
    distill(teacher, texts, student, layers=2, seconds=seconds)
    both = {"held-out": data.train[half : half + 1000], "test": data.test}
    for kind, small in (("two layers", student), ("static", head)):
        calibrated = small.with_name(f"calibrated-{small.name}")
        run(["calibrate", str(small), "--calibration_file", held_out, "--output_dir", str(calibrated)])
        found = evaluate(*load(calibrated), both, then=load(teacher), bootstrap_samples=10)["test"].cascade
        assert found is not None
        kept = (point for point in found.curve if point.accuracy >= 0.99 * found.large)
        points = (found.chosen, max(kept, key=lambda point: point.speed))
        cells = ["" if point is None else f"{point.accuracy:.3f}, {point.speed:.1f} x" for point in points]
        cells = [f"{found.large:.3f}", f"{found.small:.3f}, {found.seconds[1] / found.seconds[0]:.1f} x", *cells]
        print(f"| {name}, {kind} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Distill the static encoder, and measure each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", choices=DATA)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--tuning", default="full", help="how the teacher is adapted")
    options = parser.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory() as name:
        folder, static = Path(name), Path(name, "static")
        texts = write(folder / "corpus.jsonl", ({"text": text} for text in corpus(TEXTS)))
        distill(MINILM, texts, static, static=True, seconds=options.seconds)
        columns = ("teacher", "small model alone", "then the teacher", "fastest with 99 %")
        print(f"| | {' | '.join(columns)} |\n{'|---' * (len(columns) + 1)}|")
        for each in options.sets:
            measure(each, static, folder / each, options.seconds, options.tuning)


if __name__ == "__main__":
    main()
