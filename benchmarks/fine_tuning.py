"""Compare the speed of fine-tuning with that of transformers' BERT and ModernBERT of the same size.

A step classifies 32 texts of mixed lengths: forward, backward, AdamW, in float32 or with autocast to bfloat16.
"""

from __future__ import annotations

import random
from functools import partial

import torch
from minilm import MINILM
from peers import DTYPES, interleaved, padded_batches, print_machine, print_table, short_texts, train
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedModel,
)

from sequence_encoder import convert

BATCHES, BATCH = 8, 32


def make_models() -> dict[str, PreTrainedModel]:
    """Create all models in training mode, with the dropout of their configurations."""
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    size = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "num_labels": 3}
    bert = BertForSequenceClassification(BertConfig(intermediate_size=1536, **size))
    modern = ModernBertForSequenceClassification(
        ModernBertConfig(vocab_size=30522, intermediate_size=1024, **size, **special)
    )
    return {
        "transformers' BERT": bert.train(),
        "transformers' ModernBERT": modern.train(),
        "SequenceEncoder, as BERT": convert(bert).train(),
        "SequenceEncoder, as ModernBERT": convert(modern).train(),
    }


def main() -> None:
    """Print the tables."""
    print_machine()
    tokenizer, texts = AutoTokenizer.from_pretrained(MINILM), short_texts(BATCHES * BATCH * 4)
    # First with similar lengths, then with all lengths.
    for kind, chosen in (
        ("of medium length", sorted(texts, key=len)[300:700]),
        ("of all lengths", texts),
    ):
        chosen = random.Random(0).sample(chosen, BATCHES * BATCH)
        data = padded_batches(tokenizer, chosen, BATCH, max_length=128)
        for batch in data:
            batch.pop("token_type_ids")
            batch["labels"] = torch.randint(0, 3, (BATCH,))
        real = sum(int(batch["attention_mask"].sum()) for batch in data)
        share = real / sum(batch["input_ids"].numel() for batch in data)
        for dtype in DTYPES:
            models, halved = make_models(), dtype == torch.bfloat16
            seconds = interleaved({n: partial(train, m, data, halved) for n, m in models.items()}, rounds=3)
            title = f"fine-tuning, texts {kind}: {share:.0%} real tokens, {'autocast to ' if halved else ''}{dtype}"
            print_table(title, seconds, real, "transformers' BERT")


if __name__ == "__main__":
    main()
