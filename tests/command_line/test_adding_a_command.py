"""The guide "Add a command" works: its module and its line, in a copy of the package, are all that a command needs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from sequence_encoder.tests.fixtures.adaptation_runs import save_encoder
from sequence_encoder.tests.fixtures.forked_python import forked_python
from sequence_encoder.tests.fixtures.guides import blocks_of
from sequence_encoder.tests.fixtures.package_copies import ROOT, save_package_copy


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Save a copy of the package with the command of the guide."""
    module, line = (block.code for block in blocks_of(ROOT / "docs" / "add-a-command.md"))
    table = (ROOT / "__main__.py").read_text(encoding="utf-8").replace("\n}\n", f"\n{line}}}\n", 1)
    return save_package_copy(tmp_path / "packages", {"inference/tokens.py": module, "__main__.py": table})


def test_the_command_of_the_guide_is_listed_explained_and_run(package: Path, tmp_path: Path) -> None:
    def run(*line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [forked_python(), "-m", "sequence_encoder", *line],
            env={**os.environ, "PYTHONPATH": str(package)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    encoder = str(save_encoder(tmp_path / "encoder"))
    assert "  tokens      Print the tokens of a text.\n" in run("--help").stdout
    shown = run("tokens", "--help").stdout
    assert [each for each in ("MODEL", "--text", "--max_length", "Text to split.") if each not in shown] == []
    told = run("tokens", encoder, "--text", "a red cat")
    assert told.returncode == 0, told.stderr
    assert [token.strip("Ġ▁#") for token in told.stdout.split()][1:-1] == ["a", "red", "cat"]
    assert len(run("tokens", encoder, "--text", "a red cat", "--max_length", "3").stdout.split()) == 3
    (tmp_path / "settings.json").write_text(f'{{"model": "{encoder}", "text": "a red cat"}}')
    assert run("tokens", "settings.json").stdout == told.stdout
    refused = run("tokens", encoder, "--text", "a", "--max_length", "0")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "--max_length must be at least 1, got 0." in refused.stderr
