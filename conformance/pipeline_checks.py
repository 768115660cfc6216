"""Checks of the pipelines of encoders, which replace transformers' own because the source archive lacks them.

`PipelineTesterMixin` gets a pipeline and examples from `get_test_pipeline`, and calls `run_pipeline_test` with both.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from transformers import pipeline

TEXT = "The first text is short."
TEXTS = [TEXT, "The second text has a few more words than the first text."]


class PipelineChecks:
    """The checks of a pipeline on a few texts.

    Attributes:
        task: The name of the task.
        examples: The texts.
        options: Further arguments of `pipeline`.
    """

    task: Any  # not `str`, because `pipeline` is typed with literals
    examples: list[str] = TEXTS
    options: dict[str, Any] = {}  # noqa: RUF012

    def get_test_pipeline(self, model: Any, tokenizer: Any, dtype: str = "float32", **processors: Any) -> Any:
        """Return the pipeline and its examples. Encoders have no other processors."""
        return pipeline(self.task, model=model, tokenizer=tokenizer, dtype=dtype, **self.options), self.examples

    def run_pipeline_test(self, made: Any, examples: list[str]) -> None:
        """Check single texts, several texts, and a padded batch, which must not change the outputs."""
        single = [made(example) for example in examples]
        for example, outputs in zip(examples, single, strict=True):
            self.check(made, example, outputs)
        for batch_size in (1, len(examples)):
            together = made(examples, batch_size=batch_size)
            assert_close([self.without_padding(outputs, single[i]) for i, outputs in enumerate(together)], single)

    def check(self, made: Any, example: str, outputs: Any) -> None:
        """Assert that the outputs for a text are right."""
        raise NotImplementedError

    def without_padding(self, outputs: Any, single: Any) -> Any:
        """Convert the outputs of a text in a batch to those of a single text."""
        return outputs


class FeatureExtraction(PipelineChecks):
    """Checks for one vector per token."""

    task = "feature-extraction"

    def check(self, made: Any, example: str, outputs: Any) -> None:
        """See `PipelineChecks`."""
        (vectors,) = outputs
        assert len(vectors) == len(made.tokenizer(example)["input_ids"])
        assert all(len(vector) == made.model.config.hidden_size for vector in vectors)

    def without_padding(self, outputs: Any, single: Any) -> Any:
        """See `PipelineChecks`. The pipeline returns vectors for padding too."""
        return [outputs[0][: len(single[0])]]


class FillMask(PipelineChecks):
    """Checks for the most likely tokens, in order."""

    task = "fill-mask"

    def get_test_pipeline(self, model: Any, tokenizer: Any, dtype: str = "float32", **processors: Any) -> Any:
        """See `PipelineChecks`. Each text has a mask token."""
        made, examples = super().get_test_pipeline(model, tokenizer, dtype)
        return made, [example.replace("text", tokenizer.mask_token, 1) for example in examples]

    def check(self, made: Any, example: str, outputs: Any) -> None:
        """See `PipelineChecks`."""
        scores = [output["score"] for output in outputs]
        assert scores == sorted(scores, reverse=True)
        assert len(scores) == 5
        assert all(made.tokenizer.mask_token not in output["sequence"] for output in outputs)
        (targeted,) = made(example, targets="text", top_k=1)
        assert targeted["token"] == made.tokenizer.vocab["text"]


class TextClassification(PipelineChecks):
    """Checks for the most likely label, and for a probability of each label."""

    task = "text-classification"

    def check(self, made: Any, example: str, outputs: Any) -> None:
        """See `PipelineChecks`."""
        every = made(example, top_k=None)
        assert {output["label"] for output in every} == set(made.model.config.label2id)
        assert math.isclose(sum(output["score"] for output in every), 1, abs_tol=1e-2)
        assert_close(outputs, every[:1])

    def without_padding(self, outputs: Any, single: Any) -> Any:
        """See `PipelineChecks`. For several texts, the pipeline does not return a list per text."""
        return [outputs]


class TokenClassification(PipelineChecks):
    """Checks for a label and a position of each token."""

    task = "token-classification"

    def check(self, made: Any, example: str, outputs: Any) -> None:
        """See `PipelineChecks`."""
        assert outputs
        assert {output["entity"] for output in outputs} <= set(made.model.config.label2id)
        for output in outputs:
            assert output["word"].removeprefix("##") == example[output["start"] : output["end"]]
        grouped = made(example, aggregation_strategy="simple")
        assert "".join(entity["word"] for entity in grouped).replace(" ", "") in example.replace(" ", "")


class ZeroShot(PipelineChecks):
    """Checks for a probability of each candidate label, the most likely first."""

    task = "zero-shot-classification"
    options = {"candidate_labels": ["politics", "health"]}  # noqa: RUF012

    def check(self, made: Any, example: str, outputs: Any) -> None:
        """See `PipelineChecks`."""
        assert outputs["sequence"] == example
        assert set(outputs["labels"]) == {"politics", "health"}
        assert outputs["scores"] == sorted(outputs["scores"], reverse=True)
        assert math.isclose(sum(outputs["scores"]), 1, abs_tol=1e-2)

    def without_padding(self, outputs: Any, single: Any) -> Any:
        """See `PipelineChecks`. Rounding decides the order of labels that an untrained model scores alike."""
        scores = dict(zip(outputs["labels"], outputs["scores"], strict=True))
        return {**outputs, "labels": single["labels"], "scores": [scores[label] for label in single["labels"]]}


def assert_close(one: Any, other: Any) -> None:
    """Assert that two outputs of a pipeline are equal up to rounding."""
    if isinstance(one, list | tuple):
        assert len(one) == len(other)
        for item, counterpart in zip(one, other, strict=True):
            assert_close(item, counterpart)
    elif isinstance(one, dict):
        assert_close(list(one.values()), list(other.values()))
    elif isinstance(one, float | np.floating):
        assert math.isclose(one, other, rel_tol=1e-2, abs_tol=5e-3), (one, other)
    else:
        assert one == other
