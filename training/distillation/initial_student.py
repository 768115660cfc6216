"""Makes a student from its teacher: chooses its layers and channels, and fits the layers, before it learns.

Shapes: N texts, S sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch

from ...command_line.progress import Progress
from ...data.batching import token_batches
from .layer_fitting import fit_layers
from .narrowing import varied_channels
from .objectives import VectorObjective
from .run import Distillation
from .student import choose_layers, make_student
from .teacher import Teacher
from .teacher_outputs import INPUTS, TARGET
from .texts import Collator, LearningTexts

# Texts by which the directions of vectors are found, and those by which the channels to keep are.
_SAMPLED, _READ = 8192, 256
# Tokens that a teacher reads in all to find the layers to keep, and the fewest at a time: of 6 layers, it reads 1,024
# tokens 15 times to find 3, and of 24 layers, 128 tokens 222 times to find 12.
_TRIED, _FEWEST_TRIED = 15 * 1024, 128
# Tokens with which layers are fitted, those of a batch, and the share of `--seconds` that this may take.
_FITTED, _BATCH, _OF_FIT = 40_960, 4096, 0.05


def initial_student(run: Distillation, teacher: Teacher, texts: LearningTexts) -> Any:
    """Return the student before training, and choose the directions of the vectors of a narrower one."""
    args, objective, size = run.args, teacher.objective, run.model.hidden_size
    model = cast(Any, teacher.model).to(args.device)
    rng = np.random.default_rng(args.seed)
    order = rng.permutation(len(texts.lengths))
    enough = int(np.searchsorted(np.cumsum(np.array(texts.lengths)[order]), _FITTED)) + 1
    count = max(_READ if size is None else _SAMPLED, enough)
    rows = list(texts.units.__getitems__(order[:count].tolist()))
    ends = np.cumsum([len(row[INPUTS[0]]) for row in rows])
    collate = Collator(model.config.pad_token_id)

    def inputs_of(some: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = collate(some)
        return {name: batch[name].to(model.device) for name in (*INPUTS, "attention_mask") if name in batch}

    def first(tokens: int) -> list[dict[str, Any]]:
        return rows[: int(np.searchsorted(ends, tokens)) + 1]

    total = model.config.num_hidden_layers
    tried = max(_FEWEST_TRIED, _TRIED // max(1, sum(range(teacher.layers + 1, total + 1))))
    layers = choose_layers(model, teacher.layers, inputs_of(first(tried)))
    channels = None if size is None else varied_channels(model, inputs_of(rows[:_READ]), size)
    student = make_student(model, layers, channels)
    fitted = first(_FITTED)
    batches = token_batches([len(row[INPUTS[0]]) for row in fitted], _BATCH)
    rng.shuffle(batches)
    seconds = _OF_FIT * args.seconds if args.seconds and args.max_steps <= 0 else math.inf
    with Progress("Fitting the layers of the student"):
        fit_layers(
            model,
            student,
            layers,
            [inputs_of([fitted[index] for index in batch]) for batch in batches],
            channels,
            bf16=bool(args.bf16),
            seconds=seconds,
        )
    if size is not None and isinstance(objective, VectorObjective):
        cast(Any, student).embedding_recipe = objective.recipe
        targets = torch.tensor(np.stack([row[TARGET] for row in rows[:_SAMPLED]]), device=model.device)
        objective.choose_directions(targets, student, inputs_of(rows[:_READ]))
    return cast(Any, student).cpu()
