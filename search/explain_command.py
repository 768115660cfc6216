"""`sequence-encoder explain`, which can show training examples from an index beside each explanation."""

from __future__ import annotations

from ..evaluation.explanation.arguments import ExplainedTexts, ExplanationArguments
from ..evaluation.explanation.command import explain_texts
from ..evaluation.explanation.explanation import Explanation


def explain(texts: ExplainedTexts, options: ExplanationArguments) -> list[Explanation]:
    """Run `sequence-encoder explain`."""
    if options.index is None:
        return explain_texts(texts, options)
    # The index needs LanceDB.
    from .examples import IndexedExamples

    return explain_texts(texts, options, IndexedExamples(options.index, options.label_column))
