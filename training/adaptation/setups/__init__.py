"""How each task is trained, from its examples to a saved model; one table says which setup a task has."""

from ..tasks import EXTRACTION_TASKS, HEAD_TASKS, SIMILARITY_TASKS, WRITING_TASKS
from .extraction import ExtractionSetup
from .head import HeadSetup
from .similarity import SimilaritySetup
from .writing import WritingSetup

Setup = HeadSetup | SimilaritySetup
SETUPS: dict[str, type[HeadSetup] | type[SimilaritySetup]] = {
    **dict.fromkeys(HEAD_TASKS, HeadSetup),
    **dict.fromkeys(EXTRACTION_TASKS, ExtractionSetup),
    **dict.fromkeys(SIMILARITY_TASKS, SimilaritySetup),
    **dict.fromkeys(WRITING_TASKS, WritingSetup),
}

__all__ = ["SETUPS", "Setup"]
