"""How Sphinx builds the site: `make docs`. Building it needs no network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes

from sequence_encoder.search.static_site.writing import SiteText, write_static_site

project = "sequence-encoder"
release = installed_version("sequence-encoder")
html_title = project

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
templates_path = ["_templates"]

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


def _leave_out_search(app: Any) -> None:
    """Leave out the search of Sphinx, whose page would replace the guide with the same name."""
    app.builder.search = False


def _texts_of(doctree: Any, page: str, address: str) -> Iterator[SiteText]:
    """Yield the sections and the documented names of a page, each without those inside it."""
    for node in doctree.findall(lambda node: isinstance(node, nodes.section | addnodes.desc)):
        head = node.next_node(nodes.title if isinstance(node, nodes.section) else addnodes.desc_signature)
        anchors = (node if isinstance(node, nodes.section) else head)["ids"]
        if not anchors:
            continue
        body = node if isinstance(node, nodes.section) else node.next_node(addnodes.desc_content)
        others = (nodes.title, nodes.section, nodes.comment, nodes.raw, addnodes.desc, addnodes.toctree)
        text = "\n".join(_lines_of(part) for part in body.children if not isinstance(part, others))
        title = head.astext() if isinstance(node, nodes.section) else anchors[0]
        fields = {"title": title, "url": f"../{address}#{anchors[0]}"}
        yield SiteText(text.strip(), fields if title == page else {**fields, "page": page})


def _lines_of(node: Any) -> str:
    """Return the text of a node. Only code keeps its lines."""
    text = node.astext()
    return text if isinstance(node, nodes.literal_block) else " ".join(text.split())


def _write_search(app: Any, error: Exception | None) -> None:
    """Write the page that searches in the guides and the reference. It has no model, and finds words."""
    if error is not None or app.builder.name != "html":
        return
    texts = [
        text
        for name in sorted(app.env.found_docs)
        for text in _texts_of(
            app.env.get_doctree(name), app.env.titles[name].astext(), app.builder.get_target_uri(name)
        )
    ]
    write_static_site(Path(app.outdir, "find"), texts, title=f"{project}: search", language="English")


def setup(app: Any) -> None:
    """Connect what reads the docstrings, and what writes the page of the commands and the search."""
    app.connect("builder-inited", _write_commands)
    app.connect("builder-inited", _leave_out_search)
    app.connect("build-finished", _write_search)
    app.connect("autodoc-process-docstring", _without_fences, priority=0)
