"""Test the package with other versions of the dependencies.

    python tests/compatibility.py oldest newest 5.12 minors

`oldest` runs the test suite with the lowest versions that pyproject.toml allows, `newest` with the latest versions, and
`5.12` with the last patch of that release of transformers and otherwise the versions that are installed here. The
environment variable OLDEST_PYTHON names the interpreter for `oldest`; the default is the current interpreter.

`minors` runs `first_steps.py`, the first five minutes of a user, with the last patch of every minor release of
transformers that pyproject.toml allows and the package index has.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from environments import ROOT, make_environment, minor_releases, versions

FIRST_STEPS = Path(__file__).with_name("first_steps.py")


def run_suite(python: Path) -> dict[str, str]:
    """Run the suite and print its output, and return a row for the table of results."""
    installed = versions(python)
    print(installed, flush=True)
    line = ""
    workers = ["--numprocesses", "auto", "--maxprocesses", "8", "--dist", "worksteal"]
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", *workers]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as suite:
        assert suite.stdout is not None
        for line in suite.stdout:
            print(line, end="", flush=True)
    return {"result": "failed" if suite.returncode else "passed", "tests": line.strip(" =\n"), "versions": installed}


def take_first_steps(python: Path) -> dict[str, str]:
    """Take the first steps and print what failed, and return a row for the table of results."""
    steps = subprocess.run([python, FIRST_STEPS], capture_output=True, text=True, check=False)
    if steps.returncode:
        print(steps.stderr, flush=True)
    lines = steps.stdout.splitlines()
    return {"result": "failed" if steps.returncode else "passed", **(json.loads(lines[-1]) if lines else {})}


def run_in(name: str, run: Callable[[Path], dict[str, str]]) -> dict[str, str]:
    """Make an environment and run something in it, and return a row for the table of results."""
    start = time.monotonic()
    print(f"{name}: installing", flush=True)
    try:
        row = run(make_environment(name))
    except subprocess.CalledProcessError as error:
        row = {"result": f"not installed: {error}"}
    minutes = f"{(time.monotonic() - start) / 60:.1f}"
    print(f"{name}: {row['result']} after {minutes} min", flush=True)
    return {"environment": name, **row, "minutes": minutes}


def table(rows: list[dict[str, str]]) -> str:
    """Return a table with a column for each name in a row."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([row.get(name, "") for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)


def main(names: list[str]) -> int:
    """Test in each environment, print tables of the results, and return the number of failures."""
    suites = [run_in(name, run_suite) for name in names if name != "minors"]
    minors = [run_in(name, take_first_steps) for name in (minor_releases() if "minors" in names else [])]
    for rows in filter(None, (suites, minors)):
        print("", table(rows), sep="\n")
    return sum(row["result"] != "passed" for row in (*suites, *minors))


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
