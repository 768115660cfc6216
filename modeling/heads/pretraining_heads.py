"""Pretraining heads: masked language modelling, alone and with sentence order prediction, and both with bags of words.

Shapes: B batch, S sequence, D hidden, V vocabulary.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_outputs import MaskedLMOutput
from transformers.processing_utils import Unpack
from transformers.utils.generic import ModelOutput, can_return_tuple

from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ...saving.custom_generate import write_custom_generate
from ..attention.masks import real_tokens
from ..checks import batch_shape, has_values, on_host
from ..cpu.dropout import Dropout
from ..cpu.shapes import round_up_tokens
from ..generation.generation import MaskedGenerationMixin
from ..generation.infilling import InfillingMixin
from ..label_checks import IGNORED, check_class_labels, check_label_weights
from ..modeling_sequence_encoder import SequenceEncoderModel
from ..packing import moved
from ..pooling import mean_of_tokens
from ..pretrained_model import SequenceEncoderPreTrainedModel
from .bags_of_words import Bags, BagsOfWordsOptions, take_bags
from .dense_head import HEADS, text_vectors
from .losses import bag_of_words_loss, masked_lm_loss, masked_lm_loss_of_states, sentence_order_loss


class MLPHead(nn.Module):
    """Two dense layers with an activation after each, as in UltraBERT before the vocabulary projection."""

    def __init__(self, config: SequenceEncoderConfig, size: int) -> None:
        super().__init__()
        inner = config.prediction_head_size or config.hidden_size
        self.dense = nn.Linear(config.hidden_size, inner, bias=config.head_bias)
        self.output = nn.Linear(inner, size, bias=config.head_bias)
        self.act = ACT2FN[config.head_act or config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map (..., D) to (..., size)."""
        return self.act(self.output(self.act(self.dense(hidden_states))))


# Those of classifiers, and one more.
PREDICTION_HEADS = {**HEADS, "mlp": MLPHead}


class VocabularyModel(SequenceEncoderPreTrainedModel):
    """Base class of models that predict tokens: the head and the vocabulary projection with tied weights."""

    _tied_weights_keys = {"decoder.weight": "model.embed_tokens.weight"}  # noqa: RUF012
    _tp_plan = {"decoder": "colwise_gather_output"}  # noqa: RUF012
    _fsdp_plan = {"decoder": "keep_full_weight"}  # noqa: RUF012
    _loss_function = staticmethod(masked_lm_loss)
    _saves_recipe = True  # An encoder still embeds texts after further pretraining.
    # Whether labels limit the logits to the labelled tokens in evaluations, too, as they do in training.
    predicts_labels_only = False
    # Whether training with labels returns logits, too, unless `loss_function` was replaced. Without them, a step takes
    # less memory and time.
    returns_training_logits = True

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__(config)
        self.model = SequenceEncoderModel(config, add_pooling_layer=self._pools)
        self.head = PREDICTION_HEADS[config.prediction_head](config, config.prediction_dim)
        self.decoder = nn.Linear(config.prediction_dim, config.vocab_size, bias=config.decoder_bias)

    def get_output_embeddings(self) -> nn.Linear:
        """Return the vocabulary projection."""
        return self.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the vocabulary projection."""
        self.decoder = new_embeddings

    def _check_labels(self, labels: torch.Tensor | None, shape: tuple[int, int] | None) -> None:
        if labels is not None and shape is not None:
            check_class_labels("labels", labels, self.config.vocab_size, "vocab_size", shape)

    def _needed(
        self,
        labels: torch.Tensor | None,
        shape: tuple[int, int] | None,
        label_weights: torch.Tensor | None = None,
    ) -> torch.Tensor | bool:
        """Return the tokens to project to the vocabulary, as the `needed` argument of the encoder, on the host."""
        limited = self.training or self.predicts_labels_only
        if labels is None or shape is None or not limited or not has_values(labels):
            return True
        needed = (labels.long() != IGNORED).view(shape)
        return needed if label_weights is None else needed & (label_weights.to(needed.device).view(shape) != 0)

    def _bag_of_words_loss(
        self,
        bags: Bags | None,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        labels: torch.Tensor | None,
        kwargs: Mapping[str, Any],
    ) -> torch.Tensor | None:
        """Return the loss of predicting tokens from the means of the last hidden states of texts, unweighted."""
        if bags is None:
            return None
        rows = moved(bags.texts.nonzero().squeeze(1), hidden_states.device)
        tokens, real = bags.tokens.to(rows.device)[rows], real_tokens(attention_mask)
        vectors = mean_of_tokens(hidden_states[rows], None if real is None else real.to(rows.device)[rows])
        logits = self.decoder(self.head(vectors.to(hidden_states.dtype)))
        own = None if labels is None else labels.to(rows.device).view(hidden_states.shape[:2])[rows]
        return bag_of_words_loss(logits, tokens, own, kwargs.get("num_items_in_batch"))

    def _predict(
        self,
        hidden_states: torch.Tensor,
        labels: torch.Tensor | None,
        needed: torch.Tensor | bool,
        kwargs: Mapping[str, Any],
        label_weights: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return the logits and the loss. In training, only the n needed tokens have logits, (n, V), or none has."""
        if labels is None:
            return self.decoder(self.head(hidden_states)), None
        labels = labels.to(hidden_states.device, torch.long)
        if label_weights is not None and kwargs.get("num_items_in_batch") is None:
            kwargs = {**kwargs, "num_items_in_batch": (labels != IGNORED).sum()}
        if isinstance(needed, torch.Tensor):
            # Indices from the host, because a mask on an accelerator makes the host wait for the number of tokens.
            places = moved(needed.flatten().nonzero().squeeze(1), hidden_states.device)
            labels = labels.flatten()[places]
            label_weights = None if label_weights is None else moved(label_weights, places.device).flatten()[places]
            # oneDNN compiles and caches kernels for every number of rows. Copies of the first labelled token round the
            # number up, so that it takes few values.
            if extra := round_up_tokens(len(places), hidden_states.dtype, places.device) - len(places):
                places = torch.cat([places, places[:1].expand(extra)])
            hidden_states = hidden_states.flatten(0, 1)[places]
        if label_weights is not None:
            kwargs = {**kwargs, "label_weights": label_weights}
        hidden_states = self.head(hidden_states)
        if self.training and not self.returns_training_logits and self.loss_function is masked_lm_loss:
            return None, masked_lm_loss_of_states(self.decoder, hidden_states, labels, **kwargs)
        logits = self.decoder(hidden_states)
        if isinstance(needed, torch.Tensor):
            logits = logits[: len(labels)]
        return logits, self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)


class MaskedLMOptions(BagsOfWordsOptions, total=False):
    """Keyword arguments of `SequenceEncoderForMaskedLM.forward`.

    `label_weights` is not a named argument there, because `Trainer` evaluates only if a batch has all named arguments
    with "label" in their names.
    """

    label_weights: torch.Tensor | None
    """(B, S) factors of the losses of the labels."""


@dataclass
class SequenceEncoderMaskedLMOutput(MaskedLMOutput):
    """Output of `SequenceEncoderForMaskedLM`: that of transformers, and one more loss.

    Attributes:
        bow_loss: The loss of predicting the tokens of texts from their vectors, unweighted. `loss` includes it.
    """

    bow_loss: torch.Tensor | None = None


class SequenceEncoderForMaskedLM(MaskedGenerationMixin, InfillingMixin, VocabularyModel):  # type: ignore[misc] # differing `generate`
    """The encoder with a masked language modelling head (Devlin et al., 2019), which can also write."""

    # The second one is that of the "text-generation" pipeline.
    _auto_classes = ("AutoModelForMaskedLM", "AutoModelForCausalLM")
    _hub_task = "fill-mask"
    _use = 'pipeline("fill-mask") or `infill`'
    _pools = False

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__(config)
        self.post_init()

    def _write_beside(self, folder: Path, there: Path) -> None:
        super()._write_beside(folder, there)
        write_custom_generate(folder)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[MaskedLMOptions],
    ) -> SequenceEncoderMaskedLMOutput:
        """Predict tokens. For the inputs, see `SequenceEncoderModel.forward`.

        Args:
            labels: (B, S) token ids, -100 at tokens to ignore.
            **kwargs: See `BagsOfWordsOptions`. `label_weights` (B, S) are factors of the losses of the labels, such as
                1 / t at masked tokens and 0 elsewhere with the masking rate t of a text in masked diffusion (Sahoo et
                al., 2024). The loss is then the weighted sum divided by the number of labels, which includes those
                with a weight of 0.

        Returns:
            `loss` and `logits` (B, S, V). In training with labels, `logits` has only the labelled tokens,
            (labelled tokens, V), row by row, without those with a weight of 0, or is None if
            `returns_training_logits` is False.

        Raises:
            ValueError: If the inputs are invalid, or labels are outside the vocabulary or have the wrong shape, or the
                weights do not match them.
        """
        label_weights = kwargs.pop("label_weights", None)
        shape = batch_shape(input_ids, inputs_embeds)
        known = on_host(labels)
        self._check_labels(known, shape)
        check_label_weights(label_weights, labels)
        bags = take_bags(self, shape, attention_mask, position_ids, kwargs)
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        needed = self._needed(known, shape, label_weights)
        outputs = self.model(*inputs, needed=bags.with_texts(needed) if bags else needed, return_dict=True, **kwargs)
        states = outputs.last_hidden_state
        logits, loss = self._predict(states, labels, needed, kwargs, label_weights)
        bow_loss = self._bag_of_words_loss(bags, states, attention_mask, labels, kwargs)
        return SequenceEncoderMaskedLMOutput(
            loss=_weighted_sum((1, loss), (bags.weight if bags else 0, bow_loss)),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            bow_loss=bow_loss,
        )


@dataclass
class SequenceEncoderForPreTrainingOutput(ModelOutput):
    """Output of `SequenceEncoderForPreTraining`.

    Attributes:
        loss: The weighted sum of the losses.
        prediction_logits: The logits of `SequenceEncoderForMaskedLM`, or None if it has none.
        sop_logits: (B, 2), the logits of segments in order and swapped.
        hidden_states: The input of every layer and the output of the last, if requested.
        attentions: The attention weights of every layer, if requested.
        mlm_loss: The loss of masked language modelling, unweighted.
        sop_loss: The loss of sentence order prediction, unweighted.
        bow_loss: The loss of predicting the tokens of texts from their vectors, unweighted.
    """

    loss: torch.Tensor | None = None
    prediction_logits: torch.Tensor | None = None
    sop_logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    mlm_loss: torch.Tensor | None = None
    sop_loss: torch.Tensor | None = None
    bow_loss: torch.Tensor | None = None


class SequenceEncoderForPreTraining(VocabularyModel):
    """The encoder with heads for masked language modelling and sentence order prediction (Lan et al., 2020)."""

    _auto_classes = ("AutoModelForPreTraining",)
    _hub_task = "fill-mask"
    _has_pipeline = False
    _use = 'pipeline("fill-mask")'
    _offers = ("SequenceEncoderForMaskedLM",)
    _outputs = (2,)

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__(config)
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
        **kwargs: Unpack[BagsOfWordsOptions],
    ) -> SequenceEncoderForPreTrainingOutput:
        """Predict masked tokens and the order of segments. For the inputs, see `SequenceEncoderModel.forward`.

        Args:
            labels: (B, S) token ids, -100 at tokens to ignore.
            sentence_order_label: (B,), 0 if the segments are in order, 1 if they are swapped, -100 if there is only one
                segment.
            mlm_weight: The weight of the masked language modelling loss. With 0, no tokens are predicted, and `labels`
                only determine the weight of each text.
            sop_weight: The weight of the sentence order loss.
            **kwargs: See `BagsOfWordsOptions`.

        Returns:
            The logits of both heads, the losses for which there are labels, and their weighted sum.

        Raises:
            ValueError: If inputs or labels are invalid, or a row has several documents.
        """
        if kwargs.get("label_weights") is not None:
            raise ValueError("label_weights, as in masked diffusion, needs SequenceEncoderForMaskedLM.")
        shape = batch_shape(input_ids, inputs_embeds)
        known = on_host(labels)
        self._check_labels(known, shape)
        if sentence_order_label is not None and shape is not None:
            check_class_labels("sentence_order_label", sentence_order_label, 2, "in order, swapped", shape[:1])
        bags = take_bags(self, shape, attention_mask, position_ids, kwargs)
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        needed = self._needed(known, shape) if mlm_weight or labels is None else False
        outputs = self.model(*inputs, needed=bags.with_texts(needed) if bags else needed, return_dict=True, **kwargs)
        states = outputs.last_hidden_state
        sop_logits = self.sop_classifier(self.dropout(text_vectors(outputs, self)))
        logits, mlm_loss, sop_loss = None, None, None
        if needed is not False:
            logits, mlm_loss = self._predict(states, labels, needed, kwargs)
        if sentence_order_label is not None:
            sop_loss = sentence_order_loss(sop_logits, sentence_order_label, labels, **kwargs)
        bow_loss = self._bag_of_words_loss(bags, states, attention_mask, labels, kwargs)
        return SequenceEncoderForPreTrainingOutput(
            loss=_weighted_sum((mlm_weight, mlm_loss), (sop_weight, sop_loss), (bags.weight if bags else 0, bow_loss)),
            prediction_logits=logits,
            sop_logits=sop_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            mlm_loss=mlm_loss,
            sop_loss=sop_loss,
            bow_loss=bow_loss,
        )


def _weighted_sum(*terms: tuple[float, torch.Tensor | None]) -> torch.Tensor | None:
    """Return the weighted sum of the losses that are not None, or None if all of them are."""
    weighted = [loss if weight == 1 else weight * loss for weight, loss in terms if loss is not None]
    return functools.reduce(torch.add, weighted) if weighted else None
