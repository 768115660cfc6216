"""How a pretrained model learns as a student: its learning rate, and its mean with what it was before."""

from __future__ import annotations

import copy
from typing import Any, cast

from ..adaptation.callbacks import TowardsStart
from ..hub_trainer import HubTrainer
from .objectives import SimilarityObjective
from .teacher import Teacher

# The default rates: of layers and new heads, of sentence encoders, which forget what they know at a higher rate, and of
# static encoders, in which few batches change a row.
_RATE, _RATE_OF_SENTENCE_ENCODER, _RATE_OF_STATIC = 5e-4, 1e-4, 2e-3
# The share of the weights before the training in the mean of those before and after it.
_OF_START = 0.5


def rate_of(teacher: Teacher) -> float:
    """Return the default learning rate of the student of a teacher."""
    if teacher.student is None:
        return _RATE
    if not cast(Any, teacher.student.model.config).num_hidden_layers:
        return _RATE_OF_STATIC
    return _RATE_OF_SENTENCE_ENCODER if isinstance(teacher.objective, SimilarityObjective) else _RATE


def average_with_start(trained: HubTrainer, initial: Any, held_out: Any) -> None:
    """Give a student that was good before the training the mean of its weights before and after it.

    The mean keeps more of what the student knew of other texts than those of the corpus (see `TowardsStart`). If it
    loses more than half of what the held-out texts gained, the student was not good before, and the weights stay.

    Args:
        trained: The `Trainer` of a `Student`, after the training.
        initial: The model before the training.
        held_out: The texts that are held out.
    """
    student: Any = trained.model
    metric = student.objective.metric
    weights, scores = copy.deepcopy(student.model.state_dict()), []
    for share in (1.0, 0.0, _OF_START):
        student.model.load_state_dict(weights)
        TowardsStart(initial, share).on_train_end(trained.args, None, None, model=student.model)
        scores.append(cast(Any, trained.predict(held_out).metrics)[f"test_{metric}"])
    before, after, mean = scores
    is_mean = mean >= (before + after) / 2
    if not is_mean:
        student.model.load_state_dict(weights)
    print(
        f"The {metric} on the held-out texts was {before:.4f} before the training, is {after:.4f} after it, and "
        f"{mean:.4f} with the mean of the weights. The student is {'that mean' if is_mean else 'the model after it'}."
    )
