"""Merges the sources of the package into the Python files that are saved with a model.

Only what the model can reach is merged: the classes that it offers, and the definitions that they use. Its
configuration decides which choices are left. Comments and docstrings are kept; module docstrings become comments. Only
the package itself runs this code.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
_LINE_LENGTH = 120
_TYPE_IGNORE = re.compile(r"  # type: ignore.*$", re.MULTILINE)
_ANNOTATION = re.compile(r"[\w\[\], .|]{1,80}")


@dataclass(frozen=True, eq=False)
class _Definition:
    """A statement at the top level of a module, with the comments and blank lines before it."""

    module: _Module
    names: tuple[str, ...]
    node: ast.stmt
    text: str


@dataclass(frozen=True, eq=False)
class _Module:
    """A module of the package.

    Attributes:
        path: Its file, relative to the package.
        docstring: Its docstring.
        definitions: Its statements in their order, without imports.
        named: The definition of each name.
        inside: The module and the original name of each name that is imported from this package.
        outside: The module and the original name of each other import. The name is None for `import module`.
    """

    path: str
    docstring: str
    definitions: list[_Definition] = field(default_factory=list)
    named: dict[str, _Definition] = field(default_factory=dict)
    inside: dict[str, tuple[str, str]] = field(default_factory=dict)
    outside: dict[str, tuple[str, str | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Selection:
    """What to merge.

    Attributes:
        entries: The names to define, each with the file of its module, such as `modeling/layers.py`.
        stand_ins: The file of the module that stands for another one, by the file of that one.
        choices: For each table, by its name, the keys of the entries to keep.
        values: The source of the values of constants that differ from the package's.
        unused: The names of class attributes that only the package reads.
    """

    entries: tuple[tuple[str, str], ...]
    stand_ins: Mapping[str, str]
    choices: Mapping[str, frozenset[Any]]
    values: Mapping[str, str]
    unused: frozenset[str]

    def origin(self, module: _Module, name: str) -> tuple[str, str]:
        """Return the file and the original name of a name that a module imports from this package.

        Stand-ins may import from the modules that they stand for.
        """
        path, original = module.inside[name]
        stand_in = self.stand_ins.get(path, path)
        return (path if stand_in == module.path else stand_in), original


def merged_code(files: dict[str, str], selection: Selection) -> dict[str, str]:
    """Return the text of each file by its name.

    Args:
        files: The docstring of each file. The name of a file starts with the folder that it contains; the first file
            also contains `saving`, and the last one all other folders. Files import only those before them.
        selection: What to merge.

    Raises:
        ValueError: If two modules of a file use the same name for different things, a module imports another module
            instead of names from it, or a stand-in lacks a name.
    """
    kept = _reachable(selection)
    modules = {definition.module.path for definition in kept}
    parts = {name: _Part(name, selection) for name in files}
    for path in _in_order(tuple(path for path, _ in selection.entries), selection):
        if path in modules:
            part = parts[_file_of(path, list(files))]
            part.add(source_module(path), kept, lambda other: _file_of(other, list(files)))
    return {name: part.text(files[name]) for name, part in parts.items()}


def _file_of(path: str, files: list[str]) -> str:
    folder = path.partition("/")[0]
    if folder == "saving" or path == "hub/folder_code/configuration.py":
        return files[0]
    return next((name for name in files if name.startswith(f"{folder}_")), files[-1])


@cache
def source_module(path: str) -> _Module:
    """Read a module of the package."""
    source = (_ROOT / path).read_text(encoding="utf-8")
    tree, lines = ast.parse(source), source.splitlines()
    module = _Module(path, ast.get_docstring(tree) or "")
    for imported in ast.walk(tree):
        if isinstance(imported, ast.ImportFrom) and imported.level:
            origin = _imported(path, imported)
            module.inside.update({name.name: (origin, name.name) for name in imported.names})
    end = 0
    for index, node in enumerate(tree.body):
        start, end = end, node.end_lineno or 0
        if isinstance(node, ast.Import):
            module.outside.update(
                {name.asname or name.name.partition(".")[0]: (name.name, None) for name in node.names}
            )
        elif isinstance(node, ast.ImportFrom) and not node.level:
            module.outside.update({name.asname or name.name: (node.module or "", name.name) for name in node.names})
        elif not isinstance(node, ast.ImportFrom) and (index or not module.docstring):
            text = _TYPE_IGNORE.sub("", "\n".join(_without_relative_imports(lines, start, end, node)))
            definition = _Definition(module, _defined_by(node), node, text)
            module.definitions.append(definition)
            module.named.update(dict.fromkeys(definition.names, definition))
    return module


def _imported(path: str, node: ast.ImportFrom) -> str:
    """Return the file of the module that a statement imports names from."""
    file = (_ROOT / path).parents[node.level - 1].joinpath(*(node.module or "").split(".")).with_suffix(".py")
    if not file.is_file() or any(name.asname not in (None, name.name) for name in node.names):
        raise ValueError(f"{path}:{node.lineno} must import names from a module, without `as`.")
    return file.relative_to(_ROOT).as_posix()


def _without_relative_imports(lines: list[str], start: int, end: int, node: ast.stmt) -> Iterable[str]:
    """Return the lines of a statement without relative imports inside functions, whose names the file defines."""
    left_out: set[int] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.ImportFrom) and inner.level:
            last = inner.end_lineno or inner.lineno
            # The blank line after the import is removed as well.
            left_out |= {*range(inner.lineno, last + 1), *([last + 1] if not lines[last] else [])}
    return (line for number, line in enumerate(lines[start:end], start + 1) if number not in left_out)


def _defined_by(node: ast.stmt) -> tuple[str, ...]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return (node.name,)
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return tuple(target.id for target in targets if isinstance(target, ast.Name))


def _in_order(paths: tuple[str, ...], selection: Selection) -> list[str]:
    """Return modules and all that they import, each after its own imports."""
    ordered: dict[str, None] = {}

    def visit(path: str) -> None:
        if path not in ordered:
            module = source_module(path)
            for origin in dict.fromkeys(selection.origin(module, name)[0] for name in module.inside):
                if origin not in visiting:
                    visiting.add(origin)
                    visit(origin)
            ordered[path] = None

    visiting: set[str] = set()
    for path in paths:
        visit(path)
    return list(ordered)


def _reachable(selection: Selection) -> dict[_Definition, tuple[str, frozenset[str]]]:
    """Return the definitions that the entries need, each with its text and the names that the text uses."""
    kept: dict[_Definition, tuple[str, frozenset[str]]] = {}
    modules: set[str] = set()
    stand_ins = frozenset(selection.stand_ins.values())
    waiting = [(source_module(path), name) for path, name in selection.entries]
    while waiting:
        module, name = waiting.pop()
        while name in module.inside:
            path, name = selection.origin(module, name)
            stood_for, module = module, source_module(path)
            if path in stand_ins and name not in module.named and name not in module.inside:
                raise ValueError(f"{path} has no {name}, which {stood_for.path} needs.")
        if name not in module.named:
            continue
        # Statements without a name, such as registrations, belong to their module.
        unnamed = [] if module.path in modules else [each for each in module.definitions if not each.names]
        modules.add(module.path)
        for definition in (module.named[name], *unnamed):
            if definition not in kept:
                kept[definition] = _evaluated(definition, selection)
                waiting += [(module, each) for each in sorted(kept[definition][1])]
    return kept


def _evaluated(definition: _Definition, selection: Selection) -> tuple[str, frozenset[str]]:
    """Return the text of a definition with the entries that are chosen, and the names that it uses."""
    text, node = definition.text, definition.node
    if isinstance(node, ast.Assign | ast.AnnAssign) and definition.names:
        name = definition.names[0]
        before = text[: text.index(f"{name}")]
        if name in selection.values:
            annotation = f": {ast.unparse(node.annotation)}" if isinstance(node, ast.AnnAssign) else ""
            text = f"{before}{name}{annotation} = {selection.values[name]}"
        elif name in selection.choices:
            text = before + chosen_entries(name, node, selection.choices[name])
    elif isinstance(node, ast.ClassDef):
        text = _without_attributes(text, selection.unused)
    return text, _used_names(text)


def _without_attributes(text: str, names: frozenset[str]) -> str:
    """Return the text of a class without the class attributes of some names and the comments above them."""
    lines: list[str | None] = [*text.splitlines()]
    (node,) = ast.parse(text).body
    assert isinstance(node, ast.ClassDef)
    for statement in node.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and names.intersection(_defined_by(statement)):
            start, end = statement.lineno - 1, statement.end_lineno or statement.lineno
            while lines[start - 1] and str(lines[start - 1]).lstrip().startswith("#"):
                start -= 1
            lines[start:end] = [None] * (end - start)
    return "\n".join(line for line in lines if line is not None)


def chosen_entries(name: str, node: ast.Assign | ast.AnnAssign, keys: frozenset[Any]) -> str:
    """Return the text of a table of choices with the entries of some keys.

    Args:
        name: The name of the table.
        node: Its assignment.
        keys: The keys.
    """
    assert isinstance(node.value, ast.Dict)
    pairs = zip(node.value.keys, node.value.values, strict=True)
    entries = [
        f"{_quoted(key)}: {ast.unparse(value)}"
        for key, value in pairs
        if isinstance(key, ast.Constant) and key.value in keys
    ]
    annotation = f": {ast.unparse(node.annotation)}" if isinstance(node, ast.AnnAssign) else ""
    start = f"{name}{annotation} = "
    return start + table_text(entries, _LINE_LENGTH - len(start))


def table_text(entries: list[str], width: int = 80) -> str:
    """Return the source of a dictionary, on a line if its width allows it.

    Args:
        entries: The source of the entries.
        width: The width.
    """
    line = f"{{{', '.join(entries)}}}"
    return line if len(line) <= width else "{\n" + "".join(f"    {entry},\n" for entry in entries) + "}"


def _quoted(key: ast.Constant) -> str:
    return f'"{key.value}"' if isinstance(key.value, str) else repr(key.value)


@cache
def _used_names(text: str) -> frozenset[str]:
    """Return the names that a text uses, also in annotations and casts that are strings."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _ANNOTATION.fullmatch(node.value):
            names.update(name for name in re.findall(r"\w+", node.value) if name[0].isupper())
    return frozenset(names)


class _Part:
    """One of the files."""

    def __init__(self, name: str, selection: Selection) -> None:
        self.name, self.selection = name, selection
        self.sections: list[str] = []
        self.imports: dict[str, tuple[str, str | None]] = {}
        self.defined: dict[str, str] = {}

    def add(
        self, module: _Module, kept: dict[_Definition, tuple[str, frozenset[str]]], file_of: Callable[[str], str]
    ) -> None:
        """Add the definitions of a module that are kept.

        Args:
            module: The module.
            kept: All definitions that are kept, with their texts and the names that they use.
            file_of: Returns the file of a module.
        """
        texts = []
        for definition in module.definitions:
            if definition not in kept:
                continue
            text, used = kept[definition]
            if not text.strip():
                continue
            if definition.names and all(self.defined.get(name) == text.strip() for name in definition.names):
                continue  # The same definition again, such as the logger of each module.
            for name in definition.names:
                if name in self.defined:
                    raise ValueError(f"{module.path} defines {name}, but another module of {self.name} already does.")
                self.defined[name] = text.strip()
            texts.append(text)
            for name in used - module.named.keys():
                self._import(module, name, file_of)
        if texts:
            body = "\n".join(texts).strip("\n")
            title = "\n#\n".join(_comment(paragraph) for paragraph in module.docstring.split("\n\n"))
            self.sections.append(f"{title}\n\n\n{body}")

    def _import(self, module: _Module, name: str, file_of: Callable[[str], str]) -> None:
        origin: tuple[str, str | None]
        if name in module.inside:
            path, original = self.selection.origin(module, name)
            if file_of(path) == self.name:
                return
            origin = f".{file_of(path).removesuffix('.py')}", original
        elif name in module.outside:
            origin = module.outside[name]
        else:
            return
        if self.imports.setdefault(name, origin) != origin:
            raise ValueError(f"{module.path} imports {origin} as {name}, but another module {self.imports[name]}.")

    def text(self, docstring: str) -> str:
        """Return the text of the file with a docstring."""
        groups = ["\n".join(group) for group in _import_groups(self.imports) if group]
        return "\n\n".join((f'"""{docstring}\n"""', *groups)) + "\n\n" + "\n\n\n".join(self.sections) + "\n"


def _comment(paragraph: str) -> str:
    lines = paragraph.splitlines()
    if max(map(len, lines)) > _LINE_LENGTH - 2:
        lines = textwrap.wrap(paragraph, _LINE_LENGTH - 2)
    return "\n".join(f"# {line}".rstrip() for line in lines)


def _import_groups(imports: dict[str, tuple[str, str | None]]) -> list[list[str]]:
    """Return the imports in ruff's order: the standard library, other packages, and files in the same folder."""
    groups: list[list[str]] = [[], [], []]
    plain: dict[str, list[str]] = {}
    for bound, (module, name) in imports.items():
        if name is None:
            alias = "" if bound == module.partition(".")[0] else f" as {bound}"
            groups[_group_of(module)].append(f"import {module}{alias}")
        elif bound == name:
            plain.setdefault(module, []).append(name)
        else:
            plain.setdefault(module, [])
    groups = [sorted(group) for group in groups]
    for module, names in sorted(plain.items()):
        group = groups[_group_of(module)]
        group += [_import_line(module, sorted(names, key=_import_order))] if names else []
        group += sorted(
            f"from {module} import {name} as {bound}"
            for bound, (origin, name) in imports.items()
            if origin == module and name not in (None, bound)
        )
    return groups


def _group_of(module: str) -> int:
    return 2 if module.startswith(".") else int(module.partition(".")[0] not in sys.stdlib_module_names)


def _import_order(name: str) -> tuple[int, str]:
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2), name.lower()


def _import_line(module: str, names: list[str]) -> str:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= _LINE_LENGTH:
        return line
    return f"from {module} import (\n{textwrap.indent(''.join(f'{name},{chr(10)}' for name in names), '    ')})"
