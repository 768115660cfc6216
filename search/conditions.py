"""Checks a condition on the columns of an index before LanceDB reads it.

LanceDB puts the condition behind `WHERE` in a statement of SQL, and ignores all that follows a complete expression:
another clause, such as `ORDER BY`, and what comes after `;` or `--`. It panics at parameters, such as `?`, and at texts
that are not in plain quotes, such as `N'text'`.
"""

from __future__ import annotations

import re

# Quoted strings and names, in which a doubled quote stands for one; and what can end an expression.
_QUOTED = r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`(?:[^`]|``)*`"
_ENDS = r"--|/\*|[;()]"
# Parameters: ?, :name, $1; and texts: N'text', B'text', R'text', $$text$$. A name can contain $, and :: is a cast.
_UNREADABLE = r"\?|(?<!:):(?!:)|(?<![\w$])\$|\b[NBRnbr](?=['\"])"
_TOKENS = re.compile(f"{_QUOTED}|(?P<end>{_ENDS})|(?P<unreadable>{_UNREADABLE})")


def as_expression(where: str) -> str:
    """Return a condition as LanceDB has to read it: as one expression, in parentheses.

    Args:
        where: The condition, as in SQL.

    Raises:
        ValueError: If it is empty, or has more than one expression, a comment, a parameter, or a text in other quotes.
    """
    if not where.strip():
        raise ValueError(f"where must be a condition, such as 'year > 2020', got {where!r}.")
    depth = 0
    for token in _TOKENS.finditer(where):
        if token["unreadable"]:
            raise ValueError(
                f"where must be complete, with texts in plain quotes, as in kind = 'a', but {where!r} has {token[0]!r} "
                f"at character {token.start() + 1}, which would start a parameter or another kind of text."
            )
        found = token["end"]
        depth += {"(": 1, ")": -1}.get(found, 0)
        if found not in (None, "(", ")") or depth < 0:
            raise ValueError(
                f"where must be one condition, but {where!r} has {token[0]!r} at character {token.start() + 1}, which "
                "would end it or start a comment. Write a single condition with AND and OR, and put texts in quotes."
            )
    return f"({where})"
