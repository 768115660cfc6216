"""Check that memory does not grow over thousands of batches with random shapes, compared with transformers' BERT.

Each model runs in a new process, because a process does not return all memory that it frees.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys

import psutil
import torch
from peers import DTYPES
from transformers import BertConfig, BertModel

from sequence_encoder import convert

MODELS = ("transformers' BERT", "SequenceEncoder")
SIZES = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}
# The first batches also load code and allocate buffers, which do not grow afterwards.
WARM_UP = 20


@torch.inference_mode()
def resident(name: str, dtype: torch.dtype, forwards: int) -> list[int]:
    """Return the MiB that this process uses after the first batches, and after all of them."""
    random.seed(0)
    torch.manual_seed(0)
    bert = BertModel(BertConfig(vocab_size=1000, **SIZES)).to(dtype).eval()
    model = bert if name == MODELS[0] else convert(bert)
    process, figures = psutil.Process(), []
    for number in range(1, forwards + 1):
        lengths = torch.tensor([random.randint(1, 128) for _ in range(random.randint(1, 16))])
        ids = torch.randint(1, 1000, (len(lengths), int(lengths.max())))
        model(ids, attention_mask=(torch.arange(ids.shape[1]) < lengths[:, None]).long())
        if number in (WARM_UP, forwards):
            figures.append(process.memory_info().rss >> 20)
    return figures


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--forwards", type=int, default=4000)
    parser.add_argument("--model", choices=MODELS, help="measure this model in this process, and print JSON")
    parser.add_argument("--dtype", choices=[str(dtype).removeprefix("torch.") for dtype in DTYPES], default="float32")
    options = parser.parse_args()
    if options.model:
        print(json.dumps(resident(options.model, getattr(torch, options.dtype), options.forwards)))
        return
    for name in MODELS:
        command = [sys.executable, __file__, *sys.argv[1:], "--model", name]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        first, last = json.loads(result.stdout.splitlines()[-1])
        print(f"{name:<20} {first:5} MiB after {WARM_UP} batches, {last:5} MiB after {options.forwards}")


if __name__ == "__main__":
    main()
