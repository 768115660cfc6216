"""Commands set defaults of OpenMP before torch reads them, and never replace what the user has set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sequence_encoder.command_line.openmp import cpu_limit, set_openmp_defaults


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_the_limit_of_a_container(tmp_path: Path, files: dict[str, str], limit: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_limit(tmp_path) == limit


def test_there_are_as_many_threads_as_cpus(tmp_path: Path) -> None:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for quota, threads in (("1", "1"), ("50000", "1"), (str(10**9), None), ("max", None)):
        (tmp_path / "cpu.max").write_text(f"{quota} 100000")
        environment: dict[str, str] = {}
        set_openmp_defaults(environment, tmp_path)
        # One CPU leaves nothing to limit.
        assert environment.get("OMP_NUM_THREADS") == (threads if cpus > 1 else None)


def test_what_the_user_has_set_stays(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("100000 100000")
    given = {"GOMP_SPINCOUNT": "7", "OMP_NUM_THREADS": "3"}
    environment = dict(given)
    set_openmp_defaults(environment, tmp_path)
    assert environment == given
    environment = {"OMP_WAIT_POLICY": "active"}
    set_openmp_defaults(environment, tmp_path)
    assert "GOMP_SPINCOUNT" not in environment


def test_the_script_sets_them_before_it_imports_torch() -> None:
    code = """if True:
        import os, sys
        import sequence_encoder_cli
        sys.argv = ["sequence-encoder", "--version"]
        try:
            sequence_encoder_cli.main()
        except SystemExit:
            print(os.environ["GOMP_SPINCOUNT"], "torch" in sys.modules)
    """
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == "20000 False"
