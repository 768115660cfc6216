"""The quickstart: train a classifier on the docstrings of the installed libraries, in a few minutes on a CPU.

It runs `pretrain`, and then `adapt` with a few labelled docstrings, to predict the library of a docstring. To show the
gain from pretraining, it also runs `adapt` with the same encoder and random weights. Finally, it loads the classifier
in a fresh process and predicts there. It does not use the network.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, set_seed

from ...command_line.extras import require
from ...command_line.progress import Progress
from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ...data.documentation import Docstring, read_documentation, split_by_file
from ...modeling.modeling_sequence_encoder import SequenceEncoderModel
from ...saving.whole_folders import atomic_folder, check_replaceable
from ..adaptation.run import parse as parse_adaptation
from ..adaptation.steps import run_adaptation
from ..encoders import save_as_sequence_encoder
from ..hardware import device_name, peak_memory
from ..pretraining.pretrain import run_pretraining
from ..pretraining.run import parse as parse_pretraining
from .arguments import QuickstartArguments

MAX_LENGTH = 128
LABELLED_PER_LIBRARY = 50
TEST_TEXTS = 1500
HELD_OUT_TEXTS = 512

RELOAD = """\
import sequence_encoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

model = AutoModelForSequenceClassification.from_pretrained({folder!r})
tokenizer = AutoTokenizer.from_pretrained({folder!r})
classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
"""
PREDICT = """
import json, sys
answers = classify(json.load(sys.stdin), batch_size=32, truncation=True, max_length={max_length})
print(json.dumps([answer["label"] for answer in answers]))
"""


def quickstart(arguments: QuickstartArguments) -> dict[str, Any]:
    """Run the quickstart, print the results and return them.

    Returns:
        The results by name. Accuracies are from 0 to 1, and losses in nats.

    Raises:
        FileExistsError: If the output folder exists and must not be replaced. This is checked first.
        KeyboardInterrupt: If the user interrupts the run. The message says how to go on.
        OSError: If the output folder cannot be written. This is also checked first.
        UsageError: If there are too few docstrings, or if the checkpoint cannot be used.
    """
    require("quickstart", "datasets", "filelock", "matplotlib", "sklearn", extra="adapt")
    started = time.perf_counter()
    output, may_replace = Path(arguments.output_dir), (arguments.overwrite, "--overwrite")
    check_replaceable(output, *may_replace, kept=Path(arguments.model) if arguments.model else None)
    try:
        with atomic_folder(output, *may_replace) as finished, tempfile.TemporaryDirectory() as scratch:
            results = _run(arguments, Path(scratch), finished)
    except KeyboardInterrupt as interruption:
        raise KeyboardInterrupt(
            "Interrupted; nothing was saved, because the quickstart has no checkpoints. Run the same command to start "
            "over, with fewer --pretraining_steps and --adaptation_steps if it takes too long."
        ) from interruption
    print_results(results, output, time.perf_counter() - started)
    return results


def _run(arguments: QuickstartArguments, scratch: Path, finished: Path) -> dict[str, Any]:
    """Train in the folder `scratch`, and save the classifier in the folder `finished`."""
    encoder, seed = scratch / "docstring-encoder", arguments.seed
    # Load the checkpoint first, so that an unusable one is reported at once.
    if arguments.model is not None:
        save_as_sequence_encoder(arguments.model, encoder, base_model=True).save_pretrained(encoder)
    train, test = split_by_file(read_documentation(), seed=seed)
    libraries = sorted({doc.library for doc in train})
    test = [doc for doc in test if doc.library in libraries]
    print(f"{len(train):,} docstrings for training and {len(test):,} held out, from {', '.join(libraries)}.")
    results = {} if arguments.model else _pretrain(train, encoder, arguments.pretraining_steps, seed)
    labelled, test = sample_per_library(train, libraries, seed), test[:TEST_TEXTS]
    _write(scratch / "docstrings.jsonl", ({"text": doc.hidden, "label": doc.library} for doc in labelled))
    _write(scratch / "test.jsonl", ({"text": doc.hidden, "label": doc.library} for doc in test))
    _save_random(encoder, scratch / "random", seed)
    max_length = min(MAX_LENGTH, SequenceEncoderConfig.from_pretrained(encoder).max_position_embeddings)
    options = {
        "task": "classification",
        "train_file": scratch / "docstrings.jsonl",
        "test_file": scratch / "test.jsonl",
        "tuning": "full",
        "pooling": "mean",
        "max_length": max_length,
        "max_steps": arguments.adaptation_steps,
        "per_device_train_batch_size": 16,
        "seed": seed,
    }
    models = {"random_accuracy": scratch / "random", "accuracy": arguments.model or encoder}
    for name, model in models.items():
        folder = scratch / name / Path(arguments.output_dir).resolve().name
        with redirect_stdout(io.StringIO()):
            adapted = run_adaptation(parse_adaptation([str(model), *_as_options(options, output_dir=folder)]))
        results[name] = adapted.results.kept.metrics["test"]["accuracy"]
    results["majority_accuracy"] = Counter(doc.library for doc in test).most_common(1)[0][1] / len(test)
    shutil.copytree(folder, finished, dirs_exist_ok=True)
    with Progress("Loading the classifier in a fresh process and predicting"):
        predicted = predict_in_fresh_process(finished, [doc.hidden for doc in test], max_length)
    right = [answer == doc.library for answer, doc in zip(predicted, test, strict=True)]
    return {**results, "reloaded_accuracy": sum(right) / len(right), "labelled": len(labelled), "tested": len(test)}


def _pretrain(docs: list[Docstring], folder: Path, steps: int, seed: int) -> dict[str, Any]:
    """Pretrain an encoder with two layers, save it in a folder, and return the metrics of held-out docstrings."""
    corpus = _write(folder.with_suffix(".jsonl"), ({"text": doc.text} for doc in docs))
    options = {
        "corpus": corpus,
        "output_dir": folder,
        "config_overrides": "num_hidden_layers=2",
        "vocab_size": 4096,
        "lowercase": True,
        "max_length": MAX_LENGTH,
        "max_tokens": 32 * MAX_LENGTH,
        "max_steps": steps,
        "eval_documents": min(HELD_OUT_TEXTS, len(docs) // 10),
        "eval_strategy": "no",
        "eval_on_start": True,
        "save_strategy": "no",
        "seed": seed,
    }
    with redirect_stdout(io.StringIO()):
        history = run_pretraining(parse_pretraining(_as_options(options))).state.log_history
    evaluations = [entry for entry in history if "eval_loss" in entry]
    speeds = [entry["tokens_per_second"] for entry in history if "tokens_per_second" in entry]
    metrics = {name: [entry[f"eval_{name}"] for entry in evaluations] for name in ("mlm_loss", "sop_accuracy")}
    return {**metrics, "tokens_per_second": statistics.mean(speeds) if speeds else 0.0}


def _as_options(options: Mapping[str, Any], **others: Any) -> list[str]:
    return [part for name, value in {**options, **others}.items() for part in (f"--{name}", str(value))]


def _write(file: Path, rows: Iterable[Mapping[str, str]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def _save_random(encoder: Path, folder: Path, seed: int) -> None:
    """Save an encoder like another one, with random weights."""
    set_seed(seed)
    SequenceEncoderModel(SequenceEncoderConfig.from_pretrained(encoder)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)


def sample_per_library(docs: list[Docstring], libraries: list[str], seed: int) -> list[Docstring]:
    """Draw the same small number of docstrings from each library, because labels are scarce in practice."""
    rng = random.Random(seed)
    chosen = []
    for library in libraries:
        of_library = [doc for doc in docs if doc.library == library]
        chosen += rng.sample(of_library, min(LABELLED_PER_LIBRARY, len(of_library)))
    return chosen


def predict_in_fresh_process(folder: Path, texts: list[str], max_length: int) -> list[str]:
    """Classify texts with `pipeline` in a new process that loads the saved folder, and return the labels."""
    program = RELOAD.format(folder=str(folder)) + PREDICT.format(max_length=max_length)
    finished = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(texts), capture_output=True, text=True, check=False
    )
    if finished.returncode:
        raise RuntimeError(f"The saved model failed in a fresh process:\n{finished.stderr}")
    return json.loads(finished.stdout.splitlines()[-1])


def print_results(results: Mapping[str, Any], output: Path, seconds: float) -> None:
    """Print the table of results, and the code to paste."""
    rows = []
    if "mlm_loss" in results:
        loss, order = ("{:.2f} -> {:.2f}".format(*results[name]) for name in ("mlm_loss", "sop_accuracy"))
        rows = [
            ("held-out loss of masked tokens", loss, "before -> after pretraining"),
            ("held-out accuracy of sentence order", order, "chance is 0.50"),
        ]
    rows += [
        ("accuracy of naming the library", f"{results['accuracy']:.3f}", f"{results['labelled']:,} labels"),
        ("  adapted from random weights", f"{results['random_accuracy']:.3f}", "same data, same steps"),
        ("  always the most frequent one", f"{results['majority_accuracy']:.3f}", ""),
        ("  reloaded in a fresh process", f"{results['reloaded_accuracy']:.3f}", "through pipeline, float32"),
    ]
    if "tokens_per_second" in results:
        speed = f"{results['tokens_per_second']:,.0f}"
        rows.append(("real tokens a second", speed, f"pretraining; {device_name()}"))
    rows += [
        ("peak memory", f"{peak_memory() / 2**30:.2f} GiB", ""),
        ("time", f"{seconds / 60:.1f} min", ""),
        ("saved in", str(output.resolve()), ""),
    ]
    width = max(len(name) for name, _, _ in rows)
    middle = max(len(value) for _, value, _ in rows[:-1])
    print()
    for name, value, remark in rows:
        print(f"{name:<{width}}  {value:<{middle}}  {remark}".rstrip())
    example = 'print(classify("Applies a 2D convolution over an input image."))'
    print(f"\nTo use it:\n\n{RELOAD.format(folder=str(output))}{example}")
