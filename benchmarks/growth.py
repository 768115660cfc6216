"""Measure how the time per token grows with the length of the texts and the batch size.

The texts of a batch have equal lengths, so there is no padding. The peer is transformers' BERT with the same weights.
A separate process for each model and shape measures the peak memory of a batch beyond what the process used before.
"""

from __future__ import annotations

from functools import partial

import torch
from peers import extra_memory, interleaved, print_machine
from transformers import BertConfig, BertModel

from sequence_encoder import convert

LENGTHS, BATCHES, TOKENS = (16, 64, 256, 1024, 4096), (1, 4, 16, 64), 4096


def make(name: str) -> torch.nn.Module:
    """Create a model of MiniLM's size with random weights and enough positions."""
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536,
        max_position_embeddings=max(LENGTHS),
    )  # fmt: skip
    bert = BertModel(config).eval()
    return convert(bert) if name == "SequenceEncoder" else bert


@torch.inference_mode()
def encode(model: torch.nn.Module, ids: torch.Tensor, times: int) -> None:
    """Encode the same batch several times."""
    for _ in range(times):
        model(ids)


def peak_memory(name: str, batch: int, length: int) -> int:
    """Return the MiB that a new process takes to encode one batch."""
    return extra_memory(
        f"import growth as g; m = g.make({name!r}); g.encode(m, torch.ones(1, 8).long(), 1);"
        f"ids = torch.ones({batch}, {length}).long()",
        "g.encode(m, ids, 1)",
    )


def main() -> None:
    """Print one line for each shape."""
    print_machine()
    models = {name: make(name) for name in ("transformers' BERT", "SequenceEncoder")}
    shapes = [(max(1, 256 // length), length) for length in LENGTHS] + [(batch, 64) for batch in BATCHES]
    print(f"{'batch x length':>14}  {'µs a token':>10}  {'BERT':>6}  {'ratio':>6}  {'MiB':>5}  {'BERT':>5}")
    for batch, length in shapes:
        ids = torch.randint(1000, 30000, (batch, length))
        times = max(1, TOKENS // ids.numel())
        seconds = interleaved({name: partial(encode, model, ids, times) for name, model in models.items()}, rounds=3)
        theirs, ours = (1e6 * value / times / ids.numel() for value in seconds.values())
        their_peak, our_peak = (peak_memory(name, batch, length) for name in models)
        print(
            f"{batch:>7} x {length:>4}  {ours:>10.0f}  {theirs:>6.0f}  {theirs / ours:>4.2f} x  {our_peak:>5}  "
            f"{their_peak:>5}",
            flush=True,
        )


if __name__ == "__main__":
    main()
