"""The names that a library defines, by kind, and its docstrings with what they document, read from syntax trees.

Nothing is imported: the source files are only parsed.
"""

from __future__ import annotations

import ast
import builtins
import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

BUILTIN_EXCEPTIONS = {
    name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)
}
_ENVIRONMENT_READERS = {"getenv", "environ", "getenv_bool", "getenvb"}
_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Names:
    """What the names of a library, or of one of its classes, stand for."""

    modules: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    methods: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    constants: set[str] = field(default_factory=set)
    environment: set[str] = field(default_factory=set)
    options: set[str] = field(default_factory=set)
    bases: dict[str, set[str]] = field(default_factory=dict)
    """The names of the bases of each class."""
    members: dict[str, Names] = field(default_factory=dict)
    """The methods and attributes of each class."""

    def exceptions(self) -> set[str]:
        """Return the classes that inherit from a built-in exception, through any classes of the library."""
        found = set(BUILTIN_EXCEPTIONS)
        size = 0
        while size < len(found):
            size = len(found)
            found |= {name for name, bases in self.bases.items() if bases & found}
        return found


@dataclass
class Documented:
    """A docstring: its file, its text, and the parameters and the class of what it documents."""

    path: str
    text: str
    parameters: set[str]
    owner: Names


def read_library(files: list[Path], root: Path, prefix: str, max_bytes: int) -> tuple[Names, list[Documented]]:
    """Read the names and the docstrings of a library.

    Args:
        files: The Python files of the library.
        root: The folder that the modules' names start from.
        prefix: What every module's name starts with, such as "torch".
        max_bytes: The maximum number of bytes to parse. The same random files of a larger library are read each time.
    """
    names, docs = Names(), []
    for path in files:
        parts = [prefix, *path.relative_to(root).with_suffix("").parts]
        names.modules.add(".".join(part for part in parts if part and part != "__init__"))
    left = max_bytes
    for path in random.Random(0).sample(files, len(files)):
        left -= path.stat().st_size
        if left < 0:
            break
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError):
            continue
        docs += _documented(tree, str(path), set(), Names())
        _collect(tree, names)
    return names, docs


def _documented(node: ast.AST, path: str, parameters: set[str], owner: Names) -> Iterator[Documented]:
    """Yield the docstrings of a module, class or function, and of all that it defines."""
    if isinstance(node, (ast.Module, *_DEFINITIONS)):
        text = ast.get_docstring(node)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            parameters = _parameters(node)
        if isinstance(node, ast.ClassDef):
            owner = Names()
            _collect_class(node, owner)
            made = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
            fields = {item.target.id for item in node.body if _is_field(item)}  # type: ignore[attr-defined]
            parameters = fields.union(*(_parameters(item) for item in made))
        if text:
            yield Documented(path, text, parameters, owner)
        for child in node.body:
            yield from _documented(child, path, parameters, owner)


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    spec = function.args
    given = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, *filter(None, (spec.vararg, spec.kwarg))]
    return {argument.arg for argument in given} - {"self", "cls"}


def _is_field(node: ast.AST) -> bool:
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)


def _collect(tree: ast.Module, names: Names) -> None:
    """Add all names that a file defines."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names.functions.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if _is_field(node) else []  # type: ignore[attr-defined]
        names.constants |= {target.id for target in targets if isinstance(target, ast.Name) and target.id.isupper()}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            names.bases.setdefault(node.name, set()).update(filter(None, map(_last_name, node.bases)))
            _collect_class(node, names)
            _collect_class(node, names.members.setdefault(node.name, Names()))
        elif isinstance(node, ast.Call):
            strings = [
                item.value for item in node.args if isinstance(item, ast.Constant) and isinstance(item.value, str)
            ]
            called = node.func
            if _last_name(called) in _ENVIRONMENT_READERS or (
                isinstance(called, ast.Attribute) and _last_name(called.value) == "environ"
            ):
                names.environment |= {text for text in strings[:1] if text.isupper()}
            if _last_name(called) in ("add_argument", "add_option"):
                names.options |= {text for text in strings if text.startswith("-")}
        elif isinstance(node, ast.Subscript) and _last_name(node.value) == "environ":
            key = node.slice
            if isinstance(key, ast.Constant) and isinstance(key.value, str) and key.value.isupper():
                names.environment.add(key.value)


def _collect_class(node: ast.ClassDef, names: Names) -> None:
    """Add the methods and attributes of a class."""
    for item in node.body:
        if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)):
            decorators = {_last_name(decorator) for decorator in item.decorator_list}
            is_attribute = any(name and name.endswith("property") for name in decorators) or "setter" in decorators
            (names.attributes if is_attribute else names.methods).add(item.name)
            for inner in ast.walk(item):
                stored = isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store)
                if stored and isinstance(inner.value, ast.Name) and inner.value.id == "self":
                    names.attributes.add(inner.attr)
        elif isinstance(item, (ast.Assign, ast.AnnAssign)):
            targets = item.targets if isinstance(item, ast.Assign) else [item.target]
            names.attributes |= {target.id for target in targets if isinstance(target, ast.Name)}


def _last_name(node: ast.AST) -> str | None:
    if isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None
