"""Text classification with a calibrated model: sets of labels, unfamiliar texts, and refusals.

Shapes: B batch, C classes.
"""

from typing import Any

import torch
from transformers.pipelines.text_classification import TextClassificationPipeline

from ...modeling.calibration.outputs import labels_in_sets, with_p_values
from .calibrated_pipeline import CalibratedPipelineMixin

# `Any`, because the parameters differ from those of the base class.
_TextClassificationPipeline: Any = TextClassificationPipeline


class CalibratedTextClassificationPipeline(CalibratedPipelineMixin, _TextClassificationPipeline):
    """Transformers' pipeline for text classification, with sets of labels and refusals for calibrated models.

    For other models, it is the same as transformers' pipeline. For a calibrated model, each result also has `labels`,
    the labels that contain the true one with the probability `coverage`, the most likely first, and `unfamiliarity`, a
    p-value: the share of the calibration texts that are at least as unfamiliar as this text.

    `transformers.pipeline("text-classification", model=...)` returns it for calibrated models.

    Args:
        **kwargs: Arguments of transformers' pipeline, and defaults for the arguments of a call. A call also takes
            `coverage`, the share of true labels that the sets contain (0.9 by default), and `abstain_below`, the
            p-value below which the pipeline refuses to answer. A refusal has None as `label` and `score`, and all
            labels in `labels`.

    Raises:
        ValueError: If `coverage` or `abstain_below` is not between 0 and 1, or the model is not calibrated for it.
    """

    def _forward(self, model_inputs: Any) -> Any:
        if self.calibration is None:
            return super()._forward(model_inputs)
        outputs, p_values = with_p_values(self.model, self.calibration, **model_inputs)
        return {"logits": outputs.logits, **({} if p_values is None else {"unfamiliarity": p_values})}

    def postprocess(
        self,
        model_outputs: Any,
        function_to_apply: Any = None,
        top_k: Any = 1,
        _legacy: bool = True,
        coverage: float | None = None,
        abstain_below: float | None = None,
    ) -> Any:
        """Return the results of one text.

        Args:
            model_outputs: The logits (1, C) and the p-value (1,).
            function_to_apply: See transformers.
            top_k: See transformers.
            _legacy: See transformers.
            coverage: The share of true labels that the sets contain.
            abstain_below: The p-value below which there is no answer.
        """
        results = super().postprocess(model_outputs, function_to_apply, top_k, _legacy)
        if self.calibration is None:
            return results
        p_values = model_outputs.get("unfamiliarity")
        refused = abstain_below is not None and p_values is not None and float(p_values) < abstain_below
        added: dict[str, Any] = {}
        if self.calibration.sets is not None:
            logits, config = model_outputs["logits"].float(), self.model.config
            several = config.problem_type == "multi_label_classification"
            probabilities = logits.sigmoid() if several else logits.softmax(-1)
            names = [config.id2label[index] for index in range(config.num_labels)]
            all_labels = torch.tensor([refused])
            added["labels"] = labels_in_sets(self.calibration, probabilities, names, coverage, all_labels)[0]
        if p_values is not None:
            added["unfamiliarity"] = float(p_values)
        changed = {"label": None, "score": None} if refused else {}
        if isinstance(results, dict):
            return {**results, **changed, **added}
        return [{**result, **changed, **added} for result in (results[:1] if refused else results)]
