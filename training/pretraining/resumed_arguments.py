"""The arguments of an interrupted pretraining, which also apply when it is resumed unless the user overrides them."""

from __future__ import annotations

import json
from pathlib import Path

from ...command_line import UsageError

OUTPUT = "pretrained"
# The folder in the output folder for what an interrupted run needs to resume.
SCRATCH = "_pretraining"
# In that folder.
FILE = "arguments.json"
_NOT_SAVED = ("output_dir", "resume", "overwrite")
_YES: tuple[list[str], ...] = ([], ["true"], ["t"], ["yes"], ["y"], ["1"])


def with_saved_arguments(arguments: list[str]) -> list[str]:
    """Complete a command line that has `--resume` with the arguments of the interrupted run.

    Args:
        arguments: The command line, all of it options.

    Returns:
        The completed command line, or `arguments` if they do not have `--resume`.

    Raises:
        UsageError: If there is no such run, and no corpus to start a new one.
    """
    given = by_name(arguments)
    if [value.lower() for value in given.get("resume", ["no"])] not in _YES:
        return arguments
    output = Path(*given.get("output_dir", [OUTPUT]))
    file = output / SCRATCH / FILE
    if file.exists():
        try:
            earlier = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UsageError(f"{file} is damaged ({error}); start over with --overwrite.") from error
        given = {name: values for name, values in earlier.items() if name not in given} | given
    elif "corpus" not in given:
        raise UsageError(
            f"--resume found no interrupted run in {output}. Set --output_dir to its folder, or --corpus to the "
            "texts of a new run."
        )
    return [part for name, values in given.items() for part in (f"--{name}", *values)]


def by_name(arguments: list[str]) -> dict[str, list[str]]:
    """Group a command line by argument. The last occurrence of an argument wins."""
    found: dict[str, list[str]] = {}
    name = ""
    for part in arguments:
        if part.startswith("--"):
            name, equals, value = part[2:].partition("=")
            name = name.replace("-", "_")
            found.pop(name, None)
            found[name] = [value] if equals else []
        else:
            found.setdefault(name, []).append(part)
    return found


def serialize_arguments(arguments: list[str]) -> str:
    """Serialise the arguments for `with_saved_arguments`, except those that only apply to this invocation."""
    kept = {name: values for name, values in by_name(arguments).items() if name not in _NOT_SAVED}
    return json.dumps(kept, indent=1)
