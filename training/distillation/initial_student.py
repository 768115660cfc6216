"""Makes a student from its teacher: chooses its layers and channels, and fits the layers, before it learns.

Shapes: N texts, S sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch

from ...data.batching import token_batches
from .layer_fitting import TOKENS_AN_INPUT, fit_layers
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
# Tokens of a batch with which layers are fitted.
_BATCH = 4096


def initial_student(run: Distillation, teacher: Teacher, texts: LearningTexts) -> Any:
    """Return the student before training, and choose the directions of the vectors of a narrower one."""
    objective, size, model = teacher.objective, run.model.hidden_size, cast(Any, teacher.model).to(run.args.device)
    collate = Collator(model.config.pad_token_id)

    def first(count: int) -> list[dict[str, Any]]:
        return list(texts.units.__getitems__(list(range(min(count, len(texts.lengths))))))

    def first_tokens(tokens: int) -> list[dict[str, Any]]:
        return first(int(np.searchsorted(np.cumsum(texts.lengths), tokens)) + 1)

    def inputs_of(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = collate(rows)
        return {name: batch[name].to(model.device) for name in (*INPUTS, "attention_mask") if name in batch}

    total = model.config.num_hidden_layers
    tokens = max(_FEWEST_TRIED, _TRIED // max(1, sum(range(teacher.layers + 1, total + 1))))
    layers = choose_layers(model, teacher.layers, inputs_of(first_tokens(tokens)))
    channels = None if size is None else varied_channels(model, inputs_of(first(_READ)), size)
    student = make_student(model, layers, channels)
    rows = first_tokens(TOKENS_AN_INPUT * cast(Any, student.config).intermediate_size)
    batches = token_batches([len(row[INPUTS[0]]) for row in rows], _BATCH)
    fit_layers(model, student, layers, [inputs_of([rows[index] for index in batch]) for batch in batches], channels)
    if size is not None and isinstance(objective, VectorObjective):
        cast(Any, student).embedding_recipe = objective.recipe
        targets = torch.tensor(np.stack([row[TARGET] for row in first(_SAMPLED)]), device=model.device)
        objective.choose_directions(targets, student, inputs_of(first(_READ)))
    return cast(Any, student).cpu()
