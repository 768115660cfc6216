"""Compare the speed of every family that can be converted with transformers' own class, in both dtypes.

All models have 6 layers of 384 channels and random weights. Inference runs with batches of 32 texts, of which 30 % and
100 % are tokens; training classifies batches of which 50 % are tokens, with the dropout of each configuration.

    python benchmarks/families.py [family ...]
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch
import transformers
from peers import DTYPES, interleaved, print_machine, train
from transformers import PreTrainedModel

from sequence_encoder import convert
from sequence_encoder.conversion.source_models import FAMILIES

BATCH, BATCHES, VOCABULARY = 32, 2, 30_000
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "num_labels": 3,
}
# The sizes under other names, and fields without which the defaults are those of another size or vocabulary.
OPTIONS: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 384, "n_layers": 6, "n_heads": 12, "hidden_dim": 1536},
    "electra": {"embedding_size": 384},
    "albert": {"embedding_size": 128},
    "modernbert": {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
    "eurobert": {
        "num_key_value_heads": 12,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "mask_token_id": 3,
    },
    # As published: DeBERTa v3.
    "deberta-v2": {
        "relative_attention": True,
        "position_buckets": 256,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "max_relative_positions": -1,
        "type_vocab_size": 0,
    },
}


def lengths_of(share: int) -> list[int]:
    """Return the lengths of the texts of a batch, of which about `share` % are tokens."""
    return {
        30: [128, *[round(4 + 2.2 * i) for i in range(31)]],
        50: [64, *[2 * i + 1 for i in range(31)]],
        100: [64] * 32,
    }[share]


def batches(share: int, pad_token_id: int) -> Iterator[dict[str, torch.Tensor]]:
    """Return padded batches of random tokens, with the texts in random order."""
    for seed in range(BATCHES):
        lengths = torch.tensor(random.Random(seed).sample(lengths_of(share), BATCH))
        mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        ids = torch.randint(10, VOCABULARY, mask.shape, generator=torch.Generator().manual_seed(seed))
        yield {"input_ids": ids * mask + pad_token_id * (1 - mask), "attention_mask": mask}


def their_model(name: str) -> PreTrainedModel:
    """Return a model of transformers with a classifier."""
    prefix = FAMILIES[name].model_prefixes[0]
    sizes = {**SIZES, **OPTIONS.get(name, {})}
    config = getattr(transformers, f"{prefix}Config")(**sizes)
    return getattr(transformers, f"{prefix}ForSequenceClassification")(config)


@torch.inference_mode()
def encode(model: torch.nn.Module, data: list[dict[str, torch.Tensor]]) -> None:
    """Encode all batches."""
    for batch in data:
        model(**batch)


def speedup(runs: Iterable[Callable[[], object]]) -> float:
    """Return how many times as fast our model runs as that of transformers; `runs` has theirs first."""
    theirs, ours = interleaved({str(index): run for index, run in enumerate(runs)}).values()
    return theirs / ours


def speedups_of(name: str) -> Iterator[float]:
    """Return the speedup over transformers for each column of the table."""
    models = [theirs := their_model(name), convert(theirs)]
    data = {share: list(batches(share, theirs.config.pad_token_id)) for share in (30, 50, 100)}
    for dtype in DTYPES:
        encoders = [model.to(dtype).eval().base_model for model in models]
        for share in (30, 100):
            yield speedup(partial(encode, encoder, data[share]) for encoder in encoders)
    for batch in data[50]:
        batch["labels"] = torch.randint(0, 3, (BATCH,))
    for dtype in DTYPES:
        classifiers = [model.float().train() for model in models]
        yield speedup(partial(train, classifier, data[50], dtype == torch.bfloat16) for classifier in classifiers)


def row_of(name: str) -> str:
    """Return the row of a family in the table."""
    return f"| `{name}` | {' | '.join(f'{value:.2f}' for value in speedups_of(name))} |"


def main() -> None:
    """Print the table, a row for each family.

    Each family runs in its own process. Otherwise, the memory that one family has freed would change how long the next
    one takes to allocate its tensors.
    """
    print_machine()
    columns = [f"{dtype}, {share} %".removeprefix("torch.") for dtype in DTYPES for share in (30, 100)]
    columns += [f"training in {dtype}, 50 %".replace("torch.", "") for dtype in DTYPES]
    print("\n| |", " | ".join(columns), "|")
    print("|---|", "|".join("---" for _ in columns), "|", sep="", flush=True)
    with get_context("spawn").Pool(1, maxtasksperchild=1) as processes:
        for row in processes.imap(row_of, sys.argv[1:] or FAMILIES, chunksize=1):
            print(row, flush=True)


if __name__ == "__main__":
    main()
