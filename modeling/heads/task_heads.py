"""Task heads: classification of texts and tokens, question answering and multiple choice.

Shapes: B batch, S sequence, D hidden, C classes.
"""

from typing import Any, Literal

import torch
from torch import nn
from transformers.modeling_outputs import (
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.processing_utils import Unpack
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple

from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ..attention.masks import real_tokens
from ..calibration.logit_calibration import calibrated_logits
from ..checks import batch_shape, check_shapes
from ..cpu.dropout import Dropout
from ..forward_options import ForwardOptions
from ..label_checks import (
    check_answer_positions,
    check_class_labels,
    check_classification_labels,
    check_num_labels,
)
from ..modeling_sequence_encoder import SequenceEncoderModel
from ..pretrained_model import SequenceEncoderPreTrainedModel
from .dense_head import HEADS, text_vectors
from .earlier_answering import EarlierAnsweringMixin
from .losses import (
    label_loss,
    question_answering_loss,
    sequence_classification_loss,
)

logger = logging.get_logger(__name__)


class TaskModel(SequenceEncoderPreTrainedModel):
    """Base class of models with a task head: the encoder, an optional dense head, dropout and a last layer."""

    _outputs: tuple[int | str, ...] = ("num_labels",)
    # peft recognises a last layer with one of these names, and trains it.
    _last_layer: Literal["classifier", "qa_outputs"] = "classifier"

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__(config)
        (outputs,) = self._outputs
        if isinstance(outputs, str):
            outputs = self.num_labels = check_num_labels(type(self).__name__, config)
        self.model = SequenceEncoderModel(config, add_pooling_layer=self._pools)
        self.head = HEADS[config.classifier_head](config, config.hidden_size)
        self.dropout = Dropout(config.classifier_dropout)
        self.add_module(self._last_layer, nn.Linear(config.hidden_size, outputs))
        self.post_init()

    def _logits(self, vectors: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.get_submodule(self._last_layer)(self.dropout(self.head(vectors)))
        return logits

    def train(self, mode: bool = True) -> Any:
        """Switch to training or evaluation, and warn if an adapter of peft would lose a part of the head.

        Args:
            mode: Whether to train.
        """
        if mode and hasattr(self, "peft_config"):
            parts = {"head": self.head, "pooler": self.model.pooler}
            # peft only finds the last layer itself.
            lost = [name for name, part in parts.items() if part is not None and _is_random(part)]
            if lost:
                logger.warning_once(
                    f"{' and '.join(lost)} started from random weights, and the adapter neither trains nor saves them. "
                    "They will be random again when you load the adapter, and the outputs will be wrong. Pass "
                    f"modules_to_save={lost} to the configuration of peft."
                )
        return super().train(mode)


def _is_random(part: nn.Module) -> bool:
    """Return whether a part has weights that were initialised and are not trained."""
    frozen = not any(weight.requires_grad for weight in part.parameters())
    return frozen and any(getattr(module, "was_initialised", False) for module in part.modules())


class SequenceEncoderForSequenceClassification(TaskModel):
    """The encoder with a head for sequence classification: a single label, several labels, or regression."""

    _auto_classes = ("AutoModelForSequenceClassification",)
    _hub_task = "text-classification"
    _use = '`sequence-encoder predict` or pipeline("text-classification")'
    _loss_function = staticmethod(sequence_classification_loss)

    def _keeps_logit_calibration(self) -> bool:
        return not getattr(self.classifier, "was_initialised", False)

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
    ) -> SequenceClassifierOutput:
        """Classify texts. For the inputs, see `SequenceEncoderModel.forward`.

        Args:
            labels: (B,) classes; (B, C) zeros and ones for `problem_type="multi_label_classification"`; (B,) or (B, C)
                numbers for `"regression"`. If the configuration has no `problem_type`, the first labels set it:
                regression if `num_labels` is 1, otherwise a single label for integers and several labels for other
                dtypes.
            **kwargs: See `ForwardOptions`.

        Returns:
            `loss` and `logits` (B, C).

        Raises:
            ValueError: If inputs or labels are invalid, or a row has several documents.
        """
        shape = batch_shape(input_ids, inputs_embeds)
        if labels is not None and shape is not None:
            # The loss reads it from the configuration, and the next batch has the same kind of labels.
            self.config.problem_type = check_classification_labels(
                labels, self.config.problem_type, self.num_labels, shape[0]
            )
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        outputs = self.model(*inputs, needed=False, return_dict=True, **kwargs)
        logits = calibrated_logits(self._logits(text_vectors(outputs, self)), self.config)
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config, **kwargs)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class SequenceEncoderForTokenClassification(TaskModel):
    """The encoder with a head for token classification, such as named entity recognition."""

    _auto_classes = ("AutoModelForTokenClassification",)
    _hub_task = "token-classification"
    _loss_function = staticmethod(label_loss)
    _pools = False

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
    ) -> TokenClassifierOutput:
        """Classify tokens. For the inputs, see `SequenceEncoderModel.forward`.

        Args:
            labels: (B, S) classes, -100 at tokens to ignore.
            **kwargs: See `ForwardOptions`.

        Returns:
            `loss` and `logits` (B, S, C).

        Raises:
            ValueError: If inputs or labels are invalid.
        """
        shape = batch_shape(input_ids, inputs_embeds)
        if labels is not None and shape is not None:
            check_class_labels("labels", labels, self.num_labels, "num_labels", shape)
        outputs = self.model(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **kwargs
        )
        logits = self._logits(outputs.last_hidden_state)
        loss = None if labels is None else self.loss_function(logits, labels, self.config, **kwargs)
        return TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class SequenceEncoderForQuestionAnswering(EarlierAnsweringMixin, TaskModel):  # type: ignore[misc] # as its base
    """The encoder with a head for extractive question answering, which finds where an answer starts and ends."""

    _auto_classes = ("AutoModelForQuestionAnswering",)
    _hub_task = "question-answering"
    _use = 'pipeline("question-answering", trust_remote_code=True)'
    _loss_function = staticmethod(question_answering_loss)
    _outputs = (2,)
    _pools = False
    _last_layer = "qa_outputs"

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        start_positions: torch.Tensor | None = None,
        end_positions: torch.Tensor | None = None,
        **kwargs: Unpack[ForwardOptions],
    ) -> QuestionAnsweringModelOutput:
        """Find answers. For the inputs, see `SequenceEncoderModel.forward`.

        Args:
            start_positions: (B,) index of the first token of the answer; S or more if it is outside the text.
            end_positions: (B,) index of the last token of the answer; S or more if it is outside the text.
            **kwargs: See `ForwardOptions`.

        Returns:
            `loss`, `start_logits` and `end_logits` (B, S). The logits at padding are the lowest number of the dtype.

        Raises:
            ValueError: If inputs are invalid, positions are negative, or only one of the two is given.
        """
        shape = batch_shape(input_ids, inputs_embeds)
        if (start_positions is None) != (end_positions is None):
            missing = "start_positions" if start_positions is None else "end_positions"
            raise ValueError(f"start_positions and end_positions must be passed together; {missing} is missing.")
        if start_positions is not None and end_positions is not None and shape is not None:
            check_answer_positions("start_positions", start_positions, shape, attention_mask)
            check_answer_positions("end_positions", end_positions, shape, attention_mask)
        outputs = self.model(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **kwargs
        )
        logits = self._logits(outputs.last_hidden_state)
        if (token_mask := real_tokens(attention_mask)) is not None:
            logits = logits.masked_fill(~token_mask[..., None].to(logits.device), torch.finfo(logits.dtype).min)
        start_logits, end_logits = logits.unbind(dim=-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = self.loss_function(
                start_logits, end_logits, start_positions.reshape(-1), end_positions.reshape(-1), **kwargs
            )
        return QuestionAnsweringModelOutput(
            loss=loss,
            start_logits=start_logits.contiguous(),
            end_logits=end_logits.contiguous(),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class SequenceEncoderForMultipleChoice(TaskModel):
    """The encoder with a head for multiple choice, which scores several texts."""

    _auto_classes = ("AutoModelForMultipleChoice",)
    _hub_task = "multiple-choice"
    _has_pipeline = False
    _use = "AutoModelForMultipleChoice, which computes a logit for each choice"
    _loss_function = staticmethod(label_loss)
    _outputs = (1,)

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
    ) -> MultipleChoiceModelOutput:
        """Score choices. For the inputs, see `SequenceEncoderModel.forward`.

        Here, all inputs have a dimension of choices after the batch, (B, choices, S).

        Args:
            labels: (B,) index of the right choice.
            **kwargs: See `ForwardOptions`.

        Returns:
            `loss` and `logits` (B, choices).

        Raises:
            ValueError: If inputs or labels are invalid.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        batch, choices, _ = check_shapes(self.config, *inputs, dimensions=("batch", "choices", "sequence"))
        if labels is not None:
            check_class_labels("labels", labels, choices, "number of choices", (batch,))
        outputs = self.model(
            *(None if tensor is None else tensor.flatten(0, 1) for tensor in inputs),
            needed=False,
            return_dict=True,
            **kwargs,
        )
        logits = self._logits(text_vectors(outputs, self)).view(batch, choices)
        loss = None if labels is None else self.loss_function(logits, labels, **kwargs)
        return MultipleChoiceModelOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
