"""Compare the speed of filling masks with a plain loop over transformers' BERT, and with dLLM's sampler.

All have the same random weights, of the size of all-MiniLM-L6-v2 with a vocabulary of 30,522, and the same schedule: in
each step, the surest tokens of each text are written, the same number in each step. The texts have different lengths
and gaps, or end with masks. The plain loop pads each batch and computes the logits of all tokens in each step. The
script also prints how many texts get the same tokens as from the plain loop. dLLM rounds the number of tokens in a step
to the nearest integer, and the others round it up, so texts differ if the steps do not divide their number of masks.
The numbers of masks are multiples of 8, so with `--steps 8` all texts should be the same.

    git clone https://github.com/ZHZisZZ/dllm
    python benchmarks/writing_speed.py --dllm dllm

dLLM (Zhou et al., 2026) pins its dependencies, and importing it needs packages for training and evaluation. Its
samplers alone need only torch, numpy and transformers, so this script imports them without the modules beside them.
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from peers import DTYPES, ROUNDS, interleaved, print_machine
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel, set_seed

from sequence_encoder import convert

VOCABULARY, HIDDEN, HEADS, POSITIONS = 30_522, 384, 12, 512
PAD, CLS, SEP, MASK, FIRST = 0, 101, 102, 103, 1000
SHORTEST, LONGEST, MOST, GAPS = 16, 256, 64, 3
# All numbers of masks are multiples of this.
MULTIPLE = 8
# Standard deviation of the weights. Smaller ones predict all tokens with nearly the same probability, so that rounding
# decides which is the surest.
SPREAD = 0.08
PLAIN, DLLM, OURS = "plain loop over transformers' BERT", "dLLM's sampler with the same BERT", "SequenceEncoder"
Batch = tuple[torch.Tensor, torch.Tensor]


def bert(layers: int) -> BertForMaskedLM:
    """Create a BERT with random weights that never predicts special tokens."""
    set_seed(0)
    size = {"hidden_size": HIDDEN, "num_hidden_layers": layers, "num_attention_heads": HEADS}
    config = BertConfig(
        vocab_size=VOCABULARY,
        intermediate_size=4 * HIDDEN,
        max_position_embeddings=POSITIONS,
        initializer_range=SPREAD,
        **size,
    )
    model = BertForMaskedLM(config).eval()
    with torch.no_grad():
        model.get_output_embeddings().bias[:FIRST] = -100
    return model


def texts_with_masks(count: int) -> list[torch.Tensor]:
    """Create texts of random tokens. Half of them end with masks, and the others have up to `GAPS` gaps."""
    texts = []
    for index in range(count):
        length = int(torch.randint(SHORTEST, LONGEST + 1, ()))
        masks = MULTIPLE * int(torch.randint(1, min(MOST, length // 2) // MULTIPLE + 1, ()))
        text = torch.randint(FIRST, VOCABULARY, (length,))
        if index % 2:
            text[-masks:] = MASK
        else:
            gaps = int(torch.randint(1, GAPS + 1, ()))
            # One gap in each part of the text, with its share of the masks.
            for part in range(gaps):
                wide = masks * (part + 1) // gaps - masks * part // gaps
                start, end = length * part // gaps, length * (part + 1) // gaps
                first = int(torch.randint(start, end - wide + 1, ()))
                text[first : first + wide] = MASK
        texts.append(torch.cat([torch.tensor([CLS]), text, torch.tensor([SEP])]))
    return texts


def padded(texts: list[torch.Tensor]) -> Batch:
    """Pad texts to (B, S) token ids and their attention mask."""
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=PAD)
    lengths = torch.tensor([len(text) for text in texts])
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


@torch.no_grad()
def plain_loop(model: PreTrainedModel, batch: Batch, steps: int, mask: int = MASK) -> torch.Tensor:
    """Write the surest tokens, step by step, with all logits of the padded batch in each step.

    Args:
        model: A model with logits for masked tokens.
        batch: (B, S) token ids and their attention mask.
        steps: The number of steps, in each of which about the same number of tokens of a text is written.
        mask: The id of the mask token.

    Returns:
        (B, S) token ids without masks.
    """
    ids, attention_mask = batch[0].clone(), batch[1]
    for step in range(steps):
        masked = ids == mask
        if not masked.any():
            break
        logits = model(input_ids=ids, attention_mask=attention_mask).logits
        confidences, tokens = logits.softmax(dim=-1).max(dim=-1)
        confidences = confidences.masked_fill(~masked, -math.inf)
        for row, left in enumerate(masked.sum(dim=1).tolist()):
            chosen = confidences[row].topk(math.ceil(left / (steps - step))).indices
            ids[row, chosen] = tokens[row, chosen]
    return ids


def dllm_sampler(folder: Path, model: PreTrainedModel) -> Callable[[Batch, int], torch.Tensor]:
    """Import dLLM's sampler from a checkout, without its packages for training and evaluation."""
    for name in ("dllm", "dllm.core"):
        package = ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[name] = package
    samplers: Any = importlib.import_module("dllm.core.samplers")
    # dLLM pads with the end token.
    tokenizer = SimpleNamespace(mask_token_id=MASK, bos_token_id=CLS, eos_token_id=PAD)
    sampler = samplers.MDLMSampler(model=model, tokenizer=tokenizer)

    def fill(batch: Batch, steps: int) -> torch.Tensor:
        texts = [row[real.bool()] for row, real in zip(*batch, strict=True)]
        return sampler.infill(texts, samplers.MDLMSamplerConfig(), steps=steps, block_size=None)

    return fill


def run(fill: Callable[[Batch, int], torch.Tensor], batches: list[Batch], steps: int) -> list[list[int]]:
    """Fill all batches, and return the tokens of each text."""
    filled = [(fill(batch, steps), batch[1].bool()) for batch in batches]
    return [row[real].tolist() for ids, reals in filled for row, real in zip(ids, reals, strict=True)]


def compare(options: argparse.Namespace, dtype: torch.dtype) -> None:
    """Print a table of the tokens a second."""
    reference: Any = bert(options.layers).to(dtype)
    ours: Any = convert(reference).eval()
    ours.config.mask_token_id = MASK
    texts = texts_with_masks(options.texts)
    batches = [padded(texts[i : i + options.batch_size]) for i in range(0, len(texts), options.batch_size)]
    with torch.no_grad():
        ids, attention_mask = batches[0]
        first, second = (model(input_ids=ids, attention_mask=attention_mask).logits for model in (reference, ours))
        difference = float((first - second)[attention_mask.bool()][:, FIRST:].abs().max())
    masks = sum(int((ids == MASK).sum()) for ids, _ in batches)
    real, slots = sum(int(mask.sum()) for _, mask in batches), sum(mask.numel() for _, mask in batches)
    print(
        f"\n{dtype}: {len(texts)} texts of {min(map(len, texts))} to {max(map(len, texts))} tokens in batches of "
        f"{options.batch_size}, {1 - real / slots:.0%} padding, {masks} masks, {options.steps} steps; logits differ by "
        f"at most {difference:.1e}"
    )

    def fill_ours(batch: Batch, steps: int) -> torch.Tensor:
        return ours.generate(batch[0], attention_mask=batch[1], steps=steps, unmasking="confidence")

    fills: dict[str, Callable[[Batch, int], torch.Tensor]] = {PLAIN: partial(plain_loop, reference)}
    if options.dllm is not None:
        fills[DLLM] = dllm_sampler(options.dllm, reference)
    fills[OURS] = fill_ours
    runs = {name: partial(run, fill, batches, options.steps) for name, fill in fills.items()}
    written = {name: each() for name, each in runs.items()}
    seconds = interleaved(runs, options.rounds)
    print("\n| | tokens/s | speed | texts as those of the plain loop |\n|---|---|---|---|")
    for name, value in seconds.items():
        same = sum(a == b for a, b in zip(written[name], written[PLAIN], strict=True)) / len(texts)
        print(f"| {name} | {masks / value:,.0f} | {seconds[PLAIN] / value:.2f} x | {same:.0%} |", flush=True)


def main() -> None:
    """Parse the command line, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dllm", type=Path, help="a checkout of dLLM")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    print_machine()
    for dtype in DTYPES:
        compare(options, dtype)


if __name__ == "__main__":
    main()
