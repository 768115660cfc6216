"""Compare masked language modelling with transformers' BERT and its ModernBERT with sparse prediction.

The models have 4 layers x 256 and a vocabulary of 16,000. A step predicts 15 % of the tokens of a full batch of
32 x 128: forward, backward, AdamW. A separate process for each model measures its peak memory, over more batches,
because oneDNN compiles and caches kernels for every number of masked tokens on a CPU.
"""

from __future__ import annotations

from functools import partial

import torch
from peers import DTYPES, extra_memory, interleaved, print_machine, print_table, train
from transformers import BertConfig, BertForMaskedLM, ModernBertConfig, ModernBertForMaskedLM, PreTrainedModel

from sequence_encoder import convert

STEPS, MEASURED_STEPS, BATCH, LENGTH, VOCABULARY = 4, 20, 32, 128, 16_000
BERT, MODERNBERT = "transformers' BERT", "transformers' ModernBERT, sparse"
OURS = ("SequenceEncoder, as BERT", "SequenceEncoder, as ModernBERT")
WITHOUT_LOGITS = ", no logits"
NAMES = (BERT, MODERNBERT, *(f"{name}{logits}" for name in OURS for logits in ("", WITHOUT_LOGITS)))


def make_model(name: str) -> PreTrainedModel:
    """Create a model in training mode, with the dropout of its configuration."""
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    size = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": VOCABULARY}
    if "Modern" not in name:
        model: PreTrainedModel = BertForMaskedLM(BertConfig(intermediate_size=1024, **size))
    else:
        model = ModernBertForMaskedLM(
            ModernBertConfig(intermediate_size=683, sparse_prediction=True, **size, **special)
        )
    if name.startswith("SequenceEncoder"):
        model = convert(model)
        model.returns_training_logits = not name.endswith(WITHOUT_LOGITS)
    return model.train()


def make_batches(count: int = STEPS) -> list[dict[str, torch.Tensor]]:
    """Create batches of random tokens, some of them masked."""
    batches = []
    for _ in range(count):
        ids = torch.randint(5, VOCABULARY, (BATCH, LENGTH))
        masked = torch.rand(ids.shape) < 0.15
        labels = ids.masked_fill(~masked, -100)
        batches.append(
            {"input_ids": ids.masked_fill(masked, 4), "attention_mask": torch.ones_like(ids), "labels": labels}
        )
    return batches


def peak_memory(name: str, halved: bool) -> int:
    """Return the MiB that training takes beyond what the process used before."""
    return extra_memory(
        "import masked_language_modelling as m",
        f"peers.train(m.make_model({name!r}), m.make_batches({MEASURED_STEPS}), {halved})",
    )


def main() -> None:
    """Print the tables."""
    print_machine()
    batches = make_batches()
    for dtype in DTYPES:
        halved = dtype == torch.bfloat16
        models = {name: make_model(name) for name in NAMES}
        seconds = interleaved({n: partial(train, m, batches, halved) for n, m in models.items()}, rounds=3)
        title = f"masked language modelling, {BATCH} x {LENGTH}, {'autocast to ' if halved else ''}{dtype}"
        print_table(title, seconds, STEPS * BATCH * LENGTH, MODERNBERT)
        for name in NAMES:
            print(f"  {name:<42} {peak_memory(name, halved):>10,} MiB")


if __name__ == "__main__":
    main()
