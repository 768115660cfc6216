"""The guide "Add a task" works: its module and its lines, in a copy of the package, are all that `adapt` needs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from sequence_encoder.tests.fixtures.adaptation_runs import (
    COUNTS,
    FAST,
    arguments,
    examples_of,
    save_encoder,
    write_rows,
)
from sequence_encoder.tests.fixtures.forked_python import forked_python
from sequence_encoder.tests.fixtures.guides import blocks_of
from sequence_encoder.tests.fixtures.package_copies import ROOT, save_package_copy


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Save a copy of the package with the task of the guide."""
    module, lines = (block.code for block in blocks_of(ROOT / "docs" / "add-a-task.md"))
    imported, entry = lines.splitlines()
    table = (ROOT / "evaluation" / "tasks" / "__init__.py").read_text(encoding="utf-8")
    table = table.replace("from .task ", f"{imported}\nfrom .task ").replace("}\n", f"{entry}\n}}\n", 1)
    return save_package_copy(
        tmp_path / "packages", {"evaluation/tasks/ratings.py": module, "evaluation/tasks/__init__.py": table}
    )


def test_an_encoder_is_adapted_to_the_task_of_the_guide(package: Path, tmp_path: Path) -> None:
    def adapt(label: float) -> subprocess.CompletedProcess[str]:
        files = {}
        for number, (split, count) in enumerate(COUNTS.items()):
            rows = [{**row, "label": row["label"] + label} for row in examples_of("regression", count, number)]
            files[f"{split}_file"] = write_rows(tmp_path / f"{split}.jsonl", rows)
        line = arguments("ratings", save_encoder(tmp_path / "encoder"), tmp_path / "rater", **files, **FAST)
        return subprocess.run(
            [forked_python(), "-m", "sequence_encoder", "adapt", *line],
            env={**os.environ, "PYTHONPATH": str(package)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    refused = adapt(0.5)
    assert refused.returncode == 1
    assert "--label_column label must contain a whole number in every row; line 1 of" in refused.stderr
    done = adapt(1)
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "rater" / "results.json").read_text())["metrics"]["test"]
    assert measured.keys() >= {"spearman", "rmse", "accuracy"}
    assert measured["spearman"]["mean"] > 0.8
    answers = [json.loads(line) for line in (tmp_path / "rater" / "predictions.jsonl").read_text().splitlines()]
    right = [answer["prediction"] == answer["label"] for answer in answers]
    assert sum(right) / len(right) == pytest.approx(measured["accuracy"]["mean"])
