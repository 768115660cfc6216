"""How Sphinx builds the site: `make docs`. Building it needs no network."""

from __future__ import annotations

import os
from importlib.metadata import version as installed_version
from pathlib import Path
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


def _write_commands(app: Any) -> None:
    """Write the page with all options of all commands."""
    from transformers import TrainingArguments

    from sequence_encoder.__main__ import COMMANDS, find_command
    from sequence_encoder.command_line.help import help_of

    os.environ["COLUMNS"] = "100"
    page = ["# Commands\n"]
    for name in COMMANDS:
        command = find_command(name)
        more = (TrainingArguments,) if command.with_trainer else ()
        page.append(f"## {name}\n\n```text\n{help_of(command, [], *more)}```\n")
    Path(__file__).with_name("reference").joinpath("commands.md").write_text("\n".join(page), encoding="utf-8")


def setup(app: Any) -> None:
    """Connect what reads the docstrings, and what writes the page of the commands."""
    app.connect("builder-inited", _write_commands)
    app.connect("autodoc-process-docstring", _without_fences, priority=0)
