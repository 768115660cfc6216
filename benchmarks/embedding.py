"""How fast are ragged texts encoded as they arrive, beside transformers' BERT with the same weights?

Batches of 32 texts in random order. Tokens are counted without padding.
"""

from __future__ import annotations

from functools import partial

import torch
from minilm import MINILM
from peers import DTYPES, interleaved, matrix_operations, print_machine, print_table, product_limit, short_texts
from transformers import AutoTokenizer, BertModel

from sequence_encoder import convert

TEXTS, BATCH = 512, 32


@torch.inference_mode()
def encode(model: torch.nn.Module, data: list[dict[str, torch.Tensor]]) -> None:
    """One pass over the data."""
    for batch in data:
        model(**batch)


def main() -> None:
    """Prints the tables."""
    print_machine()
    tokenizer, texts = AutoTokenizer.from_pretrained(MINILM), short_texts(TEXTS)
    data = [
        dict(tokenizer(texts[i : i + BATCH], padding=True, truncation=True, max_length=512, return_tensors="pt"))
        for i in range(0, TEXTS, BATCH)
    ]
    real = sum(int(batch["attention_mask"].sum()) for batch in data)
    share = real / sum(batch["input_ids"].numel() for batch in data)
    for dtype in DTYPES:
        bert = BertModel.from_pretrained(MINILM, dtype=dtype).eval()
        models = {"transformers' BERT": bert, "SequenceEncoder": convert(bert)}
        seconds = interleaved({name: partial(encode, model, data) for name, model in models.items()})
        title = f"{TEXTS} texts in batches of {BATCH}, {real:,} tokens, {share:.0%} of the padded batches, {dtype}"
        operations = matrix_operations(models["SequenceEncoder"])
        print_table(title, seconds, real, "transformers' BERT", operations, product_limit(dtype))
        gain = seconds["transformers' BERT"] / seconds["SequenceEncoder"] * share
        print(f"  {gain:.2f} times what leaving the padding out alone would give")


if __name__ == "__main__":
    main()
