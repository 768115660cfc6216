"""What the pipelines of encoders must give: in place of transformers' own checks of them, which the archive leaves out.

`PipelineTesterMixin` asks for a pipeline and examples by `get_test_pipeline`, and calls `run_pipeline_test` with both.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from transformers import pipeline

TEXT = "The first text is short."
TEXTS = [TEXT, "The second text has a few more words than the first text."]


class PipelineChecks:
    """A task, the texts, and what a pipeline of it needs."""

    task: Any  # a name; the type that `pipeline` wants is one of many literals
    examples: list[str] = TEXTS
    options: dict[str, Any] = {}  # noqa: RUF012

    def get_test_pipeline(self, model: Any, tokenizer: Any, dtype: str = "float32", **processors: Any) -> Any:
        """The pipeline and its examples. Encoders have no other processors."""
        return pipeline(self.task, model=model, tokenizer=tokenizer, dtype=dtype, **self.options), self.examples

    def run_pipeline_test(self, made: Any, examples: list[str]) -> None:
        """One text, several, and several in a padded batch, which has to change nothing."""
        single = [made(example) for example in examples]
        for example, outputs in zip(examples, single, strict=True):
            self.check(made, example, outputs)
        for batch_size in (1, len(examples)):
            together = made(examples, batch_size=batch_size)
            assert_close([self.without_padding(outputs, single[i]) for i, outputs in enumerate(together)], single)

    def check(self, made: Any, example: str, outputs: Any) -> None:
        """That the outputs are right for a text."""
        raise NotImplementedError

    def without_padding(self, outputs: Any, single: Any) -> Any:
        """Outputs of a text in a batch, as they would be of a single one."""
        return outputs


class FeatureExtraction(PipelineChecks):
    """A vector for each token."""

    task = "feature-extraction"

    def check(self, made: Any, example: str, outputs: Any) -> None:
        """See `PipelineChecks`."""
        (vectors,) = outputs
        assert len(vectors) == len(made.tokenizer(example)["input_ids"])
        assert all(len(vector) == made.model.config.hidden_size for vector in vectors)

    def without_padding(self, outputs: Any, single: Any) -> Any:
        """See `PipelineChecks`: padding has vectors too."""
        return [outputs[0][: len(single[0])]]


class FillMask(PipelineChecks):
    """The likeliest tokens, in order."""

    task = "fill-mask"

    def get_test_pipeline(self, model: Any, tokenizer: Any, dtype: str = "float32", **processors: Any) -> Any:
        """See `PipelineChecks`, with a mask in each text."""
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
    """A probability for each label, of which the likeliest is given."""

    task = "text-classification"

    def check(self, made: Any, example: str, outputs: Any) -> None:
        """See `PipelineChecks`."""
        every = made(example, top_k=None)
        assert {output["label"] for output in every} == set(made.model.config.label2id)
        assert math.isclose(sum(output["score"] for output in every), 1, abs_tol=1e-2)
        assert_close(outputs, every[:1])

    def without_padding(self, outputs: Any, single: Any) -> Any:
        """See `PipelineChecks`: of several texts there is no list for each."""
        return [outputs]


class TokenClassification(PipelineChecks):
    """A label for each token of the text, and where the text has it."""

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
    """A probability for each candidate, the likeliest first."""

    task = "zero-shot-classification"
    options = {"candidate_labels": ["politics", "health"]}  # noqa: RUF012

    def check(self, made: Any, example: str, outputs: Any) -> None:
        """See `PipelineChecks`."""
        assert outputs["sequence"] == example
        assert set(outputs["labels"]) == {"politics", "health"}
        assert outputs["scores"] == sorted(outputs["scores"], reverse=True)
        assert math.isclose(sum(outputs["scores"]), 1, abs_tol=1e-2)


def assert_close(one: Any, other: Any) -> None:
    """That two outputs of a pipeline are the same but for rounding."""
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
