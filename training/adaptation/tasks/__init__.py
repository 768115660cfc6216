"""All tasks that an encoder can be adapted to: with a head, extraction, of sentence-transformers, and writing."""

from ....evaluation.tasks import HEAD_TASKS, HeadTask
from .conversation import Conversation
from .extraction import Extraction
from .infilling import Infilling
from .similarity import Embedding, Ranking, SimilarityTask
from .writing import WritingTask

SIMILARITY_TASKS: dict[str, type[SimilarityTask]] = {"embedding": Embedding, "ranking": Ranking}
WRITING_TASKS: dict[str, type[WritingTask]] = {"infilling": Infilling, "conversation": Conversation}
EXTRACTION_TASKS: dict[str, type[Extraction]] = {"extraction": Extraction}
TASKS: dict[str, type[HeadTask] | type[SimilarityTask]] = {
    **HEAD_TASKS,
    **EXTRACTION_TASKS,
    **SIMILARITY_TASKS,
    **WRITING_TASKS,
}

__all__ = [
    "EXTRACTION_TASKS",
    "HEAD_TASKS",
    "SIMILARITY_TASKS",
    "TASKS",
    "WRITING_TASKS",
    "Extraction",
    "HeadTask",
    "SimilarityTask",
    "WritingTask",
]
