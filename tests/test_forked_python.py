"""A forked Python runs programs like a fresh one, ends with them, and has not imported the package."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sequence_encoder.tests.forked_python import forked_python


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([forked_python(), *arguments], capture_output=True, text=True, check=False, **options)


def test_a_fork_has_imported_torch_but_not_the_package() -> None:
    found = run("-c", "import sys; print('torch' in sys.modules, 'sequence_encoder' in sys.modules)")
    assert found.stdout == "True False\n"


def test_a_fork_inherits_folder_environment_input_and_limits(tmp_path: Path) -> None:
    code = """
import os, resource, sys
print(os.getcwd(), os.environ["GIVEN"], input(), resource.getrlimit(resource.RLIMIT_FSIZE)[0], sys.argv)
"""
    found = run(
        "-c",
        code,
        "an argument",
        cwd=tmp_path,
        env={**os.environ, "GIVEN": "given"},
        input="read",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6)),
    )
    assert found.stdout == f"{tmp_path} given read 1000000 ['-c', 'an argument']\n", found.stderr


def test_scripts_and_modules_run_with_their_paths(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("import sys\nprint(__name__, sys.path[0], sys.argv[1:])")
    script = run(str(tmp_path / "beside.py"), "x")
    assert script.stdout == f"__main__ {tmp_path} ['x']\n"
    assert run("-m", "beside", "x", cwd=tmp_path).stdout == script.stdout
    (tmp_path / "main.py").write_text("import beside")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert run("-c", "import beside", env=environment).stdout.startswith("beside")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("pass", 0),
        ("import sys; sys.exit()", 0),
        ("import sys; sys.exit(3)", 3),
        ("1 / 0", 1),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL),
    ],
)
def test_the_executable_ends_with_the_status_of_the_fork(code: str, status: int) -> None:
    assert run("-c", code).returncode == status


def test_a_fork_ends_after_its_threads_and_exit_handlers() -> None:
    code = """
import atexit, threading
atexit.register(print, "third")
go = threading.Event()
threading.Thread(target=lambda: (go.wait(), print("second"))).start()
print("first")
go.set()
"""
    assert run("-c", code).stdout.split() == ["first", "second", "third"]


def test_libraries_are_imported_again_with_other_variables() -> None:
    code = "import huggingface_hub.constants as constants, transformers.trainer; print(constants.ENDPOINT)"
    assert run("-c", code, env={**os.environ, "HF_ENDPOINT": "http://hub.local"}).stdout == "http://hub.local\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_executable_ends_the_fork(number: signal.Signals) -> None:
    code = "import time; print('started', flush=True); time.sleep(600)"
    with subprocess.Popen([forked_python(), "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        process.send_signal(number)
        # The read returns once the fork has closed the pipe.
        assert process.stdout.read() == b""
    assert process.returncode == -number
