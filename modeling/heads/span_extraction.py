"""Zero-shot span extraction: scores the spans of a text for labels that are a part of the input, as in GLiNER.

The definitions are those of GLiNER (Zaratiana et al., 2024, https://arxiv.org/abs/2311.08526) and of its package
(https://github.com/urchade/GLiNER, gliner/modeling).

Shapes: B batch, S sequence, D hidden, W words, C labels, K widths of spans, E entities.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils.generic import ModelOutput, can_return_tuple

from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ...configuration.span_extraction_field import complete_span_extraction, span_extraction_fields
from ..attention.masks import real_tokens
from ..extraction.extracting import ExtractionMixin
from ..extraction.label_encoder import LabelEncoder, read_label_tokenizer, write_label_tokenizer
from ..extraction.span_scores import SpanScorer
from ..extraction.token_scores import TokenScorer
from ..extraction.word_vectors import counts_of, first_vectors, numbered_together, recurrent
from ..forward_options import ForwardOptions
from ..label_checks import check_entity_labels, check_numbers
from ..modeling_sequence_encoder import SequenceEncoderModel
from ..pretrained_model import SequenceEncoderPreTrainedModel
from .losses import span_extraction_loss


@dataclass
class SpanExtractionOutput(ModelOutput):
    """The outputs of `SequenceEncoderForSpanExtraction`.

    Attributes:
        loss: The loss, if there are labels.
        logits: (B, W, K, C) for each first word, number of words and label; or, if the head scores tokens,
            (B, W, C, 3) for each word and label: whether it is the first, the last, or any word of an entity. The
            lowest number of the dtype where a text has no such span or label.
        last_hidden_state: (B, S, D), those of the encoder, as sentence-transformers needs them of the models that
            `AutoModel` loads; None if there are labels, because a `Trainer` would collect them.
        hidden_states: The hidden states of the encoder, if they are asked for.
        attentions: The attention weights of the encoder, if they are asked for.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class SequenceEncoderForSpanExtraction(ExtractionMixin, SequenceEncoderPreTrainedModel):  # type: ignore[misc] # wraps `push_to_hub`
    """The encoder with a head for zero-shot span extraction, such as entities with any labels (GLiNER).

    A text follows its labels, and each label follows a token whose vector stands for it; or a separate encoder reads
    the labels. `extract` prepares these inputs, and splits long texts into windows.
    """

    _auto_classes = ("AutoModel",)
    _by_architecture = True
    _hub_task = "token-classification"
    _has_pipeline = False
    _use = '`sequence-encoder extract`, its method `extract` or pipeline("zero-shot-entities")'
    _loss_function = staticmethod(span_extraction_loss)
    _pools = False

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__(config)
        config.span_extraction = complete_span_extraction(config)
        fields = span_extraction_fields(config)
        size = config.span_extraction["hidden_size"]
        self.model = SequenceEncoderModel(config, add_pooling_layer=False)
        self.projection = None if size == config.hidden_size else nn.Linear(config.hidden_size, size)
        self.recurrent = None
        if fields.num_recurrent_layers:
            self.recurrent = nn.LSTM(size, size // 2, fields.num_recurrent_layers, bidirectional=True)
        if fields.scoring == "spans":
            self.scorer: SpanScorer | TokenScorer = SpanScorer(size, fields.max_width, fields.dropout)
        else:
            self.scorer = TokenScorer(size, fields.dropout)
        self.label_encoder = None
        if fields.label_encoder is not None:
            self.label_encoder = LabelEncoder(type(config)(**fields.label_encoder), size)
        self.post_init()

    def _read_beside(self, name: str | os.PathLike[str], options: dict[str, Any]) -> None:
        super()._read_beside(name, options)
        if self.label_encoder is not None:
            self.label_tokenizer = read_label_tokenizer(name, options)

    def _write_beside(self, folder: Path, there: Path) -> None:
        super()._write_beside(folder, there)
        write_label_tokenizer(self.label_tokenizer, folder)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise the head for ReLUs (He et al., 2015), whatever the configuration says for the encoder.

        A score is a product of vectors from two and three layers. With smaller weights, it does not depend on the label
        at first, and training takes long to leave this state.
        """
        super()._init_weights(module)
        if isinstance(module, nn.Linear) and any(module is layer for layer in self.scorer.modules()):
            init.xavier_uniform_(module.weight, gain=2**0.5)

    # Trainer takes all inputs with "label" in their names for targets, and evaluates no loss if one is missing.
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        word_ids: torch.Tensor | None = None,
        class_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        class_input_ids: torch.Tensor | None = None,
        class_attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[ForwardOptions],
    ) -> SpanExtractionOutput:
        """Score the spans of texts. For the other inputs, see `SequenceEncoderModel.forward`.

        Args:
            word_ids: (B, S) number of the word of each token, from 1; 0 for tokens of no word. By default, each real
                token is a word.
            class_ids: (B, S) number of the label of each token whose vector stands for a label, from 1; 0 for all
                others. By default, the first token stands for the only label.
            labels: (B, E, 3) first word, last word and label of each entity, from 0; -100 for rows of no entity.
            class_input_ids: (C, T) token ids of the labels of all texts, if a separate encoder reads them.
            class_attention_mask: (C, T), 0 at padding.
            **kwargs: See `ForwardOptions`.

        Returns:
            See `SpanExtractionOutput`.

        Raises:
            ValueError: If inputs or labels are invalid.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        outputs = self.model(*inputs, return_dict=True, **kwargs)
        word_ids, class_ids = self._numbers(outputs.last_hidden_state, attention_mask, word_ids, class_ids)
        num_words, num_labels = counts_of(word_ids), counts_of(class_ids)
        label_vectors = None
        if self.label_encoder is not None and class_input_ids is not None and class_attention_mask is not None:
            label_vectors = self.label_encoder(class_input_ids, class_attention_mask)
            num_labels = [len(label_vectors)] * len(num_words)
        if labels is not None:
            check_entity_labels(labels, num_words, num_labels)
        hidden_states = outputs.last_hidden_state.flatten(0, 1)
        scores = self.scores(
            hidden_states,
            (numbered_together(word_ids, num_words), num_words),
            (numbered_together(class_ids, num_labels), num_labels),
            label_vectors,
        )
        loss = None
        if labels is not None:
            entities = [[entity for entity in text if entity[0] >= 0] for text in labels.tolist()]
            targets = [self.scorer.targets(*pair) for pair in zip(scores, entities, strict=True)]
            loss = self.loss_function(scores, targets, labels, **kwargs)
        return SpanExtractionOutput(
            loss=loss,
            logits=_stacked(scores),
            last_hidden_state=outputs.last_hidden_state if labels is None else None,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def scores(
        self,
        hidden_states: torch.Tensor,
        words: tuple[torch.Tensor, list[int]],
        labels: tuple[torch.Tensor, list[int]],
        vectors: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """Score the spans of texts from the vectors of their T tokens.

        Args:
            hidden_states: (T, D), those of one text after those of another.
            words: (T,) number of the word of each token among those of all texts, from 1, or 0; and the number of words
                of each text.
            labels: The same for the labels.
            vectors: (C, D) of the labels of all texts, if a separate encoder has read them.

        Returns:
            (W, K, C) or (W, C, 3) for each text, see `SpanExtractionOutput`.
        """
        (of_words, num_words), (of_labels, num_labels) = words, labels
        word_vectors = self._projected(first_vectors(hidden_states, of_words, sum(num_words)))
        if vectors is None:
            label_vectors = self._projected(first_vectors(hidden_states, of_labels, sum(num_labels)))
        else:
            label_vectors = vectors.repeat(len(num_words), 1)
        if self.recurrent is not None:
            word_vectors = recurrent(self.recurrent, word_vectors, num_words)
        return self._scaled(self.scorer(word_vectors, label_vectors, num_words, num_labels))

    def _scaled(self, scores: list[torch.Tensor]) -> list[torch.Tensor]:
        """Apply the scale and the offset of a calibration. The lowest number, for what a text does not have, stays."""
        fields = span_extraction_fields(self.config)
        scale, offset = fields.logit_scale, fields.logit_offset
        if scale == 1 and offset == 0:
            return scores
        lowest = torch.finfo(scores[0].dtype).min
        return [(text * scale + offset).masked_fill(text == lowest, lowest) for text in scores]

    def _projected(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors if self.projection is None else self.projection(vectors)

    def _numbers(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        word_ids: torch.Tensor | None,
        class_ids: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the numbers of the words and labels of all tokens, see `forward`."""
        shape, device = hidden_states.shape[:2], hidden_states.device
        if word_ids is None:
            mask = real_tokens(attention_mask)
            real = (torch.ones(shape, device=device) if mask is None else mask.expand(shape)).long()
            word_ids = real.cumsum(dim=1) * real
        if class_ids is None:
            class_ids = torch.zeros(shape, dtype=torch.long, device=word_ids.device)
            class_ids[:, 0] = 1
        check_numbers("word_ids", word_ids, shape)
        check_numbers("class_ids", class_ids, shape)
        return word_ids, class_ids


def _stacked(scores: list[torch.Tensor]) -> torch.Tensor:
    """Return the scores of all texts in one tensor, with the lowest number at padding."""
    sizes = [max(text.shape[axis] for text in scores) for axis in range(3)]
    lowest = torch.finfo(scores[0].dtype).min
    # From the last axis to the first, as `F.pad` takes them.
    missing = ([part for axis in (2, 1, 0) for part in (0, sizes[axis] - text.shape[axis])] for text in scores)
    return torch.stack([F.pad(text, each, value=lowest) for text, each in zip(scores, missing, strict=True)])
