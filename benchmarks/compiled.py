"""Compare the eager model, which packs texts without padding, with `torch.compile` of the model, which pads.

The workloads are unsorted texts, texts of equal lengths, single short texts, and steps of masked language modelling.
"""

from __future__ import annotations

import time
from functools import partial

import torch
from embedding import BATCH, encode
from masked_language_modelling import NAMES, STEPS, make_batches, make_model
from minilm import MINILM
from peers import DTYPES, interleaved, padded_batches, print_machine, print_table, short_texts, train
from transformers import AutoTokenizer, BertModel

from sequence_encoder import convert

TEXTS = 256


def main() -> None:
    """Print the tables."""
    print_machine()
    tokenizer, texts = AutoTokenizer.from_pretrained(MINILM), short_texts(TEXTS)
    workloads = {
        "texts as they arrive": padded_batches(tokenizer, texts, BATCH),
        "32 x 64, no padding": [{"input_ids": torch.randint(1000, 30000, (32, 64))} for _ in range(4)],
        "1 x 32": [{"input_ids": torch.randint(1000, 30000, (1, 32))} for _ in range(64)],
    }
    for dtype in DTYPES:
        model = convert(BertModel.from_pretrained(MINILM, dtype=dtype))
        compiled = torch.compile(model, dynamic=True)
        started = time.perf_counter()
        for batches in workloads.values():
            encode(compiled, batches[:2])
        print(f"\ncompiled in {time.perf_counter() - started:.0f} s")
        for name, batches in workloads.items():
            real = sum(int(batch.get("attention_mask", torch.ones_like(batch["input_ids"])).sum()) for batch in batches)
            seconds = interleaved(
                {"eager": partial(encode, model, batches), "compiled": partial(encode, compiled, batches)}
            )
            print_table(f"{name}, {dtype}", seconds, real, "eager")
    data = make_batches()
    for dtype in DTYPES:
        halved = dtype == torch.bfloat16
        models = {"eager": make_model(NAMES[3]), "compiled": make_model(NAMES[3])}
        models["compiled"].compile()
        seconds = interleaved({n: partial(train, m, data, halved) for n, m in models.items()}, rounds=3)
        title = f"steps of masked language modelling, {'autocast to ' if halved else ''}{dtype}"
        print_table(title, seconds, STEPS * data[0]["input_ids"].numel(), "eager")


if __name__ == "__main__":
    main()
