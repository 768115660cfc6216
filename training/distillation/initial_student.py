"""Where a student starts: the layers and channels of its teacher, which it fits, or a pretrained model.

That decides its learning rate, and whether it ends as a mean with the model that it started from.

Shapes: N texts, S sequence.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch.nn import functional as F

from ...command_line.progress import Progress
from ...data.batching import token_batches
from ..hub_trainer import HubTrainer
from ..weight_averages import TowardsStart
from .layer_fitting import fit_layers
from .objectives import SimilarityObjective, VectorObjective
from .run import Distillation
from .student import choose_layers, make_student, spread_layers, token_states, varied_channels
from .teacher import Teacher
from .teacher_outputs import INPUTS, TARGET
from .texts import Collator, LearningTexts

# Texts by which the directions of vectors are found, those by which they are turned towards the student, and those by
# which the channels to keep are found.
_SAMPLED, _TURNED, _READ = 8192, 2048, 256
# Tokens that a teacher reads in all to find the layers to keep, and the fewest at a time: of 6 layers, it reads 1,024
# tokens 15 times to find 3, and of 24 layers, 128 tokens 222 times to find 12.
_TRIED, _FEWEST_TRIED = 15 * 1024, 128
# Tokens with which layers are fitted, those of a batch, and the share of `--seconds` that this may take for each choice
# of layers. One text of so many compares the choices instead.
_FITTED, _BATCH, _OF_FIT, _COMPARED = 40_960, 4096, 0.04, 10
# Default learning rates. Sentence encoders forget what they know at a higher rate. Static encoders need a higher one,
# because only a few batches update each row.
_RATE, _RATE_OF_SENTENCE_ENCODER, _RATE_OF_STATIC = 5e-4, 1e-4, 2e-3
# The weight of the parameters before the training in the average.
_OF_START = 0.5


def initial_student(
    run: Distillation, teacher: Teacher, texts: LearningTexts, layers: Sequence[int] | None = None
) -> tuple[Any, list[int]]:
    """Return the student before training, and the layers of its teacher that it has.

    It also chooses the directions of the vectors of a narrower student.

    Args:
        run: The arguments.
        teacher: The teacher.
        texts: The texts to learn from.
        layers: The layers to keep, if an interrupted run has chosen them.
    """
    if teacher.student is not None:
        pretrained: Any = teacher.student.model
        return make_student(pretrained, range(pretrained.config.num_hidden_layers)), []
    objective, size, device = teacher.objective, run.model.hidden_size, run.args.device
    rng = np.random.default_rng(run.args.seed)
    order = rng.permutation(len(texts.lengths))
    enough = int(np.searchsorted(np.cumsum(np.array(texts.lengths)[order]), _FITTED)) + 1
    rows = list(texts.units.__getitems__(order[: max(_READ if size is None else _SAMPLED, enough)].tolist()))
    collate = Collator(cast(Any, teacher.model).config.pad_token_id)

    def inputs_of(some: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = collate(some)
        return {name: batch[name].to(device) for name in (*INPUTS, "attention_mask") if name in batch}

    student, layers = _from_layers(run, teacher, rows, inputs_of, rng, layers)
    if size is not None and isinstance(objective, VectorObjective):
        student.embedding_recipe = objective.recipe
        targets = torch.tensor(np.stack([row[TARGET] for row in rows[:_SAMPLED]]), device=device)
        shown = [rows[start : start + _READ] for start in range(0, min(_TURNED, len(rows)), _READ)]
        with torch.no_grad():
            found = torch.cat([objective.outputs(student.eval(), inputs_of(each)) for each in shown])
        objective.choose_directions(targets, found)
    return student.cpu(), list(layers)


def _from_layers(
    run: Distillation,
    teacher: Teacher,
    rows: Sequence[dict[str, Any]],
    inputs_of: Callable[[Sequence[dict[str, Any]]], dict[str, torch.Tensor]],
    rng: np.random.Generator,
    layers: Sequence[int] | None,
) -> tuple[Any, Sequence[int]]:
    """Return a student of some layers of its teacher, and these layers.

    Args:
        run: The arguments.
        teacher: The teacher.
        rows: Texts in random order, as `LearningTexts` has them.
        inputs_of: Returns the inputs of some of them.
        rng: Shuffles the batches.
        layers: The layers to keep, if an interrupted run has chosen them.
    """
    args, size = run.args, run.model.hidden_size
    model = cast(Any, teacher.model).to(args.device)
    ends = np.cumsum([len(row[INPUTS[0]]) for row in rows])

    def first(tokens: int) -> Sequence[dict[str, Any]]:
        return rows[: int(np.searchsorted(ends, tokens)) + 1]

    channels = None if size is None else varied_channels(model, inputs_of(rows[:_READ]), size)
    candidates = (
        [tuple(layers)] if layers else _candidates(model, teacher.layers, lambda count: inputs_of(first(count)))
    )
    fitted = first(_FITTED)
    # A resumed run, which has one candidate, must fit with the same texts.
    compared = fitted[: len(fitted) // _COMPARED] if teacher.layers < model.config.num_hidden_layers else []
    fitted = fitted[len(compared) :]
    places = token_batches([len(row[INPUTS[0]]) for row in fitted], _BATCH)
    rng.shuffle(places)
    batches = [inputs_of([fitted[index] for index in batch]) for batch in places]
    seconds = _OF_FIT * args.seconds if args.seconds and args.max_steps <= 0 else math.inf
    students = []
    with Progress("Fitting the layers of the student"):
        for chosen in candidates:
            students.append(make_student(model, chosen, channels))
            fit_layers(model, students[-1], chosen, batches, channels, bool(args.bf16), seconds)
    best = _nearest(students, model, inputs_of(compared or fitted[:_READ]), channels) if len(students) > 1 else 0
    return students[best], candidates[best]


def _candidates(
    teacher: Any, kept: int, inputs_of: Callable[[int], Mapping[str, torch.Tensor]]
) -> list[tuple[int, ...]]:
    """Return the layers that are nearest to the teacher before the fit, and evenly spread ones.

    Either can be nearer after the fit: the first choice is with 3 layers of all-MiniLM-L6-v2, and the second with 6
    layers of all-mpnet-base-v2.
    """
    total = teacher.config.num_hidden_layers
    tried = max(_FEWEST_TRIED, _TRIED // max(1, sum(range(kept + 1, total + 1))))
    chosen = choose_layers(teacher, kept, inputs_of(tried))
    return list(dict.fromkeys([tuple(chosen), tuple(spread_layers(total, kept))]))


def _nearest(
    students: Sequence[Any], teacher: Any, inputs: Mapping[str, torch.Tensor], channels: torch.Tensor | None
) -> int:
    """Return the index of the student whose vectors of tokens are nearest to those of its teacher."""
    wanted = token_states(teacher, inputs)
    wanted = wanted if channels is None else wanted[:, channels]
    found = [float(F.cosine_similarity(token_states(each, inputs), wanted, dim=-1).mean()) for each in students]
    return int(np.argmax(found))


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
