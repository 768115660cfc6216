"""The texts and the models of `writing.py`: encoders with masked diffusion or plain masking, and GPT-2, trained alike.

All models see the same batches of the same tokens in the same order, with AdamW or Muon, a warm-up and a cosine
schedule. The encoder with masked diffusion first learns from plain masking, like one that `pretrain` trains and that
`pretrain MODEL --objective diffusion` trains on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    get_cosine_schedule_with_warmup,
    set_seed,
)

from sequence_encoder import SequenceEncoderConfig, SequenceEncoderForMaskedLM, SequenceEncoderTokenizer
from sequence_encoder.data.documentation import read_documentation, split_by_file
from sequence_encoder.data.windows import segment_windows
from sequence_encoder.inference.bfloat16 import faster_in_bfloat16
from sequence_encoder.saving.whole_folders import write_atomically
from sequence_encoder.training.diffusion_masking import antithetic_rates, mask_share
from sequence_encoder.training.optimizer import MuonWithAdamW
from sequence_encoder.training.pretraining.objectives import Objectives, PretrainingCollator

LENGTH, BATCH_TOKENS = 128, 4096
# Windows of similar lengths share a batch. They are sorted by length in groups of this many windows.
GROUP = 1024
WARMUP, WEIGHT_DECAY, BETAS, MAX_NORM = 0.05, 0.1, (0.9, 0.98), 1.0
IGNORED = -100
DIFFUSION, MASKED, GPT2 = "diffusion", "masked", "gpt2"
Batch = dict[str, Any]


class Texts:
    """Docstrings of the installed libraries, to train on and held out, and a tokenizer that is trained on them.

    Args:
        folder: The folder that keeps them.
        vocabulary: The size of the vocabulary of a new tokenizer.
    """

    def __init__(self, folder: Path, vocabulary: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.files = [folder / "train.jsonl", folder / "held-out.jsonl"]
        if not all(file.exists() for file in self.files):
            for file, docs in zip(self.files, split_by_file(read_documentation()), strict=True):
                rows = ({"text": doc.text, "hidden": doc.hidden, "library": doc.library} for doc in docs)
                write_atomically(file, (json.dumps(row) + "\n" for row in rows))
        self.train, self.held_out = (
            [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] for file in self.files
        )
        saved = folder / "tokenizer"
        if not saved.exists():
            SequenceEncoderTokenizer.train_from_iterator(
                (row["text"] for row in self.train),
                vocabulary,
                lowercase=True,
                model_max_length=LENGTH,
                show_progress=False,
            ).save_pretrained(saved)
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(saved)

    def windows(self, rows: list[dict[str, str]]) -> list[np.ndarray]:
        """Cut texts into windows of whole sentences, with [CLS] and [SEP]."""
        first, last = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        found = segment_windows((row["text"] for row in rows), self.tokenizer, LENGTH, pairs=False)
        return [np.concatenate([[first], window["input_ids"], [last]]) for window in found]


def plan(windows: list[np.ndarray], tokens: int, seed: int = 0) -> list[np.ndarray]:
    """Return the windows of each batch, until the batches have `tokens` tokens together."""
    rng = np.random.default_rng(seed)
    lengths = np.array([len(window) for window in windows])
    batches: list[np.ndarray] = []
    while tokens > 0:
        epoch: list[np.ndarray] = []
        order = rng.permutation(len(windows))
        for start in range(0, len(order), GROUP):
            group = order[start : start + GROUP]
            group = group[np.argsort(lengths[group], kind="stable")]
            while len(group):
                sizes = lengths[group] * np.arange(1, len(group) + 1)
                count = int(np.searchsorted(sizes, BATCH_TOKENS, side="right"))
                epoch.append(group[:count])
                group = group[count:]
        for index in rng.permutation(len(epoch)):
            if tokens > 0:
                batches.append(epoch[index])
                tokens -= int(lengths[epoch[index]].sum())
    return batches


def padded(rows: list[np.ndarray], value: float) -> torch.Tensor:
    """Stack rows to (B, S)."""
    return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], True, value)


def masks_of(rows: list[np.ndarray]) -> torch.Tensor:
    """Return the attention mask (B, S) of rows."""
    return padded([np.ones(len(row), np.int64) for row in rows], 0)


def diffusion_batch(rows: list[np.ndarray], tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator) -> Batch:
    """Mask another share of each row. All tokens except [CLS] are labels."""
    mask: Any = tokenizer.mask_token_id
    maskable = [np.arange(len(row)) > 0 for row in rows]
    drawn = zip(rows, maskable, antithetic_rates(len(rows), rng), strict=True)
    masked = [mask_share(row, free, float(rate), mask, rng) for row, free, rate in drawn]
    return {
        "input_ids": padded([ids for ids, _ in masked], 0),
        "attention_mask": masks_of(rows),
        "labels": padded([np.where(free, row, IGNORED) for row, free in zip(rows, maskable, strict=True)], IGNORED),
        "label_weights": padded([weights for _, weights in masked], 0.0),
    }


def masked_batch(rows: list[np.ndarray], tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator) -> Batch:
    """Mask tokens as `sequence-encoder pretrain` does by default, without sentence order."""
    collate = PretrainingCollator(tokenizer, Objectives(sop_weight=0, bow_weight=0))
    windows = [{"input_ids": row[1:-1], "cut": 0, "length": len(row)} for row in rows]
    return collate([{"windows": windows, "seed": [int(rng.integers(2**31))], "progress": 0.0}])


def left_to_right_batch(rows: list[np.ndarray], *_: Any) -> Batch:
    """Label all tokens. GPT-2 predicts each token from those before it, so padding at the end needs no mask."""
    return {"input_ids": padded(rows, 0), "labels": padded(rows, IGNORED)}


@dataclass(frozen=True)
class Recipe:
    """How the models are made and trained.

    Attributes:
        layers: The number of layers.
        hidden: The hidden size.
        muon: Whether to train matrices with Muon instead of AdamW.
        plain_share: The share of the steps in which the encoder with masked diffusion learns from plain masking.
    """

    layers: int
    hidden: int
    muon: bool
    plain_share: float


def new_encoder(layers: int, hidden: int, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Create an encoder of `sequence-encoder pretrain`'s architecture, in which all layers see the whole text."""
    config = SequenceEncoderConfig.from_preset(
        "modernbert",
        tokenizer=tokenizer,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        # Gated networks have three matrices instead of two.
        intermediate_size=32 * round(8 / 3 * hidden / 32),
        max_position_embeddings=LENGTH,
        layer_types=["full_attention"],
        type_vocab_size=0,
    )
    return SequenceEncoderForMaskedLM(config)


def new_gpt2(layers: int, hidden: int, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Create GPT-2 without dropout, which small models on many tokens do not need."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=LENGTH,
        n_embd=hidden,
        n_layer=layers,
        n_head=hidden // 64,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        loss_type="ForCausalLM",
    )
    return GPT2LMHeadModel(config)


# For each model, how it is created, and how its batches are.
KINDS: dict[str, tuple[Callable[..., PreTrainedModel], Callable[..., Batch]]] = {
    DIFFUSION: (new_encoder, diffusion_batch),
    GPT2: (new_gpt2, left_to_right_batch),
    MASKED: (new_encoder, masked_batch),
}


def halved() -> torch.autocast:
    """Autocast to bfloat16 if the processor has instructions for it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=faster_in_bfloat16())


def train(
    kind: str, texts: Texts, windows: list[np.ndarray], tokens: int, rate: float, recipe: Recipe
) -> tuple[PreTrainedModel, dict[str, float]]:
    """Train a model.

    Args:
        kind: A key of `KINDS`.
        texts: The texts.
        windows: The windows to train on.
        tokens: The number of tokens to train on.
        rate: The peak learning rate.
        recipe: How to make and to train it.

    Returns:
        The model, and the numbers of its tokens, parameters and seconds.
    """
    set_seed(0)
    create, collate = KINDS[kind]
    model = create(recipe.layers, recipe.hidden, texts.tokenizer).train()
    batches, rng = plan(windows, tokens), np.random.default_rng(1)
    plain_steps = round(recipe.plain_share * len(batches)) if kind == DIFFUSION else 0
    if recipe.muon:
        optimizer: torch.optim.Optimizer = MuonWithAdamW(model, rate, BETAS, weight_decay=WEIGHT_DECAY)
    else:
        groups: list[dict[str, Any]] = [
            {"params": [weight for weight in model.parameters() if weight.ndim > 1], "weight_decay": WEIGHT_DECAY},
            {"params": [weight for weight in model.parameters() if weight.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=rate, betas=BETAS, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(WARMUP * len(batches)), len(batches))
    seen, losses, started = 0, [], time.perf_counter()
    for step, chosen in enumerate(batches, 1):
        rows = [windows[index] for index in chosen]
        mask = masked_batch if step <= plain_steps else collate
        with halved():
            loss = model(**mask(rows, texts.tokenizer, rng)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        seen += sum(map(len, rows))
        losses.append(float(loss.detach()))
        if step % max(1, len(batches) // 10) == 0:
            seconds = time.perf_counter() - started
            mean = sum(losses) / len(losses)
            print(f"  {kind:<10} {seconds:6.0f} s  {seen:>11,} tokens  loss {mean:.3f}", flush=True)
            losses.clear()
    found = {
        "tokens": seen,
        "seconds": time.perf_counter() - started,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "rate": rate,
    }
    return model.eval(), found


def in_batches(windows: list[np.ndarray], tokens: int = 2 * BATCH_TOKENS) -> Iterator[list[int]]:
    """Yield the indices of windows in batches of similar lengths."""
    order = sorted(range(len(windows)), key=lambda index: len(windows[index]))
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) + 1) * len(windows[index]) > tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@torch.no_grad()
def diffusion_bound(model: PreTrainedModel, windows: list[np.ndarray], mask: int, samples: int, seed: int) -> float:
    """Estimate the bound on the negative log-likelihood of windows, in nats.

    With k of n tokens masked at random, the loss of a window is n / k times the sum of the losses of these tokens. Its
    expectation over k, which is uniform from 1 to n, is the bound of masked diffusion (LLaDA, Nie et al., 2025), with
    less variance than with a rate for each token. The `samples` values of k of a window are evenly spaced.
    """
    rng = np.random.default_rng(seed)
    # In training, only masked tokens are projected to the vocabulary. The model has no dropout.
    model.train()
    total = 0.0
    for indices in in_batches(windows):
        rows = [windows[index] for index in indices]
        starts = rng.random(len(rows))
        for sample in range(samples):
            shares = (sample + starts) / samples
            drawn = zip(rows, shares, strict=True)
            masked = [mask_share(row, np.arange(len(row)) > 0, float(share), mask, rng) for row, share in drawn]
            inputs, weights = padded([ids for ids, _ in masked], 0), padded([each for _, each in masked], 0.0)
            labels = padded(rows, IGNORED)
            with halved():
                loss = model(inputs, masks_of(rows), labels=labels, label_weights=weights).loss
            # The loss is divided by the number of labels.
            total += float(loss) * sum(map(len, rows)) / samples
    model.eval()
    return total


@torch.no_grad()
def left_to_right_nats(model: PreTrainedModel, rows: list[np.ndarray]) -> torch.Tensor:
    """Return the negative log-likelihood (B, S - 1) of each token after the first, in nats, 0 at padding."""
    batch = left_to_right_batch(rows)
    with halved():
        logits = model(input_ids=batch["input_ids"]).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.float().mT, batch["labels"][:, 1:], reduction="none")
