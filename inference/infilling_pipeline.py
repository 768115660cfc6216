"""A pipeline that fills the gaps of texts."""

from collections.abc import Iterable
from typing import Any

from transformers.pipelines.base import Pipeline

# `Any`, because the annotations of `Pipeline` do not allow the parameters that its subclasses add.
_BasePipeline: Any = Pipeline


class InfillingPipeline(_BasePipeline):
    """Pipeline that fills the gaps of texts such as `"The [MASK] of [MASK]{5}."`.

    `config.json` of a saved masked language model refers to this class, so `pipeline("infilling", model=...,
    trust_remote_code=True)` works without the package; with the package, `pipeline("infilling", model=...)` does.

    Args:
        model: A masked language model of this package.
        tokenizer: Its tokenizer.
        **kwargs: Arguments of transformers' `Pipeline`, and defaults for the arguments of a call.

    Raises:
        ValueError: If the model cannot fill gaps.
    """

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False

    def __init__(self, model: Any, tokenizer: Any, **kwargs: Any) -> None:
        if not hasattr(model, "infill"):
            raise ValueError(
                f"model must have the method infill, which a {type(model).__name__} lacks; use a "
                "SequenceEncoderForMaskedLM that is not exported."
            )
        super().__init__(model=model, tokenizer=tokenizer, **kwargs)

    def __call__(self, inputs: str | Iterable[str], **kwargs: Any) -> Any:
        """Fill the gaps of one or several texts, all at once.

        Args:
            inputs: A text or several texts. See `SequenceEncoderForMaskedLM.infill` for gaps.
            **kwargs: Arguments of `SequenceEncoderForMaskedLM.infill`. `batch_size` and `num_workers` have no effect.

        Returns:
            A dictionary for each text: `sequence`, the text; `fills`, the text of each gap; and `score`, from 0 to 1.
            With `num_return_sequences`, a list of them for each text.

        Raises:
            ValueError: If a text has no gap, or an argument is not allowed.
        """
        # All texts at once, since they need no padding, where transformers' pipelines would make batches.
        texts = [inputs] if isinstance(inputs, str) or not isinstance(inputs, Iterable) else list(inputs)
        options = self._sanitize_parameters(**kwargs)[1]
        outputs = self.forward(self.preprocess(texts), **{**self._forward_params, **options})
        results = self.postprocess(outputs)
        return results[0] if isinstance(inputs, str) else results

    def _sanitize_parameters(
        self, batch_size: int | None = None, num_workers: int | None = None, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, kwargs, {}

    def preprocess(self, inputs: list[str]) -> dict[str, Any]:
        """Return the texts as the model takes them."""
        return {"texts": inputs}

    def _forward(self, model_inputs: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        texts = model_inputs["texts"]
        found = self.model.infill(texts, self.tokenizer, **kwargs)
        return {"found": found, "copies": len(found) // max(len(texts), 1)}

    def postprocess(self, model_outputs: dict[str, Any]) -> list[Any]:
        """Return the results of each text."""
        found = [
            {"sequence": result.text, "fills": result.fills, "score": result.score} for result in model_outputs["found"]
        ]
        copies = model_outputs["copies"]
        return found if copies <= 1 else [found[start : start + copies] for start in range(0, len(found), copies)]
