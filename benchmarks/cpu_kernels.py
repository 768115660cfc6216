"""Measure how much time each CPU kernel saves in inference and training. One run switches each on and off in turns.

Without a kernel, torch's operators do the work. Savings are shares of the time of a whole step.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from peers import DTYPES, interleaved, print_machine, train

from sequence_encoder import SequenceEncoderConfig, SequenceEncoderForMaskedLM

# The module in which each kernel checks whether it may run.
KERNELS = {
    "linear, with activation": "cpu.linear",
    "gated feed-forward": "cpu.gated",
    "dropout": "cpu.dropout",
    "cross entropy": "heads.losses",
    "attention in groups": "attention.grouped",
}
SIZES = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "layer_types": ["full_attention"] * 6}
BATCHES, BATCH, LONGEST, LABELLED = 4, 32, 128, 0.2


def without(kernel: str | None, run: Callable[[], object]) -> Callable[[], object]:
    """Return `run` with one kernel switched off."""

    def switched() -> None:
        with ExitStack() as stack:
            if kernel is not None:
                module = importlib.import_module(f"sequence_encoder.modeling.{KERNELS[kernel]}")
                for check in {"is_eager_on_cpu", "can_fuse"} & vars(module).keys():
                    stack.enter_context(patch.object(module, check, lambda *checked: False))
            run()

    return switched


def batches(vocab_size: int) -> list[dict[str, torch.Tensor]]:
    """Return batches of random lengths, with a share of the tokens labelled."""
    torch.manual_seed(0)
    made = []
    for _ in range(BATCHES):
        mask = torch.arange(LONGEST) < torch.randint(4, LONGEST, (BATCH, 1))
        ids = torch.randint(5, vocab_size, mask.shape)
        labelled = (torch.rand(mask.shape) < LABELLED) & mask
        made.append(
            {
                "input_ids": ids.where(mask, 0),
                "attention_mask": mask.long(),
                "labels": ids.where(labelled, -100),
            }
        )
    return made


def steps(preset: str, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """Return a pass over the batches in inference, and one in training."""
    torch.manual_seed(0)
    config = SequenceEncoderConfig.from_preset(preset, **SIZES, intermediate_size=1024, hidden_dropout=0.1)
    data = batches(config.vocab_size)
    trained = SequenceEncoderForMaskedLM(config).train()
    encoder = SequenceEncoderForMaskedLM(config).to(dtype).eval().model

    def infer() -> None:
        with torch.inference_mode():
            for batch in data:
                encoder(batch["input_ids"], attention_mask=batch["attention_mask"])

    return {"inference": infer, "training": lambda: train(trained, data, halved=dtype == torch.bfloat16)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["bert", "modernbert"])
    options = parser.parse_args()
    print_machine()
    header: list[Any] = [*KERNELS]
    print("share of the time that each kernel saves\n")
    print("| | " + " | ".join(header) + " |")
    print("|---" * (len(header) + 1) + "|")
    for preset in options.presets:
        for dtype in DTYPES:
            for kind, run in steps(preset, dtype).items():
                seconds = interleaved({name or "all": without(name, run) for name in (None, *KERNELS)})
                gains = [f"{1 - seconds['all'] / seconds[name]:+.1%}" for name in KERNELS]
                print(
                    f"| {preset}, {str(dtype).removeprefix('torch.')}, {kind} | " + " | ".join(gains) + " |", flush=True
                )


if __name__ == "__main__":
    main()
