"""A built package holds every subpackage, and reports the version that pyproject.toml states."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

import sequence_encoder
from sequence_encoder.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def listed(name: str) -> list[str]:
    """Return the strings of a list in pyproject.toml, for which Python 3.10 has no parser."""
    found = re.search(rf"^{name} = \[(.*?)\]$", PROJECT, re.MULTILINE | re.DOTALL)
    assert found, name
    return re.findall(r'"([^"]+)"', found[1])


def subpackages(folder: Path, name: str) -> Iterator[str]:
    """Yield the package in a folder and all below it. Below the root, every folder with code must be a package."""
    yield name
    for inside in sorted(path for path in folder.iterdir() if path.is_dir()):
        if (inside / "__init__.py").is_file() or (folder != ROOT and any(inside.glob("*.py"))):
            yield from subpackages(inside, f"{name}.{inside.name}")


def test_every_subpackage_is_built() -> None:
    assert listed("packages") == list(subpackages(ROOT, "sequence_encoder"))


def test_every_file_of_the_package_is_built() -> None:
    folders = [ROOT.joinpath(*name.split(".")[1:]) for name in listed("packages")]
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []
    files = [path for folder in folders if folder != ROOT for path in folder.iterdir() if path.is_file()]
    data = {
        path
        for folder, names in re.findall(r'^"sequence_encoder\.([\w.]+)" = \[(.+)\]$', PROJECT, re.MULTILINE)
        for name in re.findall(r'"(.+?)"', names)
        for path in ROOT.joinpath(*folder.split(".")).glob(name)
    }
    assert {path for path in files if path.suffix != ".py"} == {path for path in data if path.parent in folders}
    assert {path for folder in folders for path in folder.glob("page/*")} <= data
    assert [name for name in listed("sequence_encoder") if not (ROOT / name).is_file()] == []


def test_the_package_and_its_command_report_the_stated_version(capsys: pytest.CaptureFixture[str]) -> None:
    stated = re.search(r'^version = "(.+)"$', PROJECT, re.MULTILINE)
    assert stated
    assert sequence_encoder.__version__ == stated[1]
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"{stated[1]}\n"


def test_the_script_reports_the_version_without_torch(tmp_path: Path) -> None:
    program = """
import runpy, sys
sys.argv[1:] = ["--version"]
try:
    runpy.run_path(SCRIPT, run_name="__main__")
finally:
    assert "torch" not in sys.modules
"""
    command = [sys.executable, "-c", f"SCRIPT = {str(ROOT / 'sequence_encoder_cli.py')!r}\n{program}"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert finished.stdout == f"{sequence_encoder.__version__}\n"


def test_the_version_comes_from_the_checkout_or_the_installed_metadata(tmp_path: Path) -> None:
    module = tmp_path / "saving" / "version.py"
    module.parent.mkdir()
    module.write_text((ROOT / "saving/version.py").read_text(encoding="utf-8"))
    assert runpy.run_path(os.fspath(module))["__version__"] == version("sequence-encoder")
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "7.8.9rc1"\n[tool.mypy]\npython_version = "3.10"\n')
    assert runpy.run_path(os.fspath(module))["__version__"] == "7.8.9rc1"
