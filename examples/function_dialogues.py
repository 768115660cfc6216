"""Write dialogues about the functions of the installed Python libraries, to train `adapt --task conversation` on.

python function_dialogues.py dialogues        # writes dialogues/train.jsonl and dialogues/test.jsonl

A user shows the signature of a function and asks what it takes, greets or says thanks. The replies are the first
sentence of the docstring, the names of the arguments, and two fixed sentences. The functions of a file are either all
in the training or all in the test.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

FILES, MOST_WORDS, TEST_SHARE = 4000, 24, 0.05
QUESTIONS = ("What does it take?", "Which arguments does it have?", "What do I pass to it?")
GREETINGS = ("Hello.", "Hi!", "Good morning.", "Hey, can you help me?")
WELCOME = "Hello. Show me the signature of a function, and I will say what it does."
THANKS = ("Thanks.", "Thank you!", "That helps, thanks.", "Great, thank you.")
GOODBYE = "You are welcome."
Message = dict[str, str]


def functions_of(path: Path) -> Iterator[tuple[str, list[str], str]]:
    """Yield the signature, the arguments and the summary of each documented public function of a file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        summary = re.split(r"\n\s*\n|(?<=\.)\s", (ast.get_docstring(node) or "").strip(), maxsplit=1)[0]
        summary = " ".join(summary.split())
        words = summary.split()
        if not (4 <= len(words) <= MOST_WORDS and summary.endswith(".") and summary.isascii() and words[0].isalpha()):
            continue
        given = node.args
        names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
        names = [name for name in names if name not in ("self", "cls")]
        if len(names) <= 6:
            yield f"def {node.name}({', '.join(names)})", names, summary


def dialogue(signature: str, names: list[str], summary: str, rng: random.Random) -> list[Message]:
    """Return a conversation about a function."""
    turns = [(signature, summary)]
    if rng.random() < 0.2:
        turns.insert(0, (rng.choice(GREETINGS), WELCOME))
    if rng.random() < 0.5:
        turns.append((rng.choice(QUESTIONS), f"It takes {enumerated(names)}."))
    if rng.random() < 0.2:
        turns.append((rng.choice(THANKS), GOODBYE))
    return [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]


def enumerated(names: list[str]) -> str:
    """Return names as in a sentence."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names) or "no arguments"


def read_dialogues(seed: int = 0) -> tuple[list[list[Message]], list[list[Message]]]:
    """Return the conversations of the training and of the test, each summary once, in random order."""
    rng = random.Random(seed)
    folders = {Path(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib", "platlib")}
    files = sorted({path for folder in folders for path in folder.rglob("*.py") if "test" not in str(path)})
    files = rng.sample(files, min(FILES, len(files)))
    seen: set[str] = set()
    splits: tuple[list[list[Message]], list[list[Message]]] = ([], [])
    for index, path in enumerate(files):
        for signature, names, summary in functions_of(path):
            if summary not in seen:
                seen.add(summary)
                splits[index < TEST_SHARE * len(files)].append(dialogue(signature, names, summary, rng))
    for split in splits:
        rng.shuffle(split)
    return splits


def write_dialogues(folder: Path) -> None:
    """Write `train.jsonl` and `test.jsonl` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, dialogues in zip(("train", "test"), read_dialogues(), strict=True):
        lines = "".join(json.dumps({"messages": messages}) + "\n" for messages in dialogues)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        print(f"{len(dialogues):,} conversations in {folder / name}.jsonl")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("dialogues"))
    write_dialogues(parser.parse_args().folder)
