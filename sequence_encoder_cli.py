"""The script `sequence-encoder`, which parses the command line before it imports torch.

Importing `sequence_encoder` registers its classes with transformers, which takes seconds. This module is therefore
outside the package. It creates the package module without running `__init__.py`, parses the command line, and only then
runs `__init__.py`. `python -m sequence_encoder` does the same work, but imports the package first, and so has OpenMP's
own defaults.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec
from typing import Any


def main() -> None:
    """Run `sequence-encoder` with the arguments of this process."""
    spec: Any = find_spec("sequence_encoder")
    package = sys.modules["sequence_encoder"] = module_from_spec(spec)
    from sequence_encoder.__main__ import main as run
    from sequence_encoder.command_line.openmp import set_openmp_defaults

    set_openmp_defaults()
    run(before_run=lambda: spec.loader.exec_module(package))


if __name__ == "__main__":
    main()
