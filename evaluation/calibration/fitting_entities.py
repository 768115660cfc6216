"""Fits the scaling and the prediction sets of entities, which have the names of the tags of their words.

Shapes: N texts, W words of all entities, E entities, C tags, K kinds of entities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ...command_line import UsageError
from ...modeling.calibration.entities import (
    group_tags,
    kind_of,
    kinds_of,
    probabilities_of_kinds,
)
from ...modeling.label_checks import IGNORED
from .fitting import (
    Fitted,
    ToFit,
    check_number,
    check_sets,
    sets_of,
)
from .reliability import Confidences
from .scaling import LinearScaling, fit_confidences

_OUTSIDE = "O"


@dataclass(frozen=True)
class Entities:
    """The entities that the model finds in texts.

    Attributes:
        logits: (W, C) the logits of their words.
        owners: (W,) the entity of each word.
        texts: (E,) the text of each entity.
        correct: (E,) bool, whether there is an entity of that kind at exactly these words.
        truth: The kind of the true entity at exactly these words, or `O`.
    """

    logits: torch.Tensor
    owners: torch.Tensor
    texts: torch.Tensor
    correct: torch.Tensor
    truth: list[str]

    def means(self, of_words: torch.Tensor) -> torch.Tensor:
        """Return the mean of numbers of words, (W, ...), over the words of each entity, (E, ...)."""
        sums = of_words.new_zeros(len(self.truth), *of_words.shape[1:]).index_add(0, self.owners, of_words)
        counts = torch.bincount(self.owners, minlength=len(self.truth)).to(of_words)
        return sums / counts.view(-1, *[1] * (of_words.dim() - 1))

    def confidences(self, scale: torch.Tensor) -> torch.Tensor:
        """Return the scores (E,) of the entities as pipelines compute them, with scaled logits."""
        return self.means((self.logits.double() * scale).softmax(-1).amax(-1))


def fit_entities(given: ToFit) -> Fitted:
    """Calibrate the scores of entities by a temperature, which changes neither tags nor entities.

    Args:
        given: The texts, with the tag of the first token of each word in `labels`.

    Raises:
        UsageError: If there are too few entities.
    """
    labels, coverages = given.labels, given.coverages
    found = find_entities(given.outputs.logits, [row["labels"] for row in given.rows], labels)
    if found is None:
        raise UsageError("the model finds no entities in the examples, so there is nothing to calibrate.")
    check_number(coverages, len(found.truth), "entities that the model finds in the examples")
    folds = given.folds[found.texts]
    scale, held_out_scales = fit_confidences(found.confidences, found.correct, folds)
    word_scales = held_out_scales[found.owners][:, None]
    before = Confidences(found.confidences(torch.ones(1)), found.correct)
    after = Confidences(found.confidences(word_scales), found.correct)
    kinds = kinds_of(labels)
    scaled = (found.logits.double() * word_scales).softmax(-1).float()
    probabilities = probabilities_of_kinds(found.means(scaled), labels)
    truth = F.one_hot(torch.tensor([kinds.index(kind) for kind in found.truth]), len(kinds)).bool()
    sets = sets_of(probabilities, truth, coverages)
    checked = check_sets(probabilities, truth, folds, coverages)
    scaling = LinearScaling("temperature", scale.float().expand(len(labels)).clone(), torch.zeros(len(labels)))
    return Fitted(scaling, sets, before, after, checked)


def find_entities(
    predicted: Sequence[torch.Tensor], known_tags: Sequence[Sequence[int]], labels: Sequence[str]
) -> Entities | None:
    """Return the entities that a model finds in texts, or None if it finds none.

    Args:
        predicted: The logits (S, C) of the tokens of each text.
        known_tags: The numbers of their tags, `IGNORED` except for the first token of each word.
        labels: The names of the C tags.
    """
    logits, owners, texts, correct = [], [], [], []
    truth: list[str] = []
    for number, (found, given) in enumerate(zip(predicted, known_tags, strict=True)):
        true = torch.tensor(given)
        words = found[true != IGNORED]
        tags = [labels[index] for index in true[true != IGNORED].tolist()]
        known = {(start, end): kind for start, end, kind in group_tags(tags)}
        for start, end, kind in group_tags([labels[index] for index in words.argmax(-1).tolist()]):
            logits.append(words[start:end])
            owners += [len(truth)] * (end - start)
            texts.append(number)
            at_place = known.get((start, end), kind_of(tags[start]) if _OUTSIDE not in labels else _OUTSIDE)
            correct.append(known.get((start, end)) == kind)
            truth.append(at_place)
    if not truth:
        return None
    return Entities(torch.cat(logits), torch.tensor(owners), torch.tensor(texts), torch.tensor(correct), truth)
