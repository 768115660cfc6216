"""Run the test suite with other versions of the dependencies, in environments under `.venv/compatibility`.

    python tests/compatibility.py oldest newest 5.12

`oldest` installs the lowest versions that pyproject.toml allows, `newest` the latest versions, and `5.12` that minor
version of transformers with the latest versions of all other packages. The environment variable OLDEST_PYTHON names
the interpreter for `oldest`; the default is the current interpreter.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
EXTRAS = ("train", "dev")
# pyarrow 26 needs NumPy 2, but does not declare it, so pip would install it beside an older NumPy.
CONSTRAINTS_OF_OLDEST = ("pyarrow<26",)
SHOWN = ("torch", "transformers", "tokenizers", "huggingface_hub", "accelerate", "safetensors", "datasets", "numpy")


def lowest_versions() -> list[str]:
    """Return a pin for each lower limit in pyproject.toml, from the metadata of the installed package."""
    needed = [Requirement(line) for line in requires("sequence-encoder") or []]
    return [
        f"{requirement.name}=={limit.version}"
        for requirement in needed
        # The tools of the dev extra have no pins, so they may be newer.
        if requirement.marker is None or requirement.marker.evaluate({"extra": "train"})
        for limit in requirement.specifier
        if limit.operator == ">="
    ]


def make_environment(name: str) -> Path:
    """Create or update an environment with the package and the tools of its suite, and return its interpreter."""
    folder = ROOT / ".venv" / "compatibility" / name
    python = folder / "bin" / "python"
    base = os.environ.get("OLDEST_PYTHON") or sys.executable if name == "oldest" else sys.executable
    pins = {"oldest": [*lowest_versions(), *CONSTRAINTS_OF_OLDEST], "newest": []}.get(name, [f"transformers=={name}.*"])
    if not python.exists():
        subprocess.run([base, "-m", "venv", folder], check=True)
        # The pip of older Pythons cannot build seqeval.
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", "pip>=23.1"], check=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write("\n".join(pins))
        constraints.flush()
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
        package = f"{ROOT}[{','.join(EXTRAS)}]"
        # Setuptools warns of folders with the package's name in front of an editable installation; there are none.
        quiet = {**os.environ, "PYTHONWARNINGS": "ignore:Editable installation"}
        subprocess.run([*install, "--constraint", constraints.name, "--editable", package], check=True, env=quiet)
    return python


def versions(python: Path) -> str:
    """Return the versions in an environment, in one line."""
    code = f"""
import platform
from importlib.metadata import version
print("Python " + platform.python_version(), *(f"{{name}} {{version(name)}}" for name in {SHOWN}), sep=", ")
"""
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def run_suite(python: Path) -> tuple[bool, str]:
    """Run the suite and print its output, and return whether it passed and its last line."""
    line = ""
    workers = ["--numprocesses", "auto", "--maxprocesses", "8", "--dist", "worksteal"]
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", *workers]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as suite:
        assert suite.stdout is not None
        for line in suite.stdout:
            print(line, end="", flush=True)
    return suite.returncode == 0, line.strip()


def main(names: list[str]) -> int:
    """Run the suite in each environment, print a summary, and return the number of failures."""
    rows, failed = [], 0
    for number, name in enumerate(names, start=1):
        start = time.monotonic()
        print(f"[{number}/{len(names)}] {name}: installing", flush=True)
        try:
            python = make_environment(name)
            installed = versions(python)
            print(f"[{number}/{len(names)}] {name}: {installed}", flush=True)
            passed, line = run_suite(python)
        except subprocess.CalledProcessError as error:
            passed, installed, line = False, "", f"not installed: {error}"
        failed += not passed
        minutes = (time.monotonic() - start) / 60
        rows.append(f"{name}: {line} ({minutes:.0f} min)\n    {installed}")
    print("", *rows, sep="\n")
    return failed


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
