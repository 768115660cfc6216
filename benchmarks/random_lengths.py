"""Measure bfloat16 on a CPU when every batch is new: transformers' BERT, ours, and ours with all shapes.

oneDNN compiles a kernel for each shape of a product. Batches of random lengths therefore show what repeated batches,
whose kernels exist, do not. The models take turns batch by batch.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from statistics import mean
from unittest.mock import patch

import torch
from peers import print_machine, train_step
from transformers import BertConfig, BertForSequenceClassification

from sequence_encoder import convert

BATCH, LONGEST, VOCABULARY = 32, 128, 30_000
SIZES = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
# Functions that choose shapes of which there are few, and what replaces them.
ROUNDED = {
    "attention.grouped.parts_of_batch": lambda count, dtype: [count],
    "attention.groups.round_up_length": lambda length, rows, dtype, device: length,
    "layouts.round_up_tokens": lambda tokens, dtype, device: tokens,
}


def batches(number: int) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches of texts whose lengths have a log-normal distribution with a median of 27 tokens."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(number):
        lengths = torch.empty(BATCH).log_normal_(3.3, 0.7, generator=generator).long().clamp(3, LONGEST)
        mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        ids = torch.randint(5, VOCABULARY, mask.shape, generator=generator)
        yield {"input_ids": ids * mask, "attention_mask": mask, "labels": torch.zeros(BATCH, dtype=torch.long)}


def exactly(run: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[dict[str, torch.Tensor]], None]:
    """Return `run` with every shape that the lengths of the texts give."""

    def exact(batch: dict[str, torch.Tensor]) -> None:
        with ExitStack() as stack:
            for name, function in ROUNDED.items():
                stack.enter_context(patch(f"sequence_encoder.modeling.{name}", function))
            run(batch)

    return exact


def step(model: torch.nn.Module, training: bool) -> Callable[[dict[str, torch.Tensor]], None]:
    """Return a function that trains on a batch under autocast, or computes it with weights in bfloat16."""
    if training:
        optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-5, fused=True)
        return lambda batch: train_step(model, optimizer, batch, halved=True)
    model = model.bfloat16().eval()

    def infer(batch: dict[str, torch.Tensor]) -> None:
        with torch.inference_mode():
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])

    return infer


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=150, help="Number of batches, of which a third is not counted.")
    options = parser.parse_args()
    print_machine()
    print("\n| milliseconds per batch | transformers | SequenceEncoder | with all shapes |\n|---|---|---|---|")
    for kind in ("inference", "training"):
        torch.manual_seed(0)
        bert = BertForSequenceClassification(BertConfig(vocab_size=VOCABULARY, **SIZES))
        ours = convert(bert)
        ours_step = step(ours, kind == "training")
        steps = (step(bert, kind == "training"), ours_step, exactly(ours_step))
        times: list[list[float]] = [[], [], []]
        for batch in batches(options.batches):
            for run, seconds in zip(steps, times, strict=True):
                started = time.perf_counter()
                run(batch)
                seconds.append(time.perf_counter() - started)
        means = [1000 * mean(seconds[options.batches // 3 :]) for seconds in times]
        print(f"| {kind} | " + " | ".join(f"{each:.0f}, {means[0] / each:.2f} x" for each in means) + " |", flush=True)


if __name__ == "__main__":
    main()
