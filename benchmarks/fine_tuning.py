"""Compare the speed of fine-tuning with that of transformers' BERT and ModernBERT of the same size.

A step classifies 32 texts of mixed lengths: forward, backward, AdamW, in float32 or with autocast to bfloat16.

The first tables compare the trainer of `adapt`, which has sparse gradients of token vectors, with `Trainer`, for two
sizes of the vocabulary. A separate process for each measures its peak memory.
"""

from __future__ import annotations

import random
import tempfile
from functools import partial

import torch
from minilm import MINILM
from peers import DTYPES, extra_memory, interleaved, padded_batches, print_machine, print_table, short_texts, train
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

from sequence_encoder import convert, with_sparse_embeddings

BATCHES, BATCH = 8, 32
VOCABULARIES = {"English": 30_522, "multilingual": 250_002}
TRAINERS = {"the trainer of adapt": with_sparse_embeddings(Trainer), "Trainer": Trainer}


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


def make_trainer(vocabulary: int, name: str) -> Trainer:
    """Create a trainer of a classifier with 6 layers x 384, for texts of 20 tokens."""
    size = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    config = BertConfig(vocab_size=vocabulary, num_labels=3, **size)
    drawn = torch.randint(1000, vocabulary, (BATCHES * BATCH, 20))
    examples = [{"input_ids": ids, "labels": 0} for ids in drawn]
    args = TrainingArguments(
        tempfile.mkdtemp(),
        use_cpu=True,
        bf16=True,
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer: Trainer = TRAINERS[name](convert(BertForSequenceClassification(config)), args, train_dataset=examples)
    return trainer


def compare_trainers() -> None:
    """Print the speed and the memory of steps with sparse and dense gradients of the token vectors."""
    for kind, vocabulary in VOCABULARIES.items():
        trainers = {name: make_trainer(vocabulary, name) for name in TRAINERS}
        seconds = interleaved({name: trainer.train for name, trainer in trainers.items()}, rounds=3)
        print_table(f"adapt, {kind} vocabulary of {vocabulary:,}", seconds, BATCHES * BATCH * 20, "Trainer")
        for name in trainers:
            run = f"f.make_trainer({vocabulary}, {name!r}).train()"
            print(f"  {name:<42} {extra_memory('import fine_tuning as f', run):>10,} MiB")


def main() -> None:
    """Print the tables."""
    print_machine()
    compare_trainers()
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
