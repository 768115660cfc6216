"""Compare saved encoders that two processes share by tensor parallelism with whole ones.

Each process runs this script with the number of its rank and a file for the rendezvous, before the folders.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers.distributed.configuration_utils import DistributedConfig

from sequence_encoder import SequenceEncoderModel
from sequence_encoder.tests.comparisons import assert_same


def main(rank: str, rendezvous: str, *folders: str) -> None:
    """Compare the outputs and gradients of packed and padded batches."""
    torch.distributed.init_process_group("gloo", f"file://{rendezvous}", rank=int(rank), world_size=2)
    ids = torch.arange(1, 37).view(3, 12)
    mask = (torch.arange(12) < torch.tensor([[12], [2], [7]])).long()
    weight = torch.randn(3, 12, 1, generator=torch.Generator().manual_seed(0))

    def run(model: Any, training: bool, **options: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.train(training).zero_grad()
        output = model(ids, attention_mask=mask, **options).last_hidden_state
        (output * weight).square().sum().backward()
        gradients = {
            name: whole(parameter.grad) for name, parameter in model.named_parameters() if "pooler" not in name
        }
        with torch.no_grad():
            assert_same(model.eval()(ids, attention_mask=mask, **options).last_hidden_state, output)
        return output, gradients

    for folder in folders:
        one = SequenceEncoderModel.from_pretrained(folder)
        shared = SequenceEncoderModel.from_pretrained(folder, distributed_config=DistributedConfig(tp_size=2))
        assert isinstance(shared.layers[0].self_attn.qkv_proj.weight, DTensor)
        for training in (False, True):
            for options in ({}, {"output_hidden_states": True}):
                (expected, expected_gradients), (found, gradients) = (
                    run(m, training, **options) for m in (one, shared)
                )
                assert_same(found, expected)
                for name, gradient in gradients.items():
                    assert_same(gradient, expected_gradients[name], 1e-4)
    # DTensor caches the gloo groups, whose threads can abort the interpreter while it shuts down.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def whole(gradient: torch.Tensor | None) -> torch.Tensor:
    """Return a gradient that may be sharded."""
    assert gradient is not None
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient


if __name__ == "__main__":
    main(*sys.argv[1:])
