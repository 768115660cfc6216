"""Zero-shot classification with models that read all labels at once."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers.pipelines.zero_shot_classification import ZeroShotClassificationPipeline

# `Any`, because the parameters differ from those of the base class.
_ZeroShotClassificationPipeline: Any = ZeroShotClassificationPipeline


class PromptedZeroShotClassificationPipeline(_ZeroShotClassificationPipeline):
    """Transformers' pipeline for zero-shot classification, also for `SequenceEncoderForZeroShotClassification`.

    Such a model reads a text once, with all labels, and has no hypotheses. The results have the same format. For other
    models, it is the same as transformers' pipeline.

    Args:
        **kwargs: Arguments of transformers' pipeline, and defaults for the arguments of a call.

    Raises:
        ValueError: If labels are missing, or `hypothesis_template` is given for a model without hypotheses.
    """

    @property
    def _is_prompted(self) -> bool:
        return hasattr(self.model, "label_prompts")

    @property
    def entailment_id(self) -> int:
        """The index of the label entailment. Models without hypotheses do not use it."""
        found: int = 0 if self._is_prompted else super().entailment_id
        return found

    def preprocess(
        self, inputs: str, candidate_labels: Sequence[str] | None = None, hypothesis_template: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the inputs of a text.

        Args:
            inputs: The text.
            candidate_labels: The labels.
            hypothesis_template: See transformers.
        """
        if not self._is_prompted:
            options = {} if hypothesis_template is None else {"hypothesis_template": hypothesis_template}
            yield from super().preprocess(inputs, candidate_labels, **options)
            return
        if hypothesis_template is not None:
            raise ValueError(f"hypothesis_template must be left out for a {type(self.model).__name__}.")
        # Tokenizers without a limit have an enormous `model_max_length`.
        longest = self.tokenizer.model_max_length
        limit = longest if longest < 10**9 else None
        rows = self.model.label_prompts([inputs], list(candidate_labels or []), self.tokenizer, limit)
        tensors = {name: torch.tensor(lists) for name, lists in rows.items()}
        tensors["attention_mask"] = torch.ones_like(tensors["input_ids"])
        yield {"candidate_label": candidate_labels, "sequence": inputs, "is_last": True, **tensors}

    def postprocess(self, model_outputs: Any, multi_label: bool = False) -> Any:
        """Return the labels of a text and their scores, the best first.

        Args:
            model_outputs: The outputs of the model.
            multi_label: Whether each label is scored alone, so that several can be right.
        """
        if not self._is_prompted:
            return super().postprocess(model_outputs, multi_label)
        (found,) = model_outputs
        labels = found["candidate_label"]
        logits = found["logits"][0, : len(labels)].float()
        scores = logits.sigmoid() if multi_label or len(labels) == 1 else logits.softmax(-1)
        order = scores.argsort(descending=True).tolist()
        return {
            "sequence": found["sequence"],
            "labels": [labels[index] for index in order],
            "scores": scores[order].tolist(),
        }
