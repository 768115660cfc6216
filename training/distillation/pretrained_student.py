"""Chooses the learning rate of a student, and averages a pretrained student with its weights before the training."""

from __future__ import annotations

import copy
from typing import Any, cast

from ..hub_trainer import HubTrainer
from ..weight_averages import TowardsStart
from .objectives import SimilarityObjective
from .teacher import Teacher

# Default learning rates. Sentence encoders forget what they know at a higher rate. Static encoders need a higher one,
# because only a few batches update each row.
_RATE, _RATE_OF_SENTENCE_ENCODER, _RATE_OF_STATIC = 5e-4, 1e-4, 2e-3
# The weight of the parameters before the training in the average.
_OF_START = 0.5


def rate_of(teacher: Teacher) -> float:
    """Return the default learning rate of the student of a teacher."""
    if teacher.student is None:
        return _RATE
    if not cast(Any, teacher.student.model.config).num_hidden_layers:
        return _RATE_OF_STATIC
    return _RATE_OF_SENTENCE_ENCODER if isinstance(teacher.objective, SimilarityObjective) else _RATE


def average_with_start(trained: HubTrainer, initial: Any, held_out: Any) -> bool:
    """Average the weights of a student before and after the training, if the student was already good before.

    The average keeps more of what the student knew about texts unlike the corpus (see `TowardsStart`). If it gives up
    more than half of the gain on the held-out texts, the student was not good before, and keeps its trained weights.

    Args:
        trained: The `Trainer` of a `Student`, after the training.
        initial: The model before the training.
        held_out: The texts that are held out.

    Returns:
        Whether the weights are the average.
    """
    student: Any = trained.model
    metric = student.objective.metric
    weights, scores = copy.deepcopy(student.model.state_dict()), []
    for share in (1.0, 0.0, _OF_START):
        student.model.load_state_dict(weights)
        TowardsStart(initial.parameters(), share).average(student.model)
        scores.append(cast(Any, trained.predict(held_out).metrics)[f"test_{metric}"])
    before, after, mean = scores
    is_mean = bool(mean >= (before + after) / 2)
    if not is_mean:
        student.model.load_state_dict(weights)
    print(
        f"The {metric} on the held-out texts was {before:.4f} before the training, is {after:.4f} after it, and "
        f"{mean:.4f} with the mean of the weights. The student is {'that mean' if is_mean else 'the model after it'}."
    )
    return is_mean
