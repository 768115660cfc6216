"""All tasks that an encoder can be adapted to: with a head, of sentence-transformers, and writing."""

from ....tasks import HEAD_TASKS, HeadTask
from .conversation import Conversation
from .infilling import Infilling
from .similarity import Embedding, Ranking, SimilarityTask
from .writing import WritingTask

SIMILARITY_TASKS: dict[str, type[SimilarityTask]] = {"embedding": Embedding, "ranking": Ranking}
WRITING_TASKS: dict[str, type[WritingTask]] = {"infilling": Infilling, "conversation": Conversation}
TASKS: dict[str, type[HeadTask] | type[SimilarityTask]] = {**HEAD_TASKS, **SIMILARITY_TASKS, **WRITING_TASKS}

__all__ = [
    "HEAD_TASKS",
    "SIMILARITY_TASKS",
    "TASKS",
    "WRITING_TASKS",
    "HeadTask",
    "SimilarityTask",
    "WritingTask",
]
