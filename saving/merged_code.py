"""Merges the sources of the package into the three Python files that are saved with every model.

Each folder of the package that a model needs goes into one of the files, its modules in the order of their imports.
Comments and docstrings are kept; module docstrings become comments. Only the package itself runs this code.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_ENTRIES = (
    "modeling/heads/task_heads.py",
    "modeling/heads/pretraining_heads.py",
    "modeling/heads/task_adapter.py",
    "modeling/heads/retrieval.py",
    "inference/question_answering.py",
    "inference/infilling_pipeline.py",
    "inference/continuation_pipeline.py",
    "inference/calibrated_text_classification.py",
    "inference/calibrated_token_classification.py",
)
_DOCSTRINGS = {
    "saving": "Saving and loading of SequenceEncoder models, configurations and tokenizers.",
    "configuration": "SequenceEncoder configurations.",
    "modeling": "SequenceEncoder models.",
}
_LINE_LENGTH = 120


@dataclass
class _Part:
    """The imports and definitions of one file, and the text of each of its modules."""

    imports: set[str] = field(default_factory=set)
    names: dict[str, set[tuple[str, str | None]]] = field(default_factory=dict)
    bound: dict[str, str] = field(default_factory=dict)
    defined: dict[str, str] = field(default_factory=dict)
    sections: list[str] = field(default_factory=list)


def merged_code(files: tuple[str, ...], note: str) -> dict[str, str]:
    """Return the text of each file by its name.

    Args:
        files: The names of the files. Each file contains the folder that its name starts with, and imports only files
            before it. The last one also contains all other folders.
        note: A sentence for the docstring of each file.

    Raises:
        ValueError: If two modules of a file use the same name for different things, or a module imports another
            module instead of names from it.
    """
    parts = {name: _Part() for name in files}
    file_of = {path: _file_of(path, files) for path in _in_order([_ROOT / entry for entry in _ENTRIES])}
    for path in file_of:
        _add(parts, file_of, path)
    return {name: _text(name, part, note, future=name == files[0]) for name, part in parts.items()}


def _file_of(path: Path, files: tuple[str, ...]) -> str:
    folder = path.relative_to(_ROOT).parts[0]
    return next((name for name in files if name.startswith(f"{folder}_")), files[-1])


def _in_order(entries: list[Path]) -> list[Path]:
    """Return the entries and all modules that they import, each after its own imports."""
    ordered: dict[Path, None] = {}

    def visit(path: Path) -> None:
        if path not in ordered:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.level:
                    visit(_imported(path, node))
            ordered[path] = None

    for entry in entries:
        visit(entry)
    return list(ordered)


def _imported(path: Path, node: ast.ImportFrom) -> Path:
    module = path.parents[node.level - 1].joinpath(*(node.module or "").split(".")).with_suffix(".py")
    if not module.is_file() or any(name.asname for name in node.names):
        raise ValueError(f"{path}:{node.lineno} must import names from a module, without `as`.")
    return module


def _add(parts: dict[str, _Part], file_of: dict[Path, str], path: Path) -> None:
    part = parts[file_of[path]]
    source = path.read_text(encoding="utf-8")
    tree, lines = ast.parse(source), source.splitlines()
    docstring = ast.get_docstring(tree) or ""
    kept: list[str] = []
    end = 0
    for index, node in enumerate(tree.body):
        start, end = end, node.end_lineno or 0
        if isinstance(node, ast.Import | ast.ImportFrom):
            _add_import(part, file_of, path, node)
        elif index or not docstring:
            text = "\n".join(_without_relative_imports(lines, start, end, node))
            names = _defined_by(node)
            if all(part.defined.get(name) == text.strip() for name in names) and names:
                continue  # The same definition again, such as the logger of each module.
            if clash := [name for name in names if name in part.defined]:
                raise ValueError(f"{path} defines {clash[0]}, but another module of {file_of[path]} already does.")
            part.defined |= dict.fromkeys(names, text.strip())
            kept.append(text)
    title = "\n#\n".join(_comment(paragraph) for paragraph in docstring.split("\n\n"))
    body = "\n".join(kept).strip("\n")
    part.sections.append(f"{title}\n\n\n{body}" if body else "")


def _comment(paragraph: str) -> str:
    lines = paragraph.splitlines()
    if max(map(len, lines)) > _LINE_LENGTH - 2:
        lines = textwrap.wrap(paragraph, _LINE_LENGTH - 2)
    return "\n".join(f"# {line}".rstrip() for line in lines)


def _add_import(part: _Part, file_of: dict[Path, str], path: Path, node: ast.Import | ast.ImportFrom) -> None:
    if isinstance(node, ast.Import):
        part.imports |= {ast.unparse(node).removeprefix("import ")}
        return
    module = node.module or ""
    if node.level:
        file = file_of[_imported(path, node)]
        if file == file_of[path]:
            return
        module = f".{file.removesuffix('.py')}"
    for name in node.names:
        bound, origin = name.asname or name.name, f"{module}.{name.name}"
        if part.bound.setdefault(bound, origin) != origin:
            raise ValueError(f"{path} imports {origin} as {bound}, but another module imports {part.bound[bound]}.")
        part.names.setdefault(module, set()).add((name.name, name.asname))


def _without_relative_imports(lines: list[str], start: int, end: int, node: ast.stmt) -> Iterator[str]:
    """Yield the lines of a statement without the relative imports inside functions, whose names the file defines."""
    left_out: set[int] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.ImportFrom) and inner.level:
            last = inner.end_lineno or inner.lineno
            # The blank line after the import is removed as well.
            left_out |= {*range(inner.lineno, last + 1), *([last + 1] if not lines[last] else [])}
    return (line for number, line in enumerate(lines[start:end], start + 1) if number not in left_out)


def _defined_by(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _text(name: str, part: _Part, note: str, future: bool) -> str:
    docstring = f'"""{_DOCSTRINGS[name.partition("_")[0]]}\n\n{note}\n"""'
    part.names.pop("__future__", None)
    # Only in this file: `@strict` and transformers read the annotations in the others at run time.
    groups = [["from __future__ import annotations"] if future else [], *_import_groups(part)]
    header = "\n\n".join("\n".join(group) for group in groups if group)
    return f"{docstring}\n\n{header}\n\n" + "\n\n\n".join(filter(None, part.sections)) + "\n"


def _import_groups(part: _Part) -> list[list[str]]:
    """Return the imports in ruff's order: the standard library, other packages, and files in the same folder."""
    groups: list[list[str]] = [[], [], []]
    for line in sorted(part.imports):
        groups[line.split(".")[0].split(" ")[0] not in sys.stdlib_module_names].append(f"import {line}")
    for module, names in sorted(part.names.items()):
        kind = 2 if module.startswith(".") else int(module.split(".")[0] not in sys.stdlib_module_names)
        plain = sorted((name for name, alias in names if alias is None), key=_import_order)
        groups[kind] += [_import_line(module, plain)] if plain else []
        groups[kind] += sorted(f"from {module} import {name} as {alias}" for name, alias in names if alias)
    return groups


def _import_order(name: str) -> tuple[int, str]:
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2), name.lower()


def _import_line(module: str, names: list[str]) -> str:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= _LINE_LENGTH:
        return line
    return f"from {module} import (\n{textwrap.indent(''.join(f'{name},{chr(10)}' for name in names), '    ')})"
