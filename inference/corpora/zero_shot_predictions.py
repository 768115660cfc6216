"""Computes the scores of labels that are only named when a model is used.

A model for natural language inference reads the text as the premise, and a sentence with the label as the hypothesis
(Yin et al., 2019, arXiv:1909.00161). A GLiClass reads the text once, with all labels (Stepanov et al., 2025,
arXiv:2508.07662).

Shapes: G texts, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from transformers import PreTrainedTokenizerBase

from ...command_line import UsageError
from ...modeling.heads.label_prompts import LabelPromptMixin, prompts_for
from ..runtimes.exported_graph import is_classifier
from ..uses import use_of
from .arguments import ModelArguments, PredictionArguments
from .predictions import Predictions
from .results import Tokens, count_truncated

_HYPOTHESIS = "This example is {}."


class ZeroShotPredictions(Predictions):
    """The labels and scores of texts, among given labels.

    Args:
        classifier: The model, which may be exported.
        tokenizer: Its tokenizer.
        model: How to read texts.
        options: What to predict, with labels.

    Raises:
        UsageError: If the model cannot compare texts with any labels, or a label is too long for it.
        ValueError: If another option does not fit the model.
    """

    def __init__(
        self, classifier: Any, tokenizer: PreTrainedTokenizerBase, model: ModelArguments, options: PredictionArguments
    ) -> None:
        super().__init__(classifier, tokenizer, model, options)
        self.labels = list(options.labels or ())
        # The calibration is about the labels of the model.
        self.calibration, self._has_sets, self._has_p_values = None, False, False
        # As in the pipeline, a single label can be wrong.
        self._independent = bool(options.multi_label) or len(self.labels) == 1
        self.activation = torch.nn.Sigmoid() if self._independent else torch.nn.Softmax(dim=-1)
        self._score = "sigmoid" if self._independent else "softmax"


class EntailmentPredictions(ZeroShotPredictions):
    """The scores of transformers' pipeline for zero-shot classification. See `ZeroShotPredictions`."""

    def __init__(
        self, classifier: Any, tokenizer: PreTrainedTokenizerBase, model: ModelArguments, options: PredictionArguments
    ) -> None:
        super().__init__(classifier, tokenizer, model, options)
        self._entailment = entailment_id(classifier.config)
        if self._entailment is None:
            raise UsageError(
                f"--labels needs a model for natural language inference, which has a label entailment, or a GLiClass, "
                f"but {model.model} has the labels {', '.join(map(str, classifier.config.id2label.values()))}."
            )
        self._hypotheses = [(options.hypothesis_template or _HYPOTHESIS).format(label) for label in self.labels]
        self._check_lengths()

    @property
    def facts(self) -> Mapping[str, Any]:
        """See `Computation.facts`."""
        return {**super().facts, "hypotheses": self._hypotheses}

    def tokenize(self, texts: list[list[str]]) -> Tokens:
        """See `Computation.tokenize`. The text is truncated, and the hypotheses are not."""
        pairs = [
            [text for text in texts[0] for _ in self._hypotheses],
            [hypothesis for _ in texts[0] for hypothesis in self._hypotheses],
        ]
        truncation = "only_first" if self.max_length is not None else False
        encoded = self.tokenizer(*pairs, truncation=truncation, max_length=self.max_length, return_attention_mask=False)
        per_row = len(self._hypotheses)
        truncated = count_truncated(encoded, self.tokenizer, self.max_length, pairs, per_row)
        return Tokens({name: encoded[name] for name in encoded}, truncated, per_row)

    def outputs(self, tokens: Tokens, progress: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Predictions.outputs`."""
        found, _ = self._computed(tokens, cast(int, self.classifier.config.num_labels), progress)
        answers = found.reshape(tokens.rows, tokens.per_row, found.shape[1])
        entailment = answers[..., self._entailment]
        p_values = torch.ones(tokens.rows, device=found.device)
        if self._independent:
            # Where the pipeline looks for the contradiction.
            return entailment - answers[..., -1 if self._entailment == 0 else 0], p_values
        return entailment, p_values

    def _check_lengths(self) -> None:
        if self.max_length is None:
            return
        pairs = [""] * len(self.labels), self._hypotheses
        # Without a warning of transformers about long texts.
        lengths = [len(ids) for ids in self.tokenizer(*pairs, verbose=False)["input_ids"]]
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        if lengths[longest] >= self.max_length:
            raise UsageError(
                f"--labels: {self.labels[longest]!r} takes {lengths[longest]} tokens in its hypothesis, which leaves "
                f"no room for a text in {self.max_length} tokens. Shorten it, or raise --max_length if the model "
                "allows it."
            )


class PromptedPredictions(ZeroShotPredictions):
    """The scores of a model that reads a text once, with all labels. See `ZeroShotPredictions`."""

    def __init__(
        self,
        classifier: Any,
        tokenizer: PreTrainedTokenizerBase,
        model: ModelArguments,
        options: PredictionArguments,
    ) -> None:
        super().__init__(classifier, tokenizer, model, options)
        if options.hypothesis_template is not None:
            raise UsageError(
                f"--hypothesis_template is for models for natural language inference, but {model.model} reads the "
                f"labels themselves; got --hypothesis_template {options.hypothesis_template}."
            )
        try:
            self.tokenize([[""]])
        except ValueError as error:
            raise UsageError(f"--labels: {error}") from error

    def tokenize(self, texts: list[list[str]]) -> Tokens:
        """See `Computation.tokenize`. The text is truncated, and the labels are not."""
        return Tokens(*prompts_for(self.classifier, texts[0], self.labels, self.tokenizer, self.max_length))


def zero_shot_predictions(
    model: Any, tokenizer: PreTrainedTokenizerBase, arguments: ModelArguments, options: PredictionArguments
) -> ZeroShotPredictions:
    """Return the predictions of a model among given labels. See `ZeroShotPredictions`."""
    if isinstance(model, LabelPromptMixin):
        return PromptedPredictions(model, tokenizer, arguments, options)
    if is_classifier(model):
        return EntailmentPredictions(model, tokenizer, arguments, options)
    raise UsageError(
        f"{arguments.model} is a {type(model).__name__}, which cannot compare texts with --labels. {use_of(model)}"
    )


def entailment_id(config: Any) -> int | None:
    """Return the index of the label entailment of a model for natural language inference, or None for other models."""
    named = (index for label, index in (config.label2id or {}).items() if label.lower().startswith("entail"))
    return next(named, None)
