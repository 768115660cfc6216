"""Compare the speed and memory on long documents with transformers' ModernBERT, with the same weights.

The models have either ModernBERT's mix of full and sliding layers, or only sliding layers. A separate process for each
model measures its peak memory.
"""

from __future__ import annotations

from functools import partial

import torch
from peers import DTYPES, extra_memory, interleaved, print_machine, print_table
from transformers import ModernBertConfig, ModernBertModel

from sequence_encoder import convert

LENGTHS = (512, 2048, 4096, 8192)


def make(layer_types: list[str] | None = None) -> ModernBertModel:
    """Create a ModernBERT of 6 layers x 384."""
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    torch.manual_seed(0)
    config = ModernBertConfig(
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=6,
        intermediate_size=576,
        vocab_size=8000,
        layer_types=layer_types,
        **special,
    )
    return ModernBertModel(config).eval()


@torch.inference_mode()
def encode(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Encode one document."""
    return model(ids).last_hidden_state


def peak_memory(name: str, length: int, dtype: torch.dtype) -> int:
    """Return the MiB that a new process takes to encode one document."""
    return extra_memory(
        f"import long_documents as d; m = d.make().to({dtype});"
        f"m = d.convert(m) if {name!r} == 'SequenceEncoder' else m;"
        f"ids = torch.randint(5, 8000, (1, {length}))",
        "d.encode(m, ids)",
    )


def main() -> None:
    """Print the tables."""
    print_machine()
    for kind, layer_types in (("full and sliding layers", None), ("sliding layers", ["sliding_attention"] * 6)):
        for dtype in DTYPES:
            theirs = make(layer_types).to(dtype)
            models = {"transformers' ModernBERT": theirs, "SequenceEncoder": convert(theirs)}
            for length in LENGTHS:
                ids = torch.randint(5, 8000, (1, length))
                seconds = interleaved({n: partial(encode, m, ids) for n, m in models.items()}, rounds=3)
                print_table(f"one document of {length:,} tokens, {kind}, {dtype}", seconds, length, next(iter(models)))
                if layer_types is None and length == max(LENGTHS):
                    for name in models:
                        print(f"  {name}: {peak_memory(name, length, dtype):,} MiB of peak memory")


if __name__ == "__main__":
    main()
