"""Measure a real shift, its estimates without labels, and what helps: from movie reviews to products, news and tweets.

    python benchmarks/shift.py vaderSentiment-3.3.2.tar.gz shift --minilm minilm

all-MiniLM-L6-v2 learns the sentiment of movie reviews (`examples/sentiment.py`). The folder keeps the trained models,
so that another run only evaluates them. `--homes` also trains a model on few texts of each other kind, and estimates
its accuracy on all others.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from peers import print_machine
from transformers import AutoTokenizer

from sequence_encoder import SequenceEncoderForSequenceClassification
from sequence_encoder.evaluation.evaluating import answers_of
from sequence_encoder.evaluation.examples import read_examples
from sequence_encoder.evaluation.judging import Judged
from sequence_encoder.evaluation.metrics import confidence_sums
from sequence_encoder.evaluation.shift.estimates import estimates_of, temperature_of, with_temperature
from sequence_encoder.evaluation.shift.label_correction import matching_bias
from sequence_encoder.evaluation.shift.label_shift import (
    black_box_shares,
    corrected_probabilities,
    maximum_likelihood_shares,
)
from sequence_encoder.examples.sentiment import write_sentiment
from sequence_encoder.training.adaptation.runs.training import load_average

HOME, AWAY, LABELS = "movies-test", ("products", "news", "tweets"), ["negative", "positive"]
EPOCHS, SMALL = 2, 1300
# Labelled texts whose labels are counted, how often they are drawn, and labelled texts to fit a temperature on.
FEW, DRAWS, FITTED = 50, 20, 200
BIASES = {
    "EM": "bias for the shares of EM",
    "BBSE": "bias for the shares of BBSE",
    "home": "bias to match the shares of home",
    "few": f"bias to match the shares in {FEW} labelled texts",
    "true": "bias to match the true shares",
}
Row = list[float]


def run(*arguments: Any) -> None:
    """Run a command of this package."""
    subprocess.run([sys.executable, "-m", "sequence_encoder", *map(str, arguments)], check=True)


def trained(folder: Path, encoder: Path, data: Path, seed: int, train: str = "movies-train") -> Path:
    """Adapt an encoder to the sentiment of one kind of texts, unless the folder exists."""
    if not folder.exists():
        files = ("--train_file", data / f"{train}.jsonl")
        options = ("--num_train_epochs", EPOCHS, "--seed", seed, "--calibrate", "no", "--output_dir", folder)
        run("adapt", "--task", "classification", "--model", encoder, *files, *options)
    return folder


def pretrained(folder: Path, encoder: Path, data: Path) -> Path:
    """Go on with pretraining on the texts away without their labels, unless the folder exists."""
    texts = folder.with_suffix(".txt")
    if not folder.exists():
        rows = (json.loads(line) for name in AWAY for line in (data / f"{name}.jsonl").read_text().splitlines())
        texts.write_text("".join(" ".join(row["text"].split()) + "\n" for row in rows), encoding="utf-8")
        options = ("--sop_weight", 0, "--no_muon", "--learning_rate", 1e-4, "--num_train_epochs", 3, "--seed", 0)
        sizes = ("--max_length", 128, "--max_tokens", 2048)
        run("pretrain", "--model", encoder, "--corpus", texts, *options, *sizes, "--output_dir", folder)
    return folder


def averaged(folder: Path, models: Sequence[Path]) -> Path:
    """Average the weights of models, unless the folder exists."""
    if not folder.exists():
        model = SequenceEncoderForSequenceClassification.from_pretrained(models[0])
        load_average(model, models)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(models[0]).save_pretrained(folder)
    return folder


def judged_of(folder: Path, data: Path, names: Sequence[str]) -> dict[str, Judged]:
    """Return the answers of a model to files."""
    model, tokenizer = (
        kind.from_pretrained(folder) for kind in (SequenceEncoderForSequenceClassification, AutoTokenizer)
    )
    files = {name: [json.loads(line) for line in (data / f"{name}.jsonl").read_text().splitlines()] for name in names}
    read = read_examples("classification", LABELS, files)
    return {each.name: answers_of(each, model, tokenizer, None).judged for each in read}


def accuracy(judged: Judged, probabilities: Any = None) -> float:
    """Return the accuracy of the answers, or of other probabilities."""
    return float(((judged.probabilities if probabilities is None else probabilities).argmax(1) == judged.known).mean())


def accuracies(judged: Mapping[str, Judged]) -> Row:
    """Return the accuracy on each file."""
    return [accuracy(judged[name]) for name in (HOME, *AWAY)]


def corrected(judged: Mapping[str, Judged], method: str) -> Row:
    """Return the accuracy on each file with a bias that a method chooses."""
    home = judged[HOME]
    before, temperature = shares_of(home.known), temperature_of(home.probabilities, home.known)
    joint = np.zeros((2, 2))
    np.add.at(joint, (home.answers, home.known), 1)
    found = [accuracy(home)]
    for name in AWAY:
        away = judged[name]
        scores = with_temperature(away.probabilities, temperature)
        if method in ("EM", "BBSE"):
            counts = np.bincount(away.answers, minlength=2)
            shares = maximum_likelihood_shares(scores, before) if method == "EM" else black_box_shares(joint, counts)
            found.append(accuracy(away, corrected_probabilities(scores, before, shares)))
            continue
        few = (np.random.default_rng(seed).choice(away.known, FEW, replace=False) for seed in range(DRAWS))
        wanted = {"home": [before], "true": [shares_of(away.known)], "few": map(shares_of, few)}[method]
        matched = (np.log(scores + 1e-12) + matching_bias(scores, shares) for shares in wanted)
        found.append(statistics.mean(accuracy(away, each) for each in matched))
    return found


def shares_of(labels: Any) -> Any:
    """Return the shares of the two labels."""
    return np.bincount(labels, minlength=2) / len(labels)


def show(rows: Mapping[str, Row]) -> None:
    """Print the accuracies, and the share of the lost accuracy that each remedy recovers."""
    base = next(iter(rows.values()))
    lost = base[0] - statistics.mean(base[1:])
    print(f"\n| | {HOME} | {' | '.join(AWAY)} | recovered |\n|---|---|---|---|---|---|")
    for name, row in rows.items():
        recovered = (statistics.mean(row[1:]) - statistics.mean(base[1:])) / lost
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in row)} | {recovered:.0%} |")


def mean_of(rows: Sequence[Row]) -> Row:
    """Return the means of the columns."""
    return [statistics.mean(column) for column in zip(*rows, strict=True)]


def show_estimates(home: str, models: Mapping[str, Mapping[str, Judged]]) -> None:
    """Print the estimated minus the true accuracies in points. Several models are compared for their agreement."""
    errors: dict[str, list[float]] = {}
    names: list[str] = []
    for model, judged in models.items():
        for name in judged:
            if name == home:
                continue
            names.append(f"{model} {name}")
            others = [(each[home], each[name]) for other, each in models.items() if other != model]
            for estimate, value in estimates_of(judged[home], judged[name], others).items():
                errors.setdefault(estimate, []).append(100 * (value - accuracy(judged[name])))
    print(f"\n| estimate - truth in points | {' | '.join(names)} | mean error |\n|---|{'---|' * (len(names) + 1)}")
    for estimate, found in errors.items():
        mean = statistics.mean(map(abs, found))
        print(f"| {estimate} | {' | '.join(f'{value:+.1f}' for value in found)} | {mean:.1f} |")


def show_temperatures(judged: Mapping[str, Judged]) -> None:
    """Print the calibration errors as they are, with the temperature of home, and with one of a few labelled texts."""
    print(f"\n| calibration error | {HOME} | {' | '.join(AWAY)} |\n|---|---|---|---|---|")
    home = temperature_of(judged[HOME].probabilities, judged[HOME].known)
    few = {name: np.random.default_rng(0).permutation(len(each.known)) < FITTED for name, each in judged.items()}
    fitted = {
        name: temperature_of(each.probabilities[few[name]], each.known[few[name]]) for name, each in judged.items()
    }
    for title, temperatures in (
        ("as trained", dict.fromkeys(judged, 1.0)),
        ("temperature of home", dict.fromkeys(judged, home)),
        (f"temperature of {FITTED} labelled texts there", fitted),
    ):
        row = []
        for name in (HOME, *AWAY):
            rest = ~few[name]
            scores = with_temperature(judged[name].probabilities[rest], temperatures[name])
            right = (scores.argmax(1) == judged[name].known[rest]).astype(float)
            sums = confidence_sums(scores.max(1), right, right, np.arange(len(right)))
            row.append(f"{sums.values()['expected_calibration_error']:.3f}")
        print(f"| {title} | {' | '.join(row)} |")


def main() -> None:
    """Train and evaluate all models, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minilm", type=Path, required=True, help="the converted all-MiniLM-L6-v2")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--homes", action="store_true", help="also estimate from each other kind of text")
    options = parser.parse_args()
    print_machine()
    data = options.folder / "sentiment"
    if not data.exists():
        write_sentiment(options.archive, data)
    names = (HOME, *AWAY)
    models = [trained(options.folder / f"seed{seed}", options.minilm, data, seed) for seed in range(options.seeds)]
    seeds = {f"seed {seed}": judged_of(model, data, names) for seed, model in enumerate(models)}
    average = judged_of(averaged(options.folder / "average", models), data, names)
    on_target = pretrained(options.folder / "tapt", options.minilm, data)
    went_on = judged_of(trained(options.folder / "tapt-seed0", on_target, data, 0), data, names)
    rows = {
        f"mean of {options.seeds} seeds": mean_of([accuracies(each) for each in seeds.values()]),
        "average of their weights": accuracies(average),
        "seed 0": accuracies(seeds["seed 0"]),
        "seed 0, after pretraining on the texts away": accuracies(went_on),
    }
    for method, title in BIASES.items():
        rows[title] = mean_of([corrected(each, method) for each in seeds.values()])
    for method in ("home", "few", "true"):
        rows[f"average, and {BIASES[method]}"] = corrected(average, method)
    show(rows)
    show_estimates(HOME, seeds)
    show_estimates(HOME, {"average": average})
    show_temperatures(seeds["seed 0"])
    if options.homes:
        for home in AWAY:
            lines = (data / f"{home}.jsonl").read_text().splitlines(keepends=True)
            (data / f"{home}-train.jsonl").write_text("".join(lines[:SMALL]))
            (data / f"{home}-test.jsonl").write_text("".join(lines[SMALL:]))
            model = trained(options.folder / f"{home}0", options.minilm, data, 0, f"{home}-train")
            files = [f"{home}-test", HOME, *(name for name in AWAY if name != home)]
            show_estimates(files[0], {home: judged_of(model, data, files)})


if __name__ == "__main__":
    main()
