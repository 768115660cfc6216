"""Plans the options of a training that the user has not set, from the number of examples.

With a fixed number of epochs, 16 examples would be trained on for a few steps only. The constants were chosen with
all-MiniLM-L6-v2 by `benchmarks/few_labels.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from transformers.trainer_utils import SaveStrategy

# What is used where nothing is planned: for tunings that train few weights.
FALLBACK: dict[str, Any] = {
    "num_train_epochs": 3.0,
    "learning_rate": 1e-4,
    "per_device_train_batch_size": 32,
    "warmup_steps": 0.1,
    "save_strategy": "steps",
}
# The tunings that are planned.
PLANNED = ("auto", "full")
# From this number of examples on, a part of them is enough to choose the model.
MANY_EXAMPLES = 2000
_EPOCHS = 3.0
# Examples that are seen in addition to the epochs.
_MORE = 320
# A model whose head starts from a linear fit needs fewer epochs. In fewer steps, it learns as much with up to twice the
# learning rate.
_MOST_EPOCHS, _MOST_LINEAR_EPOCHS, _FEW_STEPS = 20.0, 10.0, 30
_SMALL_BATCH = 16
# At the full learning rate, a sentence encoder forgets what it knows. More epochs do not make it better, either.
_SENTENCE_ENCODER = 0.2
# For pairs that are made from texts, of which there are many. A sentence encoder learns them at the full rate, since it
# ends with a mean of its weights before and after the training.
_PAIRS_EPOCHS, _PAIRS_BATCH = 1.0, 64
# Wider encoders need smaller steps.
_WIDTH = 384
# A shorter training cannot afford a warm-up, which starts from a learning rate of 0, and repeating it takes less time
# than writing its checkpoints.
_SHORT = 100
# At the full learning rate, only the shortest can do without.
_PAIRS_SHORT = 10


def plan_for(
    examples: int,
    processes: int = 1,
    steps: float | None = None,
    *,
    starts_linear: bool = True,
    is_embedding: bool = False,
    makes_pairs: bool = False,
) -> dict[str, Any]:
    """Return the options for training all weights.

    Args:
        examples: The number of training examples.
        processes: The number of processes, which share a batch.
        steps: The number of steps that the user has set.
        starts_linear: Whether the head starts from a linear fit.
        is_embedding: Whether the loss compares the texts of a batch.
        makes_pairs: Whether these are made from texts without pairs.
    """
    few = examples < MANY_EXAMPLES and not is_embedding
    batch = _SMALL_BATCH if few else FALLBACK["per_device_train_batch_size"]
    most = _MOST_LINEAR_EPOCHS if starts_linear else _MOST_EPOCHS
    # The loss of embeddings needs many texts in a batch.
    epochs = _EPOCHS if is_embedding else round(min(most, _EPOCHS + _MORE / examples), 1)
    if makes_pairs:
        epochs, batch = _PAIRS_EPOCHS, _PAIRS_BATCH
    steps = steps or epochs * math.ceil(examples / batch)
    rate = FALLBACK["learning_rate"]
    if starts_linear:
        rate *= min(2.0, max(1.0, _FEW_STEPS / steps))
    return {
        "num_train_epochs": epochs,
        "learning_rate": rate,
        "per_device_train_batch_size": max(1, batch // processes) if few else batch,
        "warmup_steps": 0 if steps < (_PAIRS_SHORT if makes_pairs else _SHORT) else FALLBACK["warmup_steps"],
        "save_strategy": SaveStrategy.NO if steps < _SHORT else SaveStrategy.STEPS,
    }


def rate_for(rate: float, hidden_size: int, is_sentence_encoder: bool = False, makes_pairs: bool = False) -> float:
    """Return the learning rate for an encoder, which may already embed texts and learn to embed others."""
    if is_sentence_encoder and not makes_pairs:
        rate *= _SENTENCE_ENCODER
    return rate * min(1.0, _WIDTH / hidden_size)


def in_words(args: Any, planned: Iterable[str], examples: int) -> str:
    """Describe for the console which options were planned, in a line; empty if none was."""
    said = {
        "num_train_epochs": "{:g} epochs",
        "per_device_train_batch_size": "batches of {}",
        "learning_rate": "a learning rate of {:.2g}",
    }
    parts = [form.format(getattr(args, name)) for name, form in said.items() if name in planned]
    return f"Plan for {examples:,} examples: {', '.join(parts)}.\n" if parts else ""
