"""All tasks that an encoder can be adapted to: those with a head, and those of sentence-transformers."""

from ....tasks import HEAD_TASKS, HeadTask
from .similarity import Embedding, Ranking, SimilarityTask

SIMILARITY_TASKS: dict[str, type[SimilarityTask]] = {"embedding": Embedding, "ranking": Ranking}
TASKS: dict[str, type[HeadTask] | type[SimilarityTask]] = {**HEAD_TASKS, **SIMILARITY_TASKS}

__all__ = ["HEAD_TASKS", "SIMILARITY_TASKS", "TASKS", "HeadTask", "SimilarityTask"]
