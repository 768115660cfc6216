"""Try every command with every model, and write docs/what-works.md.

    python tests/what_works.py [--only PATTERN]

It takes a quarter of an hour, so the test suite only tries a sample. With `--only`, it tries the cells whose names
match a regular expression, such as "tagger.*ONNX", prints what came of each, and writes only these.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers.utils import logging

from sequence_encoder.tests.fixtures.hub_client import HubClient
from sequence_encoder.tests.fixtures.hub_server import Hub
from sequence_encoder.tests.matrix.cells import FAULT, WORKS, Outcome, attempt, columns
from sequence_encoder.tests.matrix.models import Workshop, rows
from sequence_encoder.tests.matrix.table import read, write


def main() -> int:
    """Print a line for each cell that does not work, and return the number of faults."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="regular expression for the cells to try: kind | state | command")
    parser.add_argument("--traces", action="store_true", help="print the traceback of each fault")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    outcomes: dict[tuple[str, str, str], Outcome] = {}
    with TemporaryDirectory() as folder, Hub({"hf_of_the_user": "user"}).serve() as hub:
        root = Path(folder)
        client = HubClient(hub.url, root / "user", token="hf_of_the_user")
        try:
            tried = columns(client)
            shop = Workshop(root / "models")
            shop.root.mkdir()
            for kind, state in rows():
                for title, column in tried.items():
                    name = f"{kind} | {state} | {title}"
                    if options.only and not re.search(options.only, name):
                        continue
                    start = time.process_time()
                    outcome = outcomes[kind, state, title] = attempt(column, kind, state, shop)
                    seconds = time.process_time() - start
                    if outcome.verdict != WORKS or options.only:
                        print(f"{outcome.verdict}: {name}: {outcome.message} ({seconds:.1f} s)", flush=True)
                    if outcome.verdict == FAULT and options.traces:
                        print(outcome.trace, flush=True)
                # After each row, since another process may write others.
                write(read() | outcomes, [*tried])
        finally:
            client.close()
    counts = Counter(outcome.verdict for outcome in outcomes.values())
    print(", ".join(f"{number} {verdict}" for verdict, number in counts.items()))
    return counts[FAULT]


if __name__ == "__main__":
    sys.exit(main())
