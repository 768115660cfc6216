"""How long does importing the package take, beside importing transformers' BERT classes?

Fresh processes, interleaved; the least of each counts, for noise only adds.
"""

from __future__ import annotations

import subprocess
import sys

ROUNDS = 7
STATEMENTS = {
    "transformers' BERT": "from transformers import BertConfig, BertModel, BertForMaskedLM, BertForPreTraining, "
    "BertForSequenceClassification, BertForTokenClassification, BertForQuestionAnswering, BertForMultipleChoice, "
    "BertTokenizer",
    "sequence_encoder": "import sequence_encoder",
}


def seconds(statement: str) -> float:
    """The time of a statement in a fresh process."""
    program = f"import time; started = time.perf_counter(); {statement}; print(time.perf_counter() - started)"
    return float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Prints the table."""
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(ROUNDS):
        for name, statement in STATEMENTS.items():
            times[name].append(seconds(statement))
    best = {name: min(values) for name, values in times.items()}
    reference = best["transformers' BERT"]
    for name, value in best.items():
        print(f"{name:<20} {value:6.2f} s  {value / reference:5.2f} x")


if __name__ == "__main__":
    main()
