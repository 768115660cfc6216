"""The tasks that an encoder can be adapted to, with their columns, labels, inputs and metrics."""

from .answers import Answers
from .choices import Choices
from .classification import Classification, MultiLabel, Regression
from .entities import Entities
from .similarity import Embedding, Ranking, SimilarityTask
from .task import HeadTask

HEAD_TASKS: dict[str, type[HeadTask]] = {
    "classification": Classification,
    "multi-label": MultiLabel,
    "regression": Regression,
    "ner": Entities,
    "qa": Answers,
    "multiple-choice": Choices,
}
SIMILARITY_TASKS: dict[str, type[SimilarityTask]] = {"embedding": Embedding, "ranking": Ranking}
TASKS: dict[str, type[HeadTask] | type[SimilarityTask]] = {**HEAD_TASKS, **SIMILARITY_TASKS}

__all__ = ["HEAD_TASKS", "SIMILARITY_TASKS", "TASKS", "HeadTask", "SimilarityTask"]
