"""Zero-shot classification: compares a text with labels that are a part of the input, as in GLiClass.

The definitions are those of GLiClass (Stepanov et al., 2025, https://arxiv.org/abs/2508.07662) and of its package
(https://github.com/Knowledgator/GLiClass, gliclass/model.py).

Shapes: B batch, S sequence, D hidden, C labels.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils.generic import can_return_tuple
from transformers.utils.import_utils import is_tracing

from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ...configuration.zero_shot_classification_field import (
    ZeroShotClassificationFields,
    complete_zero_shot_classification,
    zero_shot_classification_fields,
)
from ..attention.masks import real_tokens
from ..checks import batch_shape, check_integers
from ..cpu.dropout import Dropout
from ..forward_options import ForwardOptions
from ..label_checks import IGNORED, check_zero_shot_labels
from ..modeling_sequence_encoder import SequenceEncoderModel
from ..pretrained_model import SequenceEncoderPreTrainedModel
from .dense_head import text_vectors
from .label_prompts import LabelPromptMixin
from .label_scorers import LABEL_SCORERS
from .losses import zero_shot_classification_loss

# Where the factor of normalised scores starts, as in CLIP.
_LOGIT_SCALE = 2.6592


class FeatureProjection(nn.Module):
    """Two linear layers with an activation between them.

    Args:
        config: The configuration.
        fields: What its field `zero_shot_classification` holds.
    """

    def __init__(self, config: SequenceEncoderConfig, fields: ZeroShotClassificationFields) -> None:
        super().__init__()
        inner = fields.hidden_size or config.hidden_size
        self.up_proj = nn.Linear(config.hidden_size, inner)
        self.act = ACT2FN[fields.act]
        self.dropout = Dropout(fields.dropout)
        self.down_proj = nn.Linear(inner, config.hidden_size)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Map (..., D) to (..., D)."""
        projected: torch.Tensor = self.down_proj(self.dropout(self.act(self.up_proj(vectors))))
        return projected


class SequenceEncoderForZeroShotClassification(  # type: ignore[misc] # wraps `push_to_hub`
    LabelPromptMixin, SequenceEncoderPreTrainedModel
):
    """The encoder with a head for zero-shot classification, which scores any labels in one pass (GLiClass).

    A text comes after its labels or before them, and each label follows a token that the configuration names.
    `label_prompts` prepares these inputs.
    """

    _auto_classes = ("AutoModelForSequenceClassification",)
    _by_architecture = True
    _hub_task = "zero-shot-classification"
    _use = '`sequence-encoder predict --labels` or pipeline("zero-shot-classification")'
    _loss_function = staticmethod(zero_shot_classification_loss)

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__(config)
        config.zero_shot_classification = complete_zero_shot_classification(config)
        self.fields = fields = zero_shot_classification_fields(config)
        self.model = SequenceEncoderModel(config)
        self.text_projection = FeatureProjection(config, fields)
        self.label_projection = FeatureProjection(config, fields)
        self.dropout = Dropout(fields.dropout)
        self.scorer = LABEL_SCORERS[fields.scorer](config.hidden_size, fields.dropout)
        self.logit_scale = nn.Parameter(torch.tensor(_LOGIT_SCALE)) if fields.normalize else None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self and self.logit_scale is not None:
            init.constant_(self.logit_scale, _LOGIT_SCALE)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        class_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[ForwardOptions],
    ) -> SequenceClassifierOutput:
        """Compare texts with their labels. For the other inputs, see `SequenceEncoderModel.forward`.

        Args:
            class_ids: (B, S) number of the label that each token belongs to, from 1; 0 if it belongs to no label. By
                default, a label starts at each token with the id `label_token_id` of the configuration. Without such an
                id, the first token is the only label.
            labels: (B, C) floating, 1 for each label that fits the text, 0 for others and -100 for those to ignore; or
                (B,) the index of the only one that fits.
            **kwargs: See `ForwardOptions`.

        Returns:
            `loss` and `logits` (B, C), where C is the largest number of labels of a text. If a text has fewer, its
            logits end with the lowest number of the dtype.

        Raises:
            ValueError: If inputs or labels are invalid, no text has labels, or a row has several documents.
        """
        shape = batch_shape(input_ids, inputs_embeds)
        numbers, count = torch.empty(0), 0
        if shape is not None:
            numbers = self._label_ids(input_ids, shape, attention_mask) if class_ids is None else class_ids
            count = self._count_labels(numbers, shape, labels)
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        outputs = self.model(*inputs, needed=numbers > 0, return_dict=True, **kwargs)
        numbers = numbers.to(outputs.last_hidden_state.device)
        texts = self.dropout(self.text_projection(text_vectors(outputs, self)))
        logits = self._logits(texts, self.label_projection(self._label_vectors(outputs[0], numbers, count)))
        given = torch.arange(count, device=numbers.device) < numbers.amax(dim=1, keepdim=True)
        logits = logits.masked_fill(~given, torch.finfo(logits.dtype).min)
        loss = None
        if labels is not None:
            targets = labels.to(given.device)
            targets = targets.masked_fill(~given, IGNORED) if labels.dim() == 2 else targets
            loss = self.loss_function(logits, targets, **kwargs)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def _label_ids(
        self, input_ids: torch.Tensor | None, shape: tuple[int, int], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the number of the label of each token, (B, S). The last label of a text ends where the text does."""
        mask, token = real_tokens(attention_mask), self.fields.label_token_id
        real = torch.ones(shape, dtype=torch.long, device=self.device) if mask is None else mask.expand(shape).long()
        if token is None:
            return (real.cumsum(dim=1) == 1).long() * real
        if input_ids is None:
            raise ValueError("inputs_embeds needs class_ids, which say where the labels are.")
        return (input_ids == token).to(real.device).cumsum(dim=1) * real

    def _count_labels(self, numbers: torch.Tensor, shape: tuple[int, int], labels: torch.Tensor | None) -> int:
        """Check the numbers of the labels of tokens, and return the largest number of labels of a text."""
        check_integers("class_ids", numbers)
        if tuple(numbers.shape) != shape:
            raise ValueError(f"class_ids must have shape {shape}, got {tuple(numbers.shape)}.")
        # While a graph is recorded, the number is not known, and cannot exceed that of the tokens.
        count = shape[1] if is_tracing(numbers) else int(numbers.max()) if numbers.numel() else 0
        if not 0 < count <= shape[1]:
            raise ValueError(
                f"Texts must have labels, each after the token {self.fields.label_token_id}, got {count} labels in "
                f'{shape[1]} tokens. Use `label_prompts` or pipeline("zero-shot-classification"), which add them.'
            )
        if labels is not None:
            check_zero_shot_labels(labels, (shape[0], count))
        return count

    def _label_vectors(self, hidden_states: torch.Tensor, numbers: torch.Tensor, count: int) -> torch.Tensor:
        """Return the vector of each label, (B, C, D); 0 for labels without tokens."""
        labels = torch.arange(1, count + 1, device=numbers.device)[:, None]
        belongs = numbers[:, None] == labels
        places = torch.arange(numbers.shape[1], device=numbers.device)
        first = belongs.int().argmax(dim=-1, keepdim=True)
        if self.fields.label_pooling == "mean":
            read = belongs if self.fields.reads_label_token else belongs & (places != first)
        else:
            # Or the first token of the label itself.
            read = belongs.any(dim=-1, keepdim=True) & (places == first + int(not self.fields.reads_label_token))
        weights = read.to(hidden_states.dtype)
        return weights @ hidden_states / weights.sum(dim=-1, keepdim=True).clamp(min=1)

    def _logits(self, texts: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.logit_scale is None:
            logits: torch.Tensor = self.scorer(texts, labels)
            return logits
        scores: torch.Tensor = self.scorer(F.normalize(texts, dim=-1), F.normalize(labels, dim=-1))
        return scores * self.logit_scale
