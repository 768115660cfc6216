"""How Sphinx builds the site: `make docs`. Building it needs no network."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import Any

project = "sequence-encoder"
release = installed_version("sequence-encoder")
html_title = project

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"

# Headings down to this level can be linked to; a link to one that does not exist is an error.
myst_heading_anchors = 4
# Single backticks in docstrings are code, as in Markdown.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True}


def _without_fences(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn the fenced examples of docstrings into the doctest blocks that reStructuredText knows."""
    lines[:] = [line for line in lines if not line.strip().startswith("```")]


def setup(app: Any) -> None:
    """Connect what reads the docstrings."""
    app.connect("autodoc-process-docstring", _without_fences, priority=0)
