"""Run `sequence-encoder pretrain` with FSDP2 on CPUs, which Accelerate only supports on accelerators.

A launcher starts this script.
"""

from __future__ import annotations

import os
import sys

from accelerate import DistributedType, PartialState

from sequence_encoder.training.pretraining.pretrain import pretrain
from sequence_encoder.training.pretraining.run import parse


def main() -> None:
    """Run the pretraining of the command line."""
    parsed = parse(sys.argv[1:])
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    pretrain(parsed).accelerator.end_training()
    # DTensor caches the gloo groups, whose threads can abort the interpreter while it shuts down.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
