"""The heads of pretraining: masked language modelling, alone and together with sentence order.

Shapes: B batch, S sequence, D hidden, V vocabulary.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import MaskedLMOutput
from transformers.processing_utils import Unpack
from transformers.utils.generic import ModelOutput, can_return_tuple
from transformers.utils.import_utils import is_tracing

from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ..checks import IGNORED, batch_shape, check_class_labels
from ..cpu.dropout import Dropout
from ..forward_options import ForwardOptions
from ..modeling_sequence_encoder import SequenceEncoderModel, SequenceEncoderPreTrainedModel
from ..pooling import HEADS, text_vectors
from .losses import masked_lm_loss, sentence_order_loss


class _VocabularyModel(SequenceEncoderPreTrainedModel):
    """What the models that predict tokens share: the head, the projection to the vocabulary and its tie."""

    _tied_weights_keys = {"decoder.weight": "model.embed_tokens.weight"}  # noqa: RUF012
    _tp_plan = {"decoder": "colwise_gather_output"}  # noqa: RUF012
    _fsdp_plan = {"decoder": "keep_full_weight"}  # noqa: RUF012
    _loss_function = staticmethod(masked_lm_loss)
    _saves_recipe = True  # What is pretrained further is still an encoder of texts.

    def __init__(self, config: SequenceEncoderConfig, add_pooling_layer: bool) -> None:
        super().__init__(config)
        self.model = SequenceEncoderModel(config, add_pooling_layer=add_pooling_layer)
        self.head = HEADS[config.prediction_head](config, config.prediction_dim)
        self.decoder = nn.Linear(config.prediction_dim, config.vocab_size)

    def get_output_embeddings(self) -> nn.Linear:
        """The projection to the vocabulary."""
        return self.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replaces the projection to the vocabulary."""
        self.decoder = new_embeddings

    def _check_labels(self, labels: torch.Tensor | None, shape: tuple[int, int] | None) -> None:
        if labels is not None and shape is not None:
            check_class_labels("labels", labels, self.config.vocab_size, "vocab_size", shape)

    def _needed(self, labels: torch.Tensor | None, shape: tuple[int, int] | None) -> torch.Tensor | bool:
        """The tokens that are projected, as `SequenceEncoderModel` wants to know them."""
        if labels is None or shape is None or not self.training or is_tracing(labels):
            return True
        return (labels.long() != IGNORED).view(shape)

    def _predict(
        self,
        hidden_states: torch.Tensor,
        labels: torch.Tensor | None,
        needed: torch.Tensor | bool,
        kwargs: Mapping[str, Any],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits and loss. In training only the labelled tokens are projected, and the logits are theirs: (n, V)."""
        if labels is None:
            return self.decoder(self.head(hidden_states)), None
        labels = labels.to(hidden_states.device, torch.long)
        if isinstance(needed, torch.Tensor):
            needed = needed.to(hidden_states.device)
            hidden_states, labels = hidden_states[needed], labels.view_as(needed)[needed]
        logits = self.decoder(self.head(hidden_states))
        return logits, self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)


class SequenceEncoderForMaskedLM(_VocabularyModel):
    """The encoder with a masked language modelling head (Devlin et al., 2019)."""

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__(config, add_pooling_layer=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[ForwardOptions],
    ) -> MaskedLMOutput:
        """Predicts tokens. The inputs are those of `SequenceEncoderModel`.

        Args:
            labels: (B, S) token ids, -100 where nothing is to be predicted.

        Returns:
            `loss`, and `logits` (B, S, V); in training with labels, (labelled tokens, V), row by row.

        Raises:
            ValueError: for bad inputs, and labels outside the vocabulary or of another shape.
        """
        shape = batch_shape(input_ids, inputs_embeds)
        self._check_labels(labels, shape)
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        needed = self._needed(labels, shape)
        outputs = self.model(*inputs, needed=needed, return_dict=True, **kwargs)
        logits, loss = self._predict(outputs.last_hidden_state, labels, needed, kwargs)
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


@dataclass
class SequenceEncoderForPreTrainingOutput(ModelOutput):
    """The weighted sum of the losses, the logits of both heads, and each loss before its weight.

    `prediction_logits` are as of masked language modelling, `sop_logits` (B, 2): in order, swapped.
    """

    loss: torch.Tensor | None = None
    prediction_logits: torch.Tensor | None = None
    sop_logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    mlm_loss: torch.Tensor | None = None
    sop_loss: torch.Tensor | None = None


class SequenceEncoderForPreTraining(_VocabularyModel):
    """The encoder with both heads of pretraining: masked tokens, and the order of two segments (Lan et al., 2020)."""

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__(config, add_pooling_layer=True)
        self.dropout = Dropout(config.classifier_dropout)
        self.sop_classifier = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        sentence_order_label: torch.Tensor | None = None,
        mlm_weight: float = 1.0,
        sop_weight: float = 1.0,
        **kwargs: Unpack[ForwardOptions],
    ) -> SequenceEncoderForPreTrainingOutput:
        """Predicts masked tokens and segment order. The inputs are those of `SequenceEncoderModel`.

        Args:
            labels: (B, S) token ids, -100 where nothing is to be predicted.
            sentence_order_label: (B,) 0 where the segments are in order, 1 where they are swapped, -100 where there is
                one segment.
            mlm_weight: of the loss of masked tokens in the sum. Where it is 0, none are predicted, and `labels` only
                tell how much each text weighs.
            sop_weight: of the loss of sentence order.

        Returns:
            The weighted sum of the losses whose labels are given, these losses, and the logits of both heads.

        Raises:
            ValueError: for bad inputs or labels, and for rows of several documents.
        """
        shape = batch_shape(input_ids, inputs_embeds)
        self._check_labels(labels, shape)
        if sentence_order_label is not None and shape is not None:
            check_class_labels("sentence_order_label", sentence_order_label, 2, "in order, swapped", shape[:1])
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        needed = self._needed(labels, shape) if mlm_weight or labels is None else False
        outputs = self.model(*inputs, needed=needed, return_dict=True, **kwargs)
        sop_logits = self.sop_classifier(self.dropout(text_vectors(outputs, self)))
        logits, mlm_loss, sop_loss = None, None, None
        if needed is not False:
            logits, mlm_loss = self._predict(outputs.last_hidden_state, labels, needed, kwargs)
        if sentence_order_label is not None:
            sop_loss = sentence_order_loss(sop_logits, sentence_order_label, labels, **kwargs)
        return SequenceEncoderForPreTrainingOutput(
            loss=_weighted_sum((mlm_weight, mlm_loss), (sop_weight, sop_loss)),
            prediction_logits=logits,
            sop_logits=sop_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            mlm_loss=mlm_loss,
            sop_loss=sop_loss,
        )


def _weighted_sum(*terms: tuple[float, torch.Tensor | None]) -> torch.Tensor | None:
    """Of the losses that there are; None if there is none."""
    weighted = [loss if weight == 1 else weight * loss for weight, loss in terms if loss is not None]
    return functools.reduce(torch.add, weighted) if weighted else None
