"""How commands read their arguments: dataclasses through `HfArgumentParser`, a file of settings, fitting defaults."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from transformers import HfArgumentParser, TrainingArguments

from . import UsageError
from .hardware import faster_in_bfloat16, has_accelerator

Defaults = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def parse_arguments(
    command: str, description: str, kinds: tuple[type, ...], arguments: list[str], defaults: Defaults
) -> tuple[Any, ...]:
    """Reads a command line: first, if at all, a file of YAML or JSON, whose values the arguments after it replace.

    Args:
        command: its name.
        description: what it does.
        kinds: dataclasses, whose fields are the arguments.
        arguments: what was typed.
        defaults: other defaults than those of the fields, for what was given in the file and on the command line.

    Returns:
        One of each of the dataclasses.

    Raises:
        UsageError: for names and values that are not allowed.
    """
    settings: dict[str, Any] = {}
    if arguments and not arguments[0].startswith("-"):
        settings, arguments = read_settings(Path(arguments[0])), arguments[1:]
    parser = HfArgumentParser(
        cast(Any, kinds),
        prog=f"sequence-encoder {command}",
        usage=f"sequence-encoder {command} [settings.yaml or .json] [--name value ...]",
        description=description,
        allow_abbrev=False,
    )
    settings = _checked(settings, parser)
    given = {**settings, **_given(parser, arguments)}
    parser.set_defaults(**{**defaults(given), **settings})
    for action in parser._actions:
        # `parse_args` would ask for what the file gives.
        action.required = action.required and action.dest not in settings
    try:
        *found, left_over = parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    except (ValueError, TypeError) as error:
        raise UsageError(error) from error
    if left_over:
        names = [name for action in parser._actions for name in action.option_strings]
        close = difflib.get_close_matches(left_over[0], names, n=1)
        hint = f"did you mean {close[0]}?" if close else "see --help for those that there are."
        raise UsageError(f"there is no argument {left_over[0]}; {hint}")
    return tuple(found)


def _checked(settings: dict[str, Any], parser: HfArgumentParser) -> dict[str, Any]:
    """The settings of a file by the names of the fields."""
    names = {name.lstrip("-"): action.dest for action in parser._actions for name in action.option_strings}
    settings = {names.get(name, name): value for name, value in settings.items() if value is not None}
    known = set(names.values()) - {"help"}
    if unknown := sorted(settings.keys() - known):
        raise UsageError(f"there are no arguments {', '.join(unknown)}; see --help for those that there are.")
    for action in parser._actions:
        value = settings.get(action.dest)
        # Defaults are not held against the choices.
        if action.choices and value is not None and value not in action.choices:
            raise UsageError(f"{action.dest} must be one of {', '.join(map(str, action.choices))}, got {value}.")
        if action.nargs == "+" and value is not None and not isinstance(value, list):
            settings[action.dest] = [value]
        # The parser reads what is text.
        if action.type is int and isinstance(value, float | bool):
            raise UsageError(f"{action.dest} must be a whole number, got {value!r}.")
    return settings


def _given(parser: HfArgumentParser, arguments: list[str]) -> dict[str, Any]:
    """What the command line says, without defaults; nothing if it asks for help, which shows them."""
    if {"-h", "--help"} & set(arguments):
        return {}
    before = [(action, action.default, action.required) for action in parser._actions]
    for action, _, _ in before:
        action.default, action.required = argparse.SUPPRESS, False
    try:
        return vars(parser.parse_known_args(arguments)[0])
    finally:
        for action, default, required in before:
            action.default, action.required = default, required


def check_fixed(arguments: TrainingArguments, **fixed: Any) -> None:
    """Checks the arguments of `Trainer` that a recipe leaves no choice for.

    Raises:
        UsageError: if one has another value.
    """
    for name, allowed in fixed.items():
        if getattr(arguments, name) != allowed:
            raise UsageError(f"--{name} must be {allowed}, got {getattr(arguments, name)}.")


def settle_device(arguments: TrainingArguments) -> None:
    """Means the CPU where there is nothing else, and bfloat16 where that is faster and nothing else was said."""
    # `Trainer` takes bfloat16 on a CPU only where it is told that the CPU is meant.
    arguments.use_cpu = arguments.use_cpu or not has_accelerator()
    if arguments.bf16 is None:
        arguments.bf16 = not arguments.fp16 and faster_in_bfloat16()


def read_settings(file: Path) -> dict[str, Any]:
    """A mapping from a file of YAML or JSON.

    Raises:
        UsageError: if there is none in it.
        OSError: if it cannot be read.
    """
    import yaml

    if file.suffix not in (".json", ".yaml", ".yml"):
        raise UsageError(f"settings must be a file of .yaml, .yml or .json, got {file}.")
    try:
        # JSON is YAML too.
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise UsageError(f"{file} must hold names and values, got {type(settings).__name__}.")
    return settings
