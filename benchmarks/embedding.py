"""How fast are ragged texts encoded, beside transformers' BERT with the same weights?

Real docstrings in batches of 32 in random order, both models in one process, interleaved. Tokens are counted without
padding. The weights are those of all-MiniLM-L6-v2, once as a BertModel and once carried over.
"""

from __future__ import annotations

import random
import statistics
import time

import torch
from minilm import MINILM
from transformers import AutoTokenizer, BertModel, PreTrainedModel

from sequence_encoder import convert
from sequence_encoder.training.documentation import STANDARD_LIBRARY, docstrings_of, find_libraries
from sequence_encoder.training.objectives import sentences

TEXTS, BATCH, ROUNDS = 512, 32, 5


def batches() -> list[dict[str, torch.Tensor]]:
    """Tokenised sentences of the standard library's documentation, padded to the longest of each batch."""
    docs = [doc for path in find_libraries()[STANDARD_LIBRARY] for doc in docstrings_of(path)]
    texts = random.Random(0).sample([sentence for doc in docs for sentence in sentences(doc)], TEXTS)
    tokenizer = AutoTokenizer.from_pretrained(MINILM)
    return [
        dict(tokenizer(texts[i : i + BATCH], padding=True, truncation=True, max_length=512, return_tensors="pt"))
        for i in range(0, TEXTS, BATCH)
    ]


@torch.inference_mode()
def seconds(model: PreTrainedModel, data: list[dict[str, torch.Tensor]]) -> float:
    """The time of one pass over the data."""
    started = time.perf_counter()
    for batch in data:
        model(**batch)
    return time.perf_counter() - started


def main() -> None:
    """Prints the table."""
    data = batches()
    real = sum(int(batch["attention_mask"].sum()) for batch in data)
    share = real / sum(batch["input_ids"].numel() for batch in data)
    print(f"{TEXTS} texts, {real:,} tokens, {share:.0%} of the padded batches; {torch.get_num_threads()} threads")
    for dtype in (torch.float32, torch.bfloat16):
        bert = BertModel.from_pretrained(MINILM, dtype=dtype)
        models = {"transformers' BERT": bert, "SequenceEncoder": convert(bert)}
        times: dict[str, list[float]] = {name: [] for name in models}
        for model in models.values():
            seconds(model.eval(), data[:2])
        for _ in range(ROUNDS):
            for name, model in models.items():
                times[name].append(seconds(model, data))
        reference = statistics.median(times["transformers' BERT"])
        for name, values in times.items():
            median = statistics.median(values)
            print(f"{dtype!s:<16} {name:<20} {real / median:>9,.0f} tokens/s  {reference / median:5.2f} x")


if __name__ == "__main__":
    main()
