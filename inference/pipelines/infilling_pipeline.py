"""A pipeline that fills the gaps of texts."""

from typing import Any

from .texts_pipeline import TextsPipeline


class InfillingPipeline(TextsPipeline):
    """Pipeline that fills the gaps of texts such as `"The [MASK] of [MASK]{5}."`.

    `config.json` of a saved masked language model refers to this class, so `pipeline("infilling", model=...,
    trust_remote_code=True)` works without the package; with the package, `pipeline("infilling", model=...)` does.

    A call takes a text or several texts and the arguments of `SequenceEncoderForMaskedLM.infill`, and returns a
    dictionary for each text: `sequence`, the text; `fills`, the text of each gap; and `score`, from 0 to 1. With
    `num_return_sequences`, it returns a list of them for each text.

    Args:
        model: A masked language model of this package.
        tokenizer: Its tokenizer.
        **kwargs: Arguments of transformers' `Pipeline`, and defaults for the arguments of a call.

    Raises:
        ValueError: If the model cannot fill gaps.
    """

    method = "infill"
    model_class = "SequenceEncoderForMaskedLM"

    def _results(self, texts: list[str], **kwargs: Any) -> list[Any]:
        results = self.model.infill(texts, self.tokenizer, **kwargs)
        found = [{"sequence": result.text, "fills": result.fills, "score": result.score} for result in results]
        copies = len(found) // max(len(texts), 1)
        return found if copies <= 1 else [found[start : start + copies] for start in range(0, len(found), copies)]
