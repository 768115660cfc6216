"""The code that a saved folder needs to be loaded without this package: flat files, as transformers' Auto classes want.

They follow the relative imports from one file to the next, by a regular expression, and look for all of them in one
folder. The bundle is therefore all files that `auto_classes.py` reaches, through imports inside functions as well, with
imports between folders turned into imports from beside. All names get that of the package in front, since among them
are `losses` and `layers`, which a user's own files may be called. Run from such a bundle, it finds the same files, and
nothing to turn.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

_PREFIX = "sequence_encoder"
# Beside this file, in the package and in a bundle.
ENTRY = Path(__file__).with_name(Path(__file__).name.replace("code_bundle", "auto_classes"))


def auto_map(model_type: str, given: dict[str, Any]) -> dict[str, Any]:
    """What `config.json` tells the Auto classes: for each of them a class, and the file that it is in.

    Args:
        model_type: of the configuration.
        given: what it says so far. Classes of others, such as a user's model that extends one of ours,
            stay in it; ours are in files beside the configuration, wherever it was loaded from.
    """
    from .auto_classes import AUTO_CLASSES

    classes = AUTO_CLASSES[model_type]
    ours = {name: f"{_flat_name(ENTRY.stem)}.{auto_class.__name__}" for name, auto_class in classes.items()}
    names = {auto_class.__name__ for auto_class in classes.values()}
    return ours | {name: path for name, path in given.items() if str(path).rpartition(".")[2] not in names}


def custom_pipelines(model_class: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """What `config.json` tells `pipeline`: tasks for which transformers has none, and the class and the file to take.

    Args:
        model_class: the model that is saved.
        given: what the configuration says so far; other tasks stay in it.
    """
    from ..inference.question_answering import QuestionAnsweringPipeline

    implementation = f"{_flat_name('question_answering')}.{QuestionAnsweringPipeline.__name__}"
    ours = {"question-answering": {"impl": implementation, "pt": ["AutoModelForQuestionAnswering"], "type": "text"}}
    others = {task: pipeline for task, pipeline in given.items() if task not in ours}
    return {**others, **(ours if model_class == "SequenceEncoderForQuestionAnswering" else {})}


def write_code(folder: Path) -> None:
    """Writes the bundle into a folder."""
    for name, text in code_bundle().items():
        (folder / name).write_text(text, encoding="utf-8")


@cache
def code_bundle() -> dict[str, str]:
    """The files by their names, with their text; read once, so that one process saves one state of the code.

    Raises:
        ValueError: if two files that are needed have one name.
        FileNotFoundError: if an import is not of a file, but of a folder.
    """
    files: dict[str, str] = {}
    paths: dict[str, Path] = {}
    waiting = [ENTRY.resolve()]
    while waiting:
        path = waiting.pop()
        name = f"{_flat_name(path.stem)}.py"
        if paths.setdefault(name, path) != path:
            raise ValueError(f"{path} and {paths[name]} have one name, and cannot be in one folder.")
        if name not in files:
            files[name], needed = _flatten(path)
            waiting += needed
    entry = f"{_flat_name(ENTRY.stem)}.py"
    files[entry] += _for_older_readers(files[entry], sorted(files.keys() - {entry}))
    return dict(sorted(files.items()))


def _for_older_readers(entry: str, names: list[str]) -> str:
    """The rest of a first file that names all others. Older releases of transformers copy what it names, no more."""
    named = re.findall(r"from \.(\w+) import", entry)
    lines = [f"    from .{name[:-3]} import *  # noqa: F403\n" for name in names if name[:-3] not in named]
    start = "\n\nif False:\n    # Older releases of transformers copy files that are named here.\n"
    return "".join([start, *lines]) if lines else ""


def _flat_name(stem: str) -> str:
    return stem if _PREFIX in stem else f"{_PREFIX}_{stem}"


def _flatten(path: Path) -> tuple[str, list[Path]]:
    """The text of a file with its relative imports from beside it, and the files that these are of."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    needed = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            parts = (node.module or "").split(".")
            needed.append(path.parents[node.level - 1].joinpath(*parts).with_suffix(".py"))
            statement = re.compile(rf"\bfrom {re.escape('.' * node.level + (node.module or ''))} import\b")
            flat = f"from .{_flat_name(parts[-1])} import"
            lines[node.lineno - 1] = statement.sub(flat, lines[node.lineno - 1], count=1)
    return "".join(lines), needed
