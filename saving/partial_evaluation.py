"""Leaves out of source text what cannot run, given what is known when the text is written.

Blocks of `if` whose condition is known are replaced by what runs, and tables of choices by the entries that are chosen.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

_LINE_LENGTH = 120
_UNKNOWN = object()


@dataclass(frozen=True)
class Facts:
    """What is known.

    Attributes:
        constants: The values of names.
        fields: The values of fields of the configuration.
        owners: The names of the variables and attributes that hold the configuration.
        choices: For each table, by its name, the keys of the entries to keep.
    """

    constants: Mapping[str, bool] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    owners: frozenset[str] = frozenset({"config"})
    choices: Mapping[str, frozenset[Any]] = field(default_factory=dict)


def evaluated(text: str, facts: Facts) -> str:
    """Return the text of a statement without what cannot run.

    Args:
        text: The statement, at the top level of a module, with its comments.
        facts: What is known.
    """
    constants = tuple((name, value) for name, value in facts.constants.items() if name in text)
    fields = tuple((name, value) for name, value in facts.fields.items() if f".{name}" in text)
    return _evaluated(text, constants, fields, facts.owners) if constants or fields else text


# Most models have most facts in common.
@cache
def _evaluated(
    text: str, constants: tuple[tuple[str, bool], ...], fields: tuple[tuple[str, Any], ...], owners: frozenset[str]
) -> str:
    facts = Facts(dict(constants), dict(fields), owners)
    while True:
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.If) and (new := _without_known(lines, node, facts)) is not None:
                text = "\n".join(new)
                break
        else:
            return text


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
        f"{_quoted(key)}: {ast.unparse(value)}" for key, value in pairs if key is not None and _value(key) in keys
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


def _value(key: ast.expr) -> Any:
    return key.value if isinstance(key, ast.Constant) else _UNKNOWN


def _quoted(key: ast.expr) -> str:
    value = _value(key)
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _without_known(lines: list[str], node: ast.If, facts: Facts) -> list[str] | None:
    """Return the lines with an `if` statement replaced by what runs; None if its condition is not known at all."""
    value = _evaluate(node.test, facts)
    if value is _UNKNOWN:
        return _with_shorter_test(lines, node, facts)
    start, end = node.lineno - 1, node.end_lineno or node.lineno
    indent = lines[start][: node.col_offset]
    is_elif = lines[start][node.col_offset :].startswith("elif")
    body_end = node.body[-1].end_lineno or 0
    if value:
        body = lines[start + 1 : body_end]
        kept = [f"{indent}else:", *body] if is_elif else _dedented(body)
    elif not node.orelse:
        kept = []
    else:
        rest = lines[body_end:end]
        if rest[0].strip() != "else:":
            kept = rest if is_elif else [rest[0].replace("elif", "if", 1), *rest[1:]]
        else:
            kept = rest if is_elif else _dedented(rest[1:])
    if not kept:
        # A comment above explains what is left out.
        while start and lines[start - 1].startswith(f"{indent}#"):
            start -= 1
        if start and not lines[start - 1].strip() and (end >= len(lines) or not lines[end].strip()):
            start -= 1
    return [*lines[:start], *kept, *lines[end:]]


def _dedented(lines: list[str]) -> list[str]:
    return [line.removeprefix("    ") for line in lines]


def _with_shorter_test(lines: list[str], node: ast.If, facts: Facts) -> list[str] | None:
    """Return the lines without the operands of a condition that are known; None if there are none."""
    test = node.test
    if not isinstance(test, ast.BoolOp) or test.lineno != test.end_lineno:
        return None
    left = [operand for operand in test.values if _evaluate(operand, facts) is _UNKNOWN]
    if len(left) == len(test.values):
        return None
    line = lines[test.lineno - 1]
    word = " and " if isinstance(test.op, ast.And) else " or "
    text = word.join(line[operand.col_offset : operand.end_col_offset] for operand in left)
    lines[test.lineno - 1] = line[: test.col_offset] + text + line[test.end_col_offset :]
    return lines


def _evaluate(node: ast.expr, facts: Facts) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return facts.constants.get(node.id, _UNKNOWN)
    if isinstance(node, ast.Attribute):
        owner = node.value.id if isinstance(node.value, ast.Name) else getattr(node.value, "attr", None)
        return facts.fields.get(node.attr, _UNKNOWN) if owner in facts.owners else _UNKNOWN
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        value = _evaluate(node.operand, facts)
        return value if value is _UNKNOWN else not value
    if isinstance(node, ast.BoolOp):
        return _evaluate_operands(node, facts)
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        sides = [_evaluate(side, facts) for side in (node.left, node.comparators[0])]
        compare = _COMPARISONS.get(type(node.ops[0]))
        return _UNKNOWN if compare is None or _UNKNOWN in sides else compare(*sides)
    return _UNKNOWN


_COMPARISONS: dict[type[ast.cmpop], Any] = {
    ast.Eq: lambda left, right: left == right,
    ast.NotEq: lambda left, right: left != right,
    ast.Is: lambda left, right: left is right,
    ast.IsNot: lambda left, right: left is not right,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
}


def _evaluate_operands(node: ast.BoolOp, facts: Facts) -> Any:
    """Return the value of `and` or `or`, which is also known if one operand decides it."""
    decides = isinstance(node.op, ast.Or)
    values = [_evaluate(operand, facts) for operand in node.values]
    for value in values:
        if value is not _UNKNOWN and bool(value) == decides:
            return value
    return _UNKNOWN if _UNKNOWN in values else values[-1]
