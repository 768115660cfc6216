"""Writes the outcomes of cells as the tables of docs/what-works.md, and reads them again."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from sequence_encoder.tests.matrix.cells import FAULT, REFUSED, WORKS, Outcome
from sequence_encoder.tests.matrix.kinds import KINDS
from sequence_encoder.tests.matrix.models import rows

PAGE = Path(__file__).parents[2] / "docs" / "what-works.md"
Cells = dict[tuple[str, str, str], Outcome]
_MARKS = {WORKS: "✓", REFUSED: "✗", FAULT: "fault"}
_START, _NOTES = "<!-- tests/what_works.py writes the rest of this page. -->\n", "## Notes\n"
_STATES = "; "


def write(cells: Cells, columns: list[str], page: Path = PAGE) -> None:
    """Write the table of a page, after its introduction. A row needs all of its cells.

    Args:
        cells: The outcomes by the name of the kind, the state and the column.
        columns: The titles of the columns, in their order.
        page: The page.
    """
    introduction = page.read_text(encoding="utf-8").partition(_START)[0]
    notes: dict[str, int] = {}
    lines = [_line(["Model", "State", *columns]), _line(["---"] * (2 + len(columns)))]
    for kind, group in itertools.groupby(rows(), key=lambda row: row[0]):
        found: dict[tuple[str, ...], list[str]] = {}
        for _, state in group:
            outcomes = [cells.get((kind, state, column)) for column in columns]
            shown = tuple("" if each is None else _shown(each, notes) for each in outcomes)
            if all(shown):
                found.setdefault(shown, []).append(state)
        lines += [_line([KINDS[kind].title, _STATES.join(states), *shown]) for shown, states in found.items()]
    listed = "".join(f"{number}. {note}\n" for note, number in notes.items())
    page.write_text(f"{introduction}{_START}\n{''.join(lines)}\n{_NOTES}\n{listed}", encoding="utf-8")


def read(page: Path = PAGE) -> Cells:
    """Read the outcomes from a page."""
    _, _, content = page.read_text(encoding="utf-8").partition(_START)
    table, _, listed = content.partition(_NOTES)
    notes = {"": "", **dict(re.findall(r"^(\d+)\. (.*)$", listed, re.MULTILINE))}
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.split("\n") if line.strip()]
    kinds, marks = {kind.title: name for name, kind in KINDS.items()}, {mark: name for name, mark in _MARKS.items()}
    cells: Cells = {}
    for title, states, *shown in lines[2:]:
        for state, (column, text) in itertools.product(states.split(_STATES), zip(lines[0][2:], shown, strict=True)):
            if text:
                mark, _, number = text.partition(" ")
                cells[kinds[title], state, column] = Outcome(marks[mark], notes[number])
    return cells


def _shown(outcome: Outcome, notes: dict[str, int]) -> str:
    """Return the text of a cell, whose message is a numbered note."""
    mark = _MARKS[outcome.verdict]
    return f"{mark} {notes.setdefault(outcome.message, len(notes) + 1)}" if outcome.message else mark


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |\n"
