"""The base of pipelines whose models have a method that takes many texts at once."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from transformers.pipelines.base import Pipeline

# `Any`, because the annotations of `Pipeline` do not allow the parameters that its subclasses add.
_BasePipeline: Any = Pipeline
# Number of texts from a generator or a dataset to compute together.
_PIPELINE_TEXTS = 2048


class TextsPipeline(_BasePipeline):
    """Pipeline that calls a method of its model with all texts, since they need no padding and so no batches.

    A subclass has a method `_results`, which takes a list of texts and the arguments of a call, and returns a result
    for each text.

    Args:
        model: A model with the method.
        tokenizer: Its tokenizer.
        **kwargs: Arguments of transformers' `Pipeline`, and defaults for the arguments of a call.

    Attributes:
        method: The name of the method.
        model_class: The name of a class of models that has it.

    Raises:
        ValueError: If the model does not have the method.
    """

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    method = ""
    model_class = ""

    def __init__(self, model: Any, tokenizer: Any, **kwargs: Any) -> None:
        if not hasattr(model, self.method):
            kind = type(model).__name__
            # An exported model has the name of the class that it was exported from.
            needed = f"{self.model_class}{' that is not exported' if kind == self.model_class else ''}"
            raise ValueError(f"model must have the method {self.method}, which a {kind} lacks; use a {needed}.")
        super().__init__(model=model, tokenizer=tokenizer, **kwargs)

    def __call__(self, inputs: str | Iterable[str], **kwargs: Any) -> Any:
        """Call the method of the model.

        Args:
            inputs: A text, a list of texts, or a generator or a dataset of texts.
            **kwargs: Arguments of the method. `batch_size` and `num_workers` have no effect.

        Returns:
            The result of a text, a list of results, or, for a generator or a dataset, an iterator over results.

        Raises:
            ValueError: If a text or an argument is not allowed.
        """
        options = {**self._forward_params, **self._sanitize_parameters(**kwargs)[1]}
        if isinstance(inputs, str):
            return self._of_list([inputs], options)[0]
        if isinstance(inputs, list | tuple):
            return self._of_list([*inputs], options)
        # A dataset of torch only has a length and items.
        if not isinstance(inputs, Iterable) and hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"):
            inputs = map(inputs.__getitem__, range(len(inputs)))
        return self._of_iterable(inputs, options) if isinstance(inputs, Iterable) else self._of_list([inputs], options)

    def _of_iterable(self, inputs: Iterable[str], options: dict[str, Any]) -> Iterator[Any]:
        texts = iter(inputs)
        while chunk := list(islice(texts, _PIPELINE_TEXTS)):
            yield from self._of_list(chunk, options)

    def _of_list(self, texts: list[str], options: dict[str, Any]) -> list[Any]:
        return self.postprocess(self.forward(self.preprocess(texts), **options))

    def _sanitize_parameters(
        self, batch_size: int | None = None, num_workers: int | None = None, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, kwargs, {}

    def preprocess(self, inputs: list[str]) -> dict[str, Any]:
        """Return the texts as `_forward` takes them."""
        return {"texts": inputs}

    def _forward(self, model_inputs: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {"results": self._results(model_inputs["texts"], **kwargs)}

    def postprocess(self, model_outputs: dict[str, Any]) -> list[Any]:
        """Return the result of each text."""
        results: list[Any] = model_outputs["results"]
        return results
