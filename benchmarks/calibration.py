"""Measure a calibration at home and away: scores, sets, and unfamiliar texts, over several splits of the examples.

    sequence-encoder adapt minilm --task classification --train_file train.jsonl --calibrate no
    python benchmarks/calibration.py adapted held-out.jsonl

The held-out examples have the columns `text` and `label`. Texts from elsewhere are the first paragraphs of docstrings.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sequence_encoder import calibrate
from sequence_encoder.data.documentation import STANDARD_LIBRARY, docstrings_of, find_libraries
from sequence_encoder.evaluation.calibration.reliability import Confidences
from sequence_encoder.evaluation.metrics import auroc
from sequence_encoder.evaluation.predicting import outputs_of

_AWAY, _LEAST_WORDS, _P_VALUES = 500, 8, (0.01, 0.05, 0.1)


def docstrings(number: int) -> list[str]:
    """Return the first paragraphs of random docstrings of the standard library."""
    rng = random.Random(0)
    files = find_libraries()[STANDARD_LIBRARY]
    found: list[str] = []
    for file in rng.sample(files, min(len(files), number // 2)):
        paragraphs = (" ".join(text.split("\n\n")[0].split()) for text in docstrings_of(file))
        found += [text for text in paragraphs if len(text.split()) >= _LEAST_WORDS]
    return rng.sample(found, min(number, len(found)))


def outputs_for(model: Any, tokenizer: Any, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of texts, and their scores of unfamiliarity."""
    encoded = tokenizer(texts, truncation=True, max_length=256)
    inputs = [{name: encoded[name][index] for name in encoded} for index in range(len(texts))]
    score = model.calibration.unfamiliarity
    outputs = outputs_of(model, tokenizer, inputs, [] if score.layer is None else [score.layer], "texts")
    return outputs.stacked, score.score(outputs.vectors.get(score.layer), outputs.stacked)


def measure(
    folder: str, rows: list[dict[str, Any]], away: list[str], texts: int, scaling: str, seed: int
) -> dict[str, float]:
    """Calibrate on some of the examples, and measure on the others."""
    rows = random.Random(seed).sample(rows, len(rows))
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    names, test = model.config.label2id, rows[texts:]
    classes = torch.tensor([names[str(row["label"])] for row in test])
    before = _answered(_logits(model, tokenizer, [row["text"] for row in test]), classes)
    report = calibrate(model, tokenizer, rows[:texts], scaling=scaling)
    logits, scores = outputs_for(model, tokenizer, [row["text"] for row in test])
    after = _answered(logits, classes)
    calibration = report.calibration
    inside = calibration.sets.contain(logits.softmax(-1), 0.9)
    found = {f"before: {name}": value for name, value in before.metrics().items()}
    found |= {f"after: {name}": value for name, value in after.metrics().items()}
    found["coverage of 90 % sets"] = float(inside[torch.arange(len(classes)), classes].float().mean())
    found["mean size of 90 % sets"] = float(inside.sum(-1).float().mean())
    _, elsewhere = outputs_for(model, tokenizer, away)
    found["AUROC of docstrings"] = auroc(scores.numpy(), elsewhere.numpy())
    p_values = calibration.unfamiliarity.p_values
    for p in _P_VALUES:
        found[f"home with p < {p}"] = float((p_values(scores) < p).float().mean())
        found[f"docstrings with p < {p}"] = float((p_values(elsewhere) < p).float().mean())
    print(f"seed {seed}: {calibration.scaling}", flush=True)
    return found


def _logits(model: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    encoded = tokenizer(texts, truncation=True, max_length=256)
    inputs = [{name: encoded[name][index] for name in encoded} for index in range(len(texts))]
    return outputs_of(model, tokenizer, inputs, [], "texts").stacked


def _answered(logits: torch.Tensor, classes: torch.Tensor) -> Confidences:
    return Confidences(logits.softmax(-1).amax(-1), logits.argmax(-1) == classes)


def main() -> None:
    """Print the mean, the lowest and the highest of each number over the splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a classifier without a calibration")
    parser.add_argument("examples", help="JSON Lines of examples that it was not trained on, with text and label")
    parser.add_argument("--texts", type=int, default=1000, help="examples to calibrate on; the others are for the test")
    parser.add_argument("--seeds", type=int, default=5, help="number of splits")
    parser.add_argument("--scaling", default="auto", help="temperature, vector or auto")
    options = parser.parse_args()
    rows = [json.loads(line) for line in Path(options.examples).read_text(encoding="utf-8").splitlines()]
    away = docstrings(_AWAY)
    settings = (options.model, rows, away, options.texts, options.scaling)
    results = [measure(*settings, seed) for seed in range(options.seeds)]
    print(f"{len(rows) - options.texts:,} test examples, {len(away)} docstrings, {options.seeds} splits")
    for name in results[0]:
        values = [result[name] for result in results]
        print(f"{name:42} {sum(values) / len(values):.4f}  ({min(values):.4f} to {max(values):.4f})")


if __name__ == "__main__":
    main()
