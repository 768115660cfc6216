"""Plans a training from the number of examples, where the user has not set an option.

With a fixed number of epochs, 16 examples would be trained on for a few steps only. The constants were chosen with
all-MiniLM-L6-v2 by `benchmarks/few_labels.py`.
"""

from __future__ import annotations

import math
from typing import Any

from transformers.trainer_utils import SaveStrategy

# What is used where nothing is planned: for tasks whose head does not start from a linear fit, and other tunings.
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
_EPOCHS, _MOST_EPOCHS = 3.0, 20.0
# Examples that are seen in addition to the epochs.
_MORE = 320
_SMALL_BATCH = 16
# A shorter training has no step to spend on a warm-up, which starts from a learning rate of 0, and is repeated sooner
# than it has written its checkpoints.
_SHORT = 100


def plan_for(examples: int, processes: int = 1, steps: float | None = None) -> dict[str, Any]:
    """Return the options for fine-tuning a model whose head starts from a linear fit.

    Args:
        examples: The number of training examples.
        processes: The number of processes, which share a batch.
        steps: The number of steps that the user has set.
    """
    few = examples < MANY_EXAMPLES
    batch = _SMALL_BATCH if few else FALLBACK["per_device_train_batch_size"]
    epochs = round(min(_MOST_EPOCHS, _EPOCHS + _MORE / examples), 1)
    is_short = (steps or epochs * math.ceil(examples / batch)) < _SHORT
    return {
        "num_train_epochs": epochs,
        "learning_rate": FALLBACK["learning_rate"],
        "per_device_train_batch_size": max(1, batch // processes) if few else batch,
        "warmup_steps": 0 if is_short else FALLBACK["warmup_steps"],
        "save_strategy": SaveStrategy.NO if is_short else SaveStrategy.STEPS,
    }


def in_words(planned: dict[str, Any], examples: int) -> str:
    """Describe planned options for the console."""
    said = {
        "num_train_epochs": "{:g} epochs",
        "per_device_train_batch_size": "batches of {}",
        "learning_rate": "a learning rate of {:g}",
    }
    parts = [form.format(planned[name]) for name, form in said.items() if name in planned]
    return f"Plan for {examples:,} examples: {', '.join(parts)}." if parts else ""
