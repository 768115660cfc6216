"""Environments with other versions of the dependencies, in `.venv/compatibility`."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import tempfile
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PACKAGE = "sequence-encoder"
EXTRAS = "[train,dev]"
# The extras whose limits are pinned. The dev extra installs them too, but its own tools have no pins.
PINNED_EXTRAS = ("train", "adapt", "constraints", "search", "serve")
# Pip would install pyarrow 26 beside a NumPy that is too old for it.
CONSTRAINTS_OF_OLDEST = ("pyarrow<26",)
SHOWN = ("torch", "transformers", "tokenizers", "huggingface_hub", "accelerate", "safetensors", "datasets", "numpy")


def requirements() -> list[Requirement]:
    """Return what the installed package needs, also for the extras whose limits are pinned."""
    needed = [Requirement(line) for line in requires(PACKAGE) or []]
    extras = [{"extra": name} for name in PINNED_EXTRAS]
    return [one for one in needed if one.marker is None or any(map(one.marker.evaluate, extras))]


def lowest_versions() -> list[str]:
    """Return a pin for each lower limit in pyproject.toml."""
    limits = [(one.name, limit) for one in requirements() for limit in one.specifier]
    return [f"{name}=={limit.version}" for name, limit in limits if limit.operator == ">="]


def minor_releases() -> list[str]:
    """Return all minor releases of transformers that pyproject.toml allows, oldest first, from the package index."""
    allowed = next(one.specifier for one in requirements() if one.name == "transformers")
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "index", "versions", "transformers", "--json", "--disable-pip-version-check"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    minors = {Version(name).release[:2] for name in allowed.filter(json.loads(listed.stdout)["versions"])}
    return [f"{major}.{minor}" for major, minor in sorted(minors)]


def make_environment(name: str) -> Path:
    """Create or update an environment with the package and the tools of its suite, and return its interpreter.

    Args:
        name: `oldest`, `newest` or a minor release of transformers, such as `5.12`. An environment for a minor release
            shares the packages of this one, and only holds those that need another version.
    """
    folder = ROOT / ".venv" / "compatibility" / name
    python = folder / "bin" / "python"
    alone = name in ("oldest", "newest")
    if not python.exists():
        base = os.environ.get("OLDEST_PYTHON") or sys.executable if name == "oldest" else sys.executable
        subprocess.run([base, "-m", "venv", folder, *([] if alone else ["--without-pip"])], check=True)
        if alone:
            # The pip of older Pythons cannot build seqeval.
            subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", "pip>=23.1"], check=True)
        else:
            _share_packages(python)
    if alone:
        pins = [*lowest_versions(), *CONSTRAINTS_OF_OLDEST] if name == "oldest" else []
        _install(python, pins, "--upgrade", "--editable", f"{ROOT}{EXTRAS}")
    else:
        # The package itself is among those that are shared.
        _install(python, [f"transformers=={name}.*"], f"{PACKAGE}{EXTRAS}")
    return python


def _share_packages(python: Path) -> None:
    """Let an environment import the packages of this one, which come after its own."""
    own = subprocess.run(
        [python, "-c", "import site; print(site.getsitepackages()[0])"], check=True, stdout=subprocess.PIPE, text=True
    )
    # Unlike a line with the path alone, this also reads the .pth files there, such as that of an editable installation.
    line = f"import site; site.addsitedir({site.getsitepackages()[0]!r})\n"
    Path(own.stdout.strip(), "_shared.pth").write_text(line)


def _install(python: Path, pins: list[str], *arguments: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write("\n".join(pins))
        constraints.flush()
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        # Setuptools warns of folders with the package's name in front of an editable installation; there are none.
        quiet = {**os.environ, "PYTHONWARNINGS": "ignore:Editable installation"}
        subprocess.run([*install, "--constraint", constraints.name, *arguments], check=True, env=quiet)


def versions(python: Path) -> str:
    """Return the versions in an environment, in one line."""
    code = f"""
import platform
from importlib.metadata import version
print("Python " + platform.python_version(), *(f"{{name}} {{version(name)}}" for name in {SHOWN}), sep=", ")
"""
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
