"""What eight bits cost: the accuracy of a classifier and the ranking of a retriever, over several seeds.

Classifiers learn to tell which library a docstring comes from, with its names hidden. Retrievers find the rest of a
docstring by its first sentence. `--speed` compares the speed of `encode` instead.

    python benchmarks/quantization.py [--speed]
"""

from __future__ import annotations

import random
import statistics
import sys
from functools import partial
from typing import Any

import torch
from minilm import MINILM
from peers import interleaved, print_machine, print_table, short_texts
from transformers import AutoTokenizer, BertModel
from vector_tasks import ndcg

from sequence_encoder import SequenceEncoderForSequenceClassification, convert, quantize
from sequence_encoder.data.batching import token_batches
from sequence_encoder.data.documentation import Docstring, read_documentation
from sequence_encoder.data.windows import sentences

SEEDS, TRAIN, TEST, LENGTH = 5, 1500, 1000, 64
EPOCHS, BATCH_TOKENS, RATE = 2, 2048, 2e-4
QUERIES, DOCUMENTS = 1000, 2000
TEXTS = 2048


def padded(ids: list[list[int]]) -> dict[str, torch.Tensor]:
    """Return a batch of texts."""
    rows = [torch.tensor(row) for row in ids]
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    return {"input_ids": pad(rows), "attention_mask": pad([torch.ones_like(row) for row in rows])}


def train(model: Any, ids: list[list[int]], labels: list[int], seed: int) -> None:
    """Fine-tune a classifier in bfloat16 with AdamW and a linear schedule."""
    batches = [batch for _ in range(EPOCHS) for batch in token_batches([len(row) for row in ids], BATCH_TOKENS)]
    random.Random(seed).shuffle(batches)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(batches))
    model.train()
    for batch in batches:
        with torch.autocast("cpu", torch.bfloat16):
            targets = torch.tensor([labels[index] for index in batch])
            loss = model(**padded([ids[index] for index in batch]), labels=targets).loss
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()


@torch.inference_mode()
def accuracy(model: Any, ids: list[list[int]], labels: list[int]) -> float:
    """Return the share of texts that a classifier gets right, in percent."""
    right = 0
    for batch in token_batches([len(row) for row in ids], BATCH_TOKENS):
        found = model(**padded([ids[index] for index in batch])).logits.argmax(-1)
        right += int((found == torch.tensor([labels[index] for index in batch])).sum())
    return 100 * right / len(ids)


def retrieval(model: Any, tokenizer: Any, pairs: list[tuple[str, str]]) -> float:
    """Return the nDCG@10 of the first sentences as queries, in percent; each has one relevant document."""
    encode = partial(model.encode, tokenizer=tokenizer, normalize_embeddings=True, max_length=LENGTH)
    return ndcg(encode([first for first, _ in pairs[:QUERIES]]), encode([rest for _, rest in pairs]))


def first_and_rest(docs: list[Docstring]) -> list[tuple[str, str]]:
    """Return the first sentence of each docstring, and the rest of it."""
    split = [(doc.text, sentences(doc.text)) for doc in docs]
    return [(found[0], text[len(found[0]) :]) for text, found in split if len(found) > 2 and text.startswith(found[0])]


def quality() -> None:
    """Print the accuracy and the nDCG@10 in float32 and in eight bits for each seed."""
    docs, tokenizer = read_documentation(show_progress=False), AutoTokenizer.from_pretrained(MINILM)
    libraries = sorted({doc.library for doc in docs})
    pairs, differences = first_and_rest(docs), []
    print(f"{len(libraries)} libraries, {len(docs):,} docstrings, {len(pairs):,} of them with several sentences")
    print("\n| seed | accuracy, float32 | eight bits | cosine | nDCG@10, float32 | eight bits | cosine |")
    print("|---|---|---|---|---|---|---|")
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        drawn = random.Random(seed).sample(docs, TRAIN + TEST)
        texts = [doc.hidden for doc in drawn]
        ids = tokenizer(texts, truncation=True, max_length=LENGTH)["input_ids"]
        labels = [libraries.index(doc.library) for doc in drawn]
        encoder = convert(BertModel.from_pretrained(MINILM))
        encoder.config.num_labels = len(libraries)
        classifier = SequenceEncoderForSequenceClassification(encoder.config)
        classifier.model = encoder
        train(classifier, ids[:TRAIN], labels[:TRAIN], seed)
        row = [accuracy(classifier, ids[TRAIN:], labels[TRAIN:])]
        report = quantize(classifier, tokenizer, texts[:384])
        row += [accuracy(classifier, ids[TRAIN:], labels[TRAIN:]), report.found]
        retriever, sample = convert(BertModel.from_pretrained(MINILM)), random.Random(seed).sample(pairs, DOCUMENTS)
        row.append(retrieval(retriever, tokenizer, sample))
        report = quantize(retriever, tokenizer)
        row += [retrieval(retriever, tokenizer, sample), report.found]
        differences.append((row[1] - row[0], row[4] - row[3]))
        print(f"| {seed} | " + " | ".join(f"{x:.4f}" if x <= 1 else f"{x:.2f}" for x in row) + " |", flush=True)
    for name, values in zip(("accuracy", "nDCG@10"), zip(*differences, strict=True), strict=True):
        print(f"mean difference in {name}: {statistics.mean(values):+.2f}, largest {max(values, key=abs):+.2f}")


def speed() -> None:
    """Print the speed of `encode` in each precision, and the cosines to float32."""
    texts, tokenizer = short_texts(TEXTS), AutoTokenizer.from_pretrained(MINILM)
    tokens = sum(len(ids) for ids in tokenizer(texts, truncation=True, max_length=256)["input_ids"])
    models = {
        f"{dtype}": convert(BertModel.from_pretrained(MINILM, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)
    }
    for dtype in (torch.float32, torch.bfloat16):
        models[f"eight bits, else {dtype}"] = quantized = convert(BertModel.from_pretrained(MINILM))
        quantize(quantized, tokenizer)
        quantized.to(dtype)
    peers = {
        n: partial(m.encode, texts, tokenizer, normalize_embeddings=True, max_length=256) for n, m in models.items()
    }
    vectors = {name: encode() for name, encode in peers.items()}
    print_table(f"{TEXTS:,} texts, {tokens:,} tokens", interleaved(peers), tokens, "torch.bfloat16")
    for name, found in vectors.items():
        cosines = (found * vectors["torch.float32"]).sum(1)
        print(f"  {name:<34} mean cosine to float32 {cosines.mean():.5f}, least {cosines.min():.4f}")


if __name__ == "__main__":
    print_machine()
    speed() if "--speed" in sys.argv[1:] else quality()
