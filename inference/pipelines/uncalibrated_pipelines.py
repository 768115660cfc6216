"""Pipelines in the folders of classifiers without a calibration, for use without the package."""

from typing import Any

from transformers.pipelines.text_classification import TextClassificationPipeline
from transformers.pipelines.token_classification import TokenClassificationPipeline

from ...modeling.calibration.outputs import refuse_uncalibrated

# `Any`, because the parameters differ from those of the base classes.
_TextClassificationPipeline: Any = TextClassificationPipeline
_TokenClassificationPipeline: Any = TokenClassificationPipeline


class _UncalibratedPipelineMixin:
    """Mixin that refuses the arguments that need a calibration, where transformers' pipelines would ignore them."""

    def _sanitize_parameters(self, coverage: Any = None, abstain_below: Any = None, **kwargs: Any) -> Any:
        refuse_uncalibrated(coverage, abstain_below)
        inherited: Any = super()
        return inherited._sanitize_parameters(**kwargs)


class UncalibratedTextClassificationPipeline(_UncalibratedPipelineMixin, _TextClassificationPipeline):
    """Transformers' pipeline for text classification."""


class UncalibratedTokenClassificationPipeline(_UncalibratedPipelineMixin, _TokenClassificationPipeline):
    """Transformers' pipeline for token classification."""
