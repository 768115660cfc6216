"""Token classification with a calibrated model: sets of kinds of entities, unfamiliar texts, and refusals.

Shapes: E entities, C tags, K kinds.
"""

from typing import Any

import torch
from transformers.pipelines.token_classification import AggregationStrategy, TokenClassificationPipeline

from ...modeling.calibration.entities import kinds_of, probabilities_of_kinds
from ...modeling.calibration.outputs import labels_in_sets, p_values_of, vectors_for
from .calibrated_pipeline import CalibratedPipelineMixin

# `Any`, because the parameters differ from those of the base class.
_TokenClassificationPipeline: Any = TokenClassificationPipeline


class CalibratedTokenClassificationPipeline(CalibratedPipelineMixin, _TokenClassificationPipeline):
    """Transformers' pipeline for token classification, with sets of kinds and refusals for calibrated models.

    For other models, it is the same as transformers' pipeline. For a calibrated model, each entity also has `labels`,
    the kinds that contain the true one with the probability `coverage`, the most likely first, where `O` stands for no
    entity; and `unfamiliarity`, a p-value of its text. The calibration is of entities with
    `aggregation_strategy="first"`, whose words have the tags of their first tokens.

    `transformers.pipeline("token-classification", model=...)` returns it for calibrated models.

    Args:
        **kwargs: Arguments of transformers' pipeline, and defaults for the arguments of a call. A call also takes
            `coverage`, the share of entities whose sets contain the true kind (0.9 by default), and `abstain_below`,
            the p-value below which the pipeline refuses to answer. The entities of a refused text have no kind and no
            score, and all kinds in `labels`.

    Raises:
        ValueError: If `coverage` or `abstain_below` is not between 0 and 1, or the model is not calibrated for it.
    """

    def _forward(self, model_inputs: Any) -> Any:
        vectors = vectors_for(self.model, self.calibration)
        if vectors is None:
            return super()._forward(model_inputs)
        outputs = super()._forward({**model_inputs, "layer_vectors": vectors})
        del outputs["layer_vectors"]
        return {**outputs, "unfamiliarity": p_values_of(self.calibration, vectors)}

    def aggregate(self, pre_entities: Any, aggregation_strategy: Any) -> Any:
        """Return the entities of transformers with the probabilities of all tags, for a calibrated model."""
        if self.calibration is None:
            return super().aggregate(pre_entities, aggregation_strategy)
        if aggregation_strategy in (AggregationStrategy.NONE, AggregationStrategy.SIMPLE):
            tokens = super().aggregate(pre_entities, AggregationStrategy.NONE)
            pairs = zip(tokens, pre_entities, strict=True)
            entities = [{**token, "scores": before["scores"]} for token, before in pairs]
        else:
            entities = self.aggregate_words(pre_entities, aggregation_strategy)
        return entities if aggregation_strategy == AggregationStrategy.NONE else self.group_entities(entities)

    def aggregate_word(self, entities: Any, aggregation_strategy: Any) -> Any:
        """Return a word with the probabilities of all tags."""
        word = super().aggregate_word(entities, aggregation_strategy)
        if aggregation_strategy == AggregationStrategy.FIRST:
            scores = entities[0]["scores"]
        elif aggregation_strategy == AggregationStrategy.MAX:
            scores = max(entities, key=lambda entity: entity["scores"].max())["scores"]
        else:
            scores = _mean_scores(entities)
        return {**word, "scores": scores}

    def group_sub_entities(self, entities: Any) -> Any:
        """Return an entity with the mean probabilities of all tags over its words."""
        group = super().group_sub_entities(entities)
        if self.calibration is None:
            return group
        return {**group, "scores": _mean_scores(entities)}

    def postprocess(
        self,
        all_outputs: Any,
        aggregation_strategy: Any = AggregationStrategy.NONE,
        ignore_labels: Any = None,
        coverage: float | None = None,
        abstain_below: float | None = None,
    ) -> Any:
        """Return the entities of one text.

        Args:
            all_outputs: The outputs of `_forward` for its windows.
            aggregation_strategy: See transformers.
            ignore_labels: See transformers.
            coverage: The share of entities whose sets contain the true kind.
            abstain_below: The p-value below which there is no answer.
        """
        results = super().postprocess(all_outputs, aggregation_strategy, ignore_labels)
        if self.calibration is None:
            return results
        added: dict[str, Any] = {}
        if "unfamiliarity" in all_outputs[0]:
            # A text that is read in several windows has their mean.
            added["unfamiliarity"] = float(torch.stack([each["unfamiliarity"] for each in all_outputs]).mean())
        refused = abstain_below is not None and added.get("unfamiliarity", 1.0) < abstain_below
        for entity in results:
            scores = entity.pop("scores")
            if self.calibration.sets is not None:
                entity["labels"] = self._labels(scores, coverage, refused)
            if refused:
                entity.update({name: None for name in ("entity", "entity_group", "score") if name in entity})
            entity.update(added)
        return results

    def _labels(self, scores: Any, coverage: float | None, refused: bool) -> list[str]:
        """Return the kinds in the set of an entity, the most likely first; all of them if there is no answer."""
        config = self.model.config
        tags = [config.id2label[index] for index in range(config.num_labels)]
        probabilities = probabilities_of_kinds(torch.as_tensor(scores)[None].float(), tags)
        all_kinds = torch.tensor([refused])
        return labels_in_sets(self.calibration, probabilities, kinds_of(tags), coverage, all_kinds)[0]


def _mean_scores(entities: Any) -> torch.Tensor:
    """Return the mean probabilities (C,) of tags over tokens or words."""
    return torch.stack([torch.as_tensor(entity["scores"]) for entity in entities]).nanmean(dim=0)
