"""The help of a command, from the metadata of its dataclasses."""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Collection, Iterable
from dataclasses import MISSING, Field, fields
from typing import Any

from .parser import Command, Values

_METAVARS = {"_file": "FILE", "_dir": "FOLDER", "_column": "COLUMN", "_columns": "COLUMN"}
# More choices than this are listed after the description, where they wrap.
_MOST_CHOICES = 8


def help_of(command: Command, arguments: list[str], *more: type) -> str:
    """Return the help of a command.

    Args:
        command: The command.
        arguments: The command line. The options in `narrowed_by` narrow the help.
        *more: More dataclasses whose fields the command accepts.
    """
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in command.narrowed_by:
        chooser.add_argument(f"--{name}", default=argparse.SUPPRESS)
    given = vars(chooser.parse_known_args(arguments)[0])
    example = command.example
    for name, value in given.items():
        example = re.sub(rf"--{name} \S+", f"--{name} {value}", example)
    every = {each.name: each for kind in command.kinds for each in fields(kind)}
    positional = [every[name] for name in command.positional]
    parser = argparse.ArgumentParser(
        prog=f"sequence-encoder {command.name}",
        usage=f"%(prog)s {' '.join([*map(_usage, positional), '[--option VALUE ...]'])}",
        description=f"{command.summary}\n\n  sequence-encoder {command.name} {example}",
        formatter_class=functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=30),
        add_help=False,
    )
    defaults, hidden = command.defaults(given), {*command.left_out(given), *given, *command.positional}
    if positional:
        group = parser.add_argument_group("arguments")
        for each in positional:
            group.add_argument(each.name, metavar=each.name.upper(), help=_escaped(each.metadata["help"]))
    for kind in command.kinds:
        shown = [each for each in fields(kind) if each.name not in hidden]
        group = parser.add_argument_group(getattr(kind, "_argument_group_name", "options"))
        _add_options(group, shown, defaults, hidden)
    for kind in more:
        group = parser.add_argument_group(f"options of transformers' {kind.__name__}")
        _add_options(group, [each for each in fields(kind) if each.init and each.name not in every], {}, ())
    if command.with_trainer and not more:
        parser.epilog = (
            "All options of transformers.TrainingArguments work, too. Instead of arguments, a YAML or JSON file with "
            "options can come first."
        )
        for name in [name for name in command.narrowed_by[:1] if name not in given]:
            parser.epilog += f"\n{command.name} --{name} {name.upper()} --help lists the options of one {name}."
    return parser.format_help()


def _usage(each: Field[Any]) -> str:
    shown = f"{each.name.upper()} ..." if "list" in str(each.type) else each.name.upper()
    return shown if each.default is MISSING and each.default_factory is MISSING else f"[{shown}]"


def _add_options(group: Any, shown: Iterable[Field[Any]], defaults: Values, hidden: Collection[str]) -> None:
    """Add a line for each field to the help: its option, its meaning and its default."""
    for each in shown:
        default = defaults.get(each.name, each.default_factory() if callable(each.default_factory) else each.default)
        help_text = _escaped(each.metadata.get("help", ""))
        if isinstance(default, bool):
            forms = (f"--{each.name}", f"--no_{each.name}") if default else (f"--{each.name}",)
            group.add_argument(*forms, action="store_true", help=help_text)
            continue
        choices = [str(choice) for choice in each.metadata.get("choices", ()) if f"{each.name}={choice}" not in hidden]
        if len(choices) > _MOST_CHOICES:
            help_text += f" One of {', '.join(choices)}."
        if default not in (None, MISSING, []):
            values = default if isinstance(default, list) else [getattr(default, "value", default)]
            stated = re.sub(r"( \(default: .*\))?\.$", "", help_text)
            help_text = f"{stated} (default: {_escaped(' '.join(map(str, values)))})."
        group.add_argument(f"--{each.name}", metavar=_metavar(each, choices), help=help_text)


def _metavar(each: Field[Any], choices: list[str]) -> str:
    """Return what stands for the value of an option: its choices, or a word for its kind."""
    if "metavar" in each.metadata:
        return str(each.metadata["metavar"])
    if choices and len(choices) <= _MOST_CHOICES:
        return "{" + ",".join(choices) + "}"
    kind, ending = str(each.type), f"_{each.name.rpartition('_')[2]}"
    word = _METAVARS.get(ending, "N" if "int" in kind else "NUMBER" if "float" in kind else "TEXT")
    return f"{word} [{word} ...]" if "list" in kind else word


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
