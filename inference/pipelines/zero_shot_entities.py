"""A pipeline that finds the entities of texts for any labels."""

from collections.abc import Mapping, Sequence
from typing import Any

from .texts_pipeline import TextsPipeline


class ZeroShotEntitiesPipeline(TextsPipeline):
    """Pipeline that finds the entities of texts for labels that are named in the call.

    `config.json` of a saved model refers to this class, so `pipeline("zero-shot-entities", model=...,
    trust_remote_code=True)` works without the package; with the package, `pipeline("zero-shot-entities", model=...)`
    does.

    A call takes a text or several texts, `labels`, and other arguments of
    `SequenceEncoderForSpanExtraction.iter_extract`, such as `threshold`. It returns a list for each text, with a
    dictionary for each entity: `start` and `end` in characters, `text`, `label` and `score`.

    Args:
        model: A `SequenceEncoderForSpanExtraction`.
        tokenizer: Its tokenizer.
        **kwargs: Arguments of transformers' `Pipeline`, and defaults for the arguments of a call.

    Raises:
        ValueError: If the model cannot extract entities.
    """

    method = "extract"
    model_class = "SequenceEncoderForSpanExtraction"

    def _results(
        self, texts: list[str], labels: Sequence[str] | Mapping[str, str] | None = None, **kwargs: Any
    ) -> list[Any]:
        if labels is None:
            raise ValueError('labels must be given, such as labels=["person", "organisation"].')
        found: list[Any] = self.model.extract(texts, labels, self.tokenizer, **kwargs)
        return found
