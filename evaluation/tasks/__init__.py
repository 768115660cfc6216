"""The tasks with a head of transformers: how examples are read, their columns, labels, inputs and metrics."""

from .answers import Answers
from .choices import Choices
from .classification import Classification, MultiLabel, Regression
from .entities import Entities
from .task import HeadTask

HEAD_TASKS: dict[str, type[HeadTask]] = {
    "classification": Classification,
    "multi-label": MultiLabel,
    "regression": Regression,
    "ner": Entities,
    "qa": Answers,
    "multiple-choice": Choices,
}

__all__ = ["HEAD_TASKS", "HeadTask"]
