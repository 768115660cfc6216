"""Compare the import time of the package with transformers' BERT classes, and measure the start of the command line.

Each measurement runs in a new process, in turns. The minimum counts, since noise only adds time. Imports are measured
in seconds of wall-clock time, command lines in seconds of CPU time of the whole process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from minilm import MINILM

ROUNDS = 7
STATEMENTS = {
    "transformers' BERT": "from transformers import BertConfig, BertModel, BertForMaskedLM, BertForPreTraining, "
    "BertForSequenceClassification, BertForTokenClassification, BertForQuestionAnswering, BertForMultipleChoice, "
    "BertTokenizer",
    "sequence_encoder": "import sequence_encoder",
}
SCRIPT = Path(__file__).resolve().parents[1] / "sequence_encoder_cli.py"
COMMAND_LINES = {
    "--help": ["--help"],
    "an unknown command": ["adopt"],
    "adapt --help": ["adapt", "--help"],
    "adapt --task ner --help": ["adapt", "--task", "ner", "--help"],
    "adapt, unknown option": ["adapt", "--lr", "1"],
    "pretrain, bad value": ["pretrain", "--size", "huge"],
}


def seconds(statement: str) -> float:
    """Measure the time of a statement in a new process."""
    program = f"import time; started = time.perf_counter(); {statement}; print(time.perf_counter() - started)"
    return float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)


def cpu_seconds(arguments: list[str]) -> float:
    """Measure the CPU time of a command line in a new process."""
    before = os.times()
    subprocess.run([sys.executable, str(SCRIPT), *arguments], check=False, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Print the tables."""
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(ROUNDS):
        for name, statement in STATEMENTS.items():
            times[name].append(seconds(statement))
    best = {name: min(values) for name, values in times.items()}
    reference = best["transformers' BERT"]
    for name, value in best.items():
        print(f"{name:<24} {value:6.2f} s  {value / reference:5.2f} x")
    with tempfile.TemporaryDirectory() as folder:
        corpus, index = Path(folder, "texts.txt"), str(Path(folder, "index"))
        corpus.write_text("A short text.\nAnother one.\n", encoding="utf-8")
        cpu_seconds(["index", str(MINILM), "--corpus", str(corpus), "--output_dir", index])
        starts = {
            "inspect": ["inspect", str(MINILM)],
            "search --mode text": ["search", "short", "--index", index, "--mode", "text"],
            "search": ["search", "short", "--index", index],
        }
        for name, arguments in {**COMMAND_LINES, **starts}.items():
            print(f"{name:<24} {min(cpu_seconds(arguments) for _ in range(ROUNDS)):6.2f} s of CPU")


if __name__ == "__main__":
    main()
