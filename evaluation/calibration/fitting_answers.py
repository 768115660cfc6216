"""Fits the scaling and the prediction sets of answers to questions, which are spans of a text.

Shapes: N questions, S tokens of a window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from ...command_line import UsageError
from ...inference.pipelines.answer_sets import CANDIDATES
from ...inference.pipelines.question_answering import Offsets, best_answers
from ...modeling.calibration.calibration import PredictionSets
from ..tasks.answers import Answers
from .fitting import Fitted, ToFit
from .reliability import Confidences
from .scaling import LinearScaling, fit_confidences

# The score of an answer, 1 - its probability; its text; and whether it is right.
Candidate = tuple[float, str, bool]


@dataclass
class Question:
    """A question with what the model computes for it.

    Attributes:
        context: The text to find the answer in.
        known: The true answers.
        fold: The fold of the question.
        windows: For each window of the context, the logits (S,) of starts and ends, and the offsets of the tokens.
    """

    context: str
    known: Mapping[str, Any]
    fold: int
    windows: list[tuple[torch.Tensor, torch.Tensor, Offsets]] = field(default_factory=list)

    def answers(self, scale: float, impossible: bool) -> list[dict[str, Any]]:
        """Return the most likely answers with scaled logits, the best first."""
        scaled = [(start * scale, end * scale, offsets) for start, end, offsets in self.windows]
        return best_answers(scaled, self.context, CANDIDATES, handle_impossible_answer=impossible)

    def candidates(self, scale: float, impossible: bool) -> list[Candidate]:
        """Return the most likely answers with scaled logits as candidates for a set, the best first."""
        answers = self.answers(scale, impossible)
        return [(1 - answer["score"], answer["answer"], self.is_right(answer)) for answer in answers]

    def is_right(self, answer: Mapping[str, Any]) -> bool:
        """Return whether an answer has the words of a true one."""
        return Answers.agreement(answer["answer"], self.known)[0] == 1


@dataclass(frozen=True)
class _Best:
    """The best answer to each question, in the window where it scores highest.

    Attributes:
        starts: (N, S) logits, lowest at tokens that cannot start an answer.
        ends: (N, S).
        first: (N,) the first token of the answer.
        last: (N,) the last token of the answer.
        correct: (N,) bool.
    """

    starts: torch.Tensor
    ends: torch.Tensor
    first: torch.Tensor
    last: torch.Tensor
    correct: torch.Tensor

    def confidences(self, scale: torch.Tensor) -> torch.Tensor:
        """Return the scores (N,) of the answers, as the pipeline computes them, with scaled logits."""
        rows = torch.arange(len(self.first))
        start, end = ((logits * scale).log_softmax(-1) for logits in (self.starts, self.ends))
        return (start[rows, self.first] + end[rows, self.last]).exp()


def fit_answers(given: ToFit) -> Fitted:
    """Calibrate the scores of answers by a temperature.

    Args:
        given: The windows, with the number of their question in `row`, its `context` and its `known` answers.
    """
    asked = questions_of(given.rows, given.outputs.logits, given.folds.tolist())
    impossible = any(not question.known["text"] for question in asked)
    best = _best_of(asked, impossible)
    of_question = torch.tensor([question.fold for question in asked])
    scale, scales = fit_confidences(best.confidences, best.correct, of_question)
    before = Confidences(best.confidences(torch.ones(1)), best.correct)
    after = Confidences(best.confidences(scales[:, None]), best.correct)
    candidates = [question.candidates(each, impossible) for question, each in zip(asked, scales.tolist(), strict=True)]
    # 1 if none of the candidates is right, so that no set contains a right one.
    scores = torch.tensor([min((score for score, _, right in each if right), default=1.0) for each in candidates])
    checked = _check(candidates, scores, of_question, given.coverages)
    scaling = LinearScaling("temperature", scale.float().expand(2).clone(), torch.zeros(2))
    return Fitted(scaling, _sets_of(scores, given.coverages), before, after, checked)


def questions_of(
    rows: Sequence[Mapping[str, Any]], predicted: Sequence[torch.Tensor], folds: Sequence[int]
) -> list[Question]:
    """Return the questions that windows belong to, in their order.

    Args:
        rows: The windows; see `fit_answers`.
        predicted: The logits (S, 2) of the starts and the ends in each window.
        folds: The fold of each window.
    """
    questions: dict[int, Question] = {}
    for row, logits, fold in zip(rows, predicted, folds, strict=True):
        question = questions.setdefault(row["row"], Question(row["context"], row["known"], fold))
        offsets = [None if place is None else (place[0], place[1]) for place in row["offsets"]]
        question.windows.append((logits[:, 0], logits[:, 1], offsets))
    return list(questions.values())


def in_set(candidates: Sequence[Candidate], threshold: float) -> tuple[bool, int]:
    """Return whether the set of answers to a question contains a right one, and its size.

    Args:
        candidates: The candidates, the best first.
        threshold: The largest score of an answer in the set. The best answer always is.
    """
    inside = [each[1:] for place, each in enumerate(candidates) if not place or each[0] <= threshold]
    # An answer may be in several places of a context.
    return any(right for _, right in inside), len(dict(inside))


def _best_of(asked: list[Question], impossible: bool) -> _Best:
    starts, ends, places, correct = [], [], [], []
    for question in asked:
        answers = question.answers(1.0, impossible)
        if not answers:
            raise UsageError("a context of the examples has no tokens.")
        found = [_place(window, answers[0], impossible) for window in question.windows]
        inside = [each for each in found if each is not None]
        # An empty answer is as likely as in the window that most contradicts it.
        choose = min if answers[0]["answer"] == "" else max
        _, start, end, first, last = choose(inside, key=lambda each: each[0])
        starts.append(start)
        ends.append(end)
        places.append((first, last))
        correct.append(question.is_right(answers[0]))
    lowest = torch.finfo(torch.float32).min
    padded = [pad_sequence(each, batch_first=True, padding_value=lowest).double() for each in (starts, ends)]
    tokens = torch.tensor(places)
    return _Best(padded[0], padded[1], tokens[:, 0], tokens[:, 1], torch.tensor(correct))


def _place(
    window: tuple[torch.Tensor, torch.Tensor, Offsets], answer: Mapping[str, Any], impossible: bool
) -> tuple[float, torch.Tensor, torch.Tensor, int, int] | None:
    """Return the score of an answer in a window, the logits that decide it, and its tokens; None if it has none."""
    start, end, offsets = window
    allowed = torch.tensor([place is not None for place in offsets])
    allowed[0] = impossible
    lowest = torch.finfo(torch.float32).min
    start, end = (logits.masked_fill(~allowed, lowest) for logits in (start, end))
    if answer["answer"] == "":
        spans = [(0, 0)]
    else:
        firsts = [index for index, place in enumerate(offsets) if place is not None and place[0] == answer["start"]]
        lasts = [index for index, place in enumerate(offsets) if place is not None and place[1] == answer["end"]]
        spans = [(first, last) for first in firsts for last in lasts if first <= last]
    if not spans:
        return None
    log_start, log_end = start.log_softmax(-1), end.log_softmax(-1)
    score, first, last = max((float(log_start[first] + log_end[last]), first, last) for first, last in spans)
    return score, start, end, first, last


def _sets_of(scores: torch.Tensor, coverages: tuple[float, ...]) -> PredictionSets:
    return PredictionSets(scores.sort().values, torch.ones(len(scores)), len(scores), coverages)


def _check(
    candidates: list[list[Candidate]],
    scores: torch.Tensor,
    folds: torch.Tensor,
    coverages: tuple[float, ...],
) -> dict[str, dict[str, float]]:
    """Return the coverage and the mean size of sets with thresholds from the other folds."""
    checked = {}
    for coverage in coverages:
        covered, size = 0, 0
        for fold in folds.unique():
            sets = _sets_of(scores[folds != fold], coverages)
            threshold = sets.threshold(coverage) if sets.highest_coverage >= coverage else 1.0
            for index in (folds == fold).nonzero()[:, 0].tolist():
                is_covered, number = in_set(candidates[index], threshold)
                covered += is_covered
                size += number
        checked[str(coverage)] = {
            "coverage": round(covered / len(scores), 4),
            "mean_size": round(size / len(scores), 4),
        }
    return checked
