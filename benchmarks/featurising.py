"""The teacher's vectors of texts that a static student learns from: `embed` beside tokenlearn's featurising.

Both commands read JSON Lines and write files. The seconds are those of the processor, without those of the same command
with a few texts, which are for loading.

    OMP_NUM_THREADS=1 python benchmarks/featurising.py --texts 1000
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from distillation import MODEL2VEC
from few_labels import python_with, run
from minilm import MINILM
from optimize import ragged_texts
from peers import print_machine

FEW = 8


def main() -> None:
    """Print the ragged texts a second of both, in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    print_machine()
    peer = [
        python_with("model2vec", *MODEL2VEC),
        Path(__file__).with_name("distillation_peers.py"),
        "featurize",
        MINILM,
    ]
    texts = ragged_texts(options.texts)
    ours = [sys.executable, "-m", "sequence_encoder", "embed", MINILM, "--dtype", "bfloat16", "--corpus"]
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as name:
            rates = []
            for kind, command, output in (("ours", ours, ["--output_dir"]), ("peer", peer, [])):
                seconds = []
                for count in (FEW, len(texts)):
                    corpus = Path(name, f"{count}.jsonl")
                    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:count]), "utf-8")
                    seconds.append(run([*command, corpus, *output, Path(name, f"{kind}-{count}")]))
                rates.append((len(texts) - FEW) / (seconds[1] - seconds[0]))
        print(
            f"embed {rates[0]:.0f}, tokenlearn {rates[1]:.0f} texts a second, {rates[0] / rates[1]:.1f} x", flush=True
        )


if __name__ == "__main__":
    main()
