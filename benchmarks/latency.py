"""Compare the speed with transformers' BERT on batches without padding: equal lengths, and single texts."""

from __future__ import annotations

from functools import partial

import torch
from minilm import MINILM
from peers import DTYPES, interleaved, print_machine, print_table
from transformers import BertModel

from sequence_encoder import convert

SHAPES = ((1, 8), (1, 32), (1, 128), (1, 512), (8, 128), (32, 64), (8, 512))
TOKENS = 4096


@torch.inference_mode()
def encode(model: torch.nn.Module, ids: torch.Tensor, times: int, **options: torch.Tensor) -> None:
    """Encode the same batch several times."""
    for _ in range(times):
        model(ids, **options)


def main() -> None:
    """Print the tables."""
    print_machine()
    for dtype in DTYPES:
        bert = BertModel.from_pretrained(MINILM, dtype=dtype).eval()
        models = {"transformers' BERT": bert, "SequenceEncoder": convert(bert), "with prepacked weights": convert(bert)}
        models["with prepacked weights"].prepack_weights()
        for batch, length in SHAPES:
            ids = torch.randint(1000, 30000, (batch, length))
            times = max(1, TOKENS // ids.numel())
            for given in ({}, {"attention_mask": torch.ones_like(ids)}):
                seconds = interleaved({n: partial(encode, m, ids, times, **given) for n, m in models.items()})
                title = f"batch of {batch}, {length} tokens each, {'mask of ones' if given else 'no mask'}, {dtype}"
                print_table(title, seconds, times * ids.numel(), "transformers' BERT")


if __name__ == "__main__":
    main()
