"""The plan of an adaptation: what is trained, on what and why, before anything is computed.

The number of examples decides the options of the training that the user has not set. With a fixed number of epochs, 16
examples would be trained on for a few steps only. The constants were chosen with all-MiniLM-L6-v2 by
`benchmarks/few_labels.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
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


@dataclass(frozen=True)
class Plan:
    """What a run trains, on what and why. `str` describes it in a few lines.

    Attributes:
        model: The folder or the Hub id of the encoder.
        task: The name of the task.
        tuning: The tuning method.
        output: The folder to write.
        examples: The number of examples in each split.
        judged_by: What the weights and the model are chosen by, and why.
        options: The options that `FALLBACK` names, which the number of examples decides unless the user does.
        planned: The names of those that it decides.
        seeds: The seeds of the training runs.
        search_trials: The number of trials of a search for better options.
        seconds: The seconds that the run may take, if they are limited.
        calibrated_on: The split that the model is calibrated on, if it is.
        settings: What must not change when the run is resumed.
        is_finished: Whether the output folder already has the results of this run.
    """

    model: str
    task: str
    tuning: str
    output: Path
    examples: Mapping[str, int]
    judged_by: str
    options: Mapping[str, Any]
    planned: tuple[str, ...]
    seeds: tuple[int, ...]
    search_trials: int = 0
    seconds: float | None = None
    calibrated_on: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    is_finished: bool = False

    @property
    def choices(self) -> str:
        """The options that the number of examples decides, in a line; empty if the user or the tuning has set all."""
        said = {
            "num_train_epochs": "{:g} epochs",
            "per_device_train_batch_size": "batches of {}",
            "learning_rate": "a learning rate of {:.2g}",
        }
        parts = [form.format(self.options[name]) for name, form in said.items() if name in self.planned]
        return f"Plan for {self.examples['train']:,} examples: {', '.join(parts)}." if parts else ""

    def __str__(self) -> str:
        """Describe the plan for the console."""
        given = {name: value for name, value in self.options.items() if name not in self.planned}
        lines = [
            f"Train {self.model} for {self.task}, with the tuning {self.tuning}, into {self.output}.",
            f"Examples: {', '.join(f'{count:,} {split}' for split, count in self.examples.items())}.",
            f"Judged by {self.judged_by}.",
            self.choices,
            f"Set: {', '.join(f'{name} {value}' for name, value in given.items())}." if given else "",
            f"Training runs with the seeds {', '.join(map(str, self.seeds))}." if len(self.seeds) > 1 else "",
            f"A search with {self.search_trials} trials comes first." if self.search_trials else "",
            f"Shortened to {self.seconds:g} seconds." if self.seconds else "",
            f"Calibrated on the {self.calibrated_on} examples." if self.calibrated_on else "",
        ]
        return "\n".join(filter(None, lines))


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
