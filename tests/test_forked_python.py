"""A forked Python runs programs like a fresh one, ends with them, and has not imported the package."""

from __future__ import annotations

import subprocess
from typing import Any

from sequence_encoder.tests.forked_python import forked_python


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([forked_python(), *arguments], capture_output=True, text=True, check=False, **options)


def test_a_fork_has_imported_torch_but_not_the_package() -> None:
    found = run("-c", "import sys; print('torch' in sys.modules, 'sequence_encoder' in sys.modules)")
    assert found.stdout == "True False\n"
