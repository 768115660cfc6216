"""Runs the command line with FSDP2 on CPUs, which Accelerate gives to accelerators alone; started by a launcher."""

from __future__ import annotations

import os
import sys

from accelerate import DistributedType, PartialState

from sequence_encoder.training.pretraining.recipe import pretrain
from sequence_encoder.training.pretraining.run import parse


def main() -> None:
    """As `sequence-encoder pretrain` does."""
    parsed = parse(sys.argv[1:])
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    pretrain(parsed).accelerator.end_training()
    # Caches of DTensor keep the groups of gloo, whose threads can abort an interpreter that takes itself apart.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
