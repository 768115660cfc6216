"""`sequence-encoder inspect`: prints what a configuration says, without importing torch."""

from __future__ import annotations

import json

from ..command_line.quiet import quiet_libraries
from ..command_line.without_torch import without_torch
from .arguments import InspectArguments


def inspect(options: InspectArguments) -> None:
    """Run `sequence-encoder inspect`."""
    with without_torch(), quiet_libraries():
        from .inspection import inspect as inspect_checkpoint

        inspection = inspect_checkpoint(options.model)
    print(json.dumps(inspection.as_dict(), indent=2) if options.json else inspection)
