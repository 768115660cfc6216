"""A frozen pretrained encoder with a trained linear classifier: the cheapest way from an encoder to a task.

Shapes: B batch, S sequence, D hidden, C classes.
"""

import inspect
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ...configuration.configuration_task_adapter import TaskAdapterConfig
from ...saving.loading import LoadedSafely
from ...saving.saving import SavedWithCard
from ..attention.masks import mask_of_padding, real_tokens
from ..checks import check_classification_labels, check_floating_mask, check_num_labels, check_tensor
from ..modeling_sequence_encoder import SequenceEncoderModel
from ..pooling import POOLINGS
from ..text_encoding.recipe_files import recipe_of
from ..text_encoding.text_pooling import check_pooling
from .losses import sequence_classification_loss


class TaskAdapter(LoadedSafely, SavedWithCard, PreTrainedModel):  # type: ignore[misc] # wraps `push_to_hub`
    """A frozen encoder, one vector for each text, and a linear classifier, which is all that is trained.

    The encoder stays in evaluation mode whatever `train()` says, and gets no gradients. Its vectors of a text are
    always the same, so that `features` can be kept and given instead of the text (`train_adapted_model` does).

    ```python
    >>> from transformers import AutoModel
    >>> from sequence_encoder import TaskAdapter
    >>> encoder = AutoModel.from_pretrained("…")  # doctest: +SKIP
    >>> adapter = TaskAdapter(encoder, num_classes=3)  # doctest: +SKIP

    ```

    Args:
        encoder: a pretrained encoder of any family, of a model with a head its base; or a configuration, for random
            weights.
        num_classes: how many classes there are, 1 for a regression; by default those of the configuration.
        pooling: `mean` over the tokens of a text, or its first token, `cls`; by default as the folder of the encoder or
            the configuration says.
        id2label: names of the classes.

    Raises:
        ValueError: for an encoder that is none, a number of classes that is not positive, or a pooling that is neither.
    """

    config_class = TaskAdapterConfig
    config: TaskAdapterConfig
    base_model_prefix = "encoder"
    _loss_function = staticmethod(sequence_classification_loss)
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(
        self,
        encoder: PreTrainedModel | TaskAdapterConfig,
        num_classes: int | None = None,
        pooling: str | None = None,
        id2label: dict[int, str] | None = None,
    ) -> None:
        if isinstance(encoder, TaskAdapterConfig):
            config, base = encoder, None
        else:
            base = _base_of(encoder)
            config = TaskAdapterConfig(encoder_config=base.config)
            if pooling is None and (recipe := recipe_of(base)) is not None:
                pooling = recipe.single_pooling
        _set_classes(config, num_classes, id2label)
        if pooling is not None:
            check_pooling(pooling, tuple(POOLINGS))
            config.pooling = cast(Any, pooling)
        super().__init__(config)
        num_labels = check_num_labels(type(self).__name__, config)
        self.encoder = _from_config(config.encoder_config) if base is None else base
        self.encoder.requires_grad_(False).eval()
        self.pool = POOLINGS[config.pooling]
        self.classifier = nn.Linear(self.encoder.config.hidden_size, num_labels)
        # Not all encoders know segments.
        self._takes_segments = "token_type_ids" in inspect.signature(self.encoder.forward).parameters
        if base is not None:
            for module in base.modules():
                # What has weights is not to be initialised, also where it was not transformers that loaded them.
                cast(Any, module)._is_hf_initialized = True
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, from safetensors alone, and with the encoder frozen."""
        loaded = super().from_pretrained(*args, **kwargs)
        # Loading has put new parameters in place of those that were frozen.
        (loaded[0] if isinstance(loaded, tuple) else loaded).encoder.requires_grad_(False)
        return loaded

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The classifier as BERT's starts. The encoder looks after itself."""
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, mean=0.0, std=0.02)
            init.zeros_(module.bias)

    def train(self, mode: bool = True) -> "TaskAdapter":
        """Sets the mode of the classifier; the encoder stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    @torch.no_grad()
    def features(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """The vectors of texts, (B, D), without gradients.

        Args:
            input_ids: (B, S).
            attention_mask: (B, S), zero at padding; by default, zero at the `pad_token_id` of the encoder's
                configuration, if it has one.
            token_type_ids: (B, S); left out where the encoder knows no segments.
            kwargs: of the encoder.

        Raises:
            ValueError: for a floating mask that is meant to be added to the scores.
        """
        if token_type_ids is not None and self._takes_segments:
            kwargs["token_type_ids"] = token_type_ids
        if attention_mask is not None:
            check_floating_mask(attention_mask)
        else:
            attention_mask = mask_of_padding(input_ids, self.encoder.config.pad_token_id)
        outputs = self.encoder(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **kwargs)
        hidden_states = outputs.last_hidden_state
        token_mask = real_tokens(attention_mask)
        return self.pool(hidden_states, None if token_mask is None else token_mask.to(hidden_states.device))

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Classifies texts, or their `features`.

        Args:
            input_ids: (B, S).
            attention_mask: (B, S), as of `features`.
            token_type_ids: (B, S).
            features: (B, D) instead of the text, as the method of that name gives them.
            labels: as of `SequenceEncoderForSequenceClassification`.
            num_items_in_batch: over what the loss is averaged, where `Trainer` says so.
            kwargs: of the encoder.

        Returns:
            `loss` and `logits` (B, C).

        Raises:
            ValueError: for bad labels or features, and for both a text and features.
        """
        if features is not None:
            self._check_features(features, input_ids)
        texts = input_ids if features is None else features
        if labels is not None and texts is not None:
            # The loss reads it there, and the next batch has the same kind of labels.
            self.config.problem_type = check_classification_labels(
                labels, self.config.problem_type, self.classifier.out_features, len(texts)
            )
        if features is None:
            features = self.features(input_ids, attention_mask, token_type_ids, **kwargs)
        logits = self.classifier(features.to(self.classifier.weight.dtype))
        loss = None
        if labels is not None:
            loss = self.loss_function(
                labels=labels, pooled_logits=logits, config=self.config, num_items_in_batch=num_items_in_batch
            )
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _check_features(self, features: torch.Tensor, input_ids: torch.Tensor | None) -> None:
        if input_ids is not None:
            raise ValueError("features stand for a text that was encoded; give them or input_ids, got both.")
        check_tensor("features", features)
        channels = self.classifier.in_features
        if features.dim() != 2 or features.shape[1] != channels:
            raise ValueError(f"features must have shape (batch, {channels}), got {tuple(features.shape)}.")


def _base_of(encoder: PreTrainedModel) -> PreTrainedModel:
    """The encoder without a head.

    Raises:
        ValueError: if it is no encoder of texts.
    """
    if not isinstance(encoder, PreTrainedModel):
        raise ValueError(f"encoder must be a model of transformers, got a {type(encoder).__name__}.")
    base = cast(PreTrainedModel, encoder.base_model)
    if base.config.is_encoder_decoder or not hasattr(base.config, "hidden_size"):
        raise ValueError(f"encoder must be one of texts alone, got a {type(base).__name__}.")
    return base


def _from_config(config: PreTrainedConfig | dict[str, Any] | None) -> PreTrainedModel:
    if not isinstance(config, PreTrainedConfig):
        raise ValueError(f"encoder_config must be the configuration of an encoder, got {config!r}.")
    # Where this package is not installed, AutoModel does not know its own encoder.
    if isinstance(config, SequenceEncoderConfig):
        return SequenceEncoderModel._from_config(config)
    return cast(PreTrainedModel, AutoModel.from_config(config))


def _set_classes(config: TaskAdapterConfig, num_classes: int | None, id2label: dict[int, str] | None) -> None:
    if num_classes is not None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
        config.num_labels = num_classes
    if id2label is not None:
        if num_classes not in (None, len(id2label)):
            raise ValueError(f"id2label must name num_classes={num_classes} classes, got {len(id2label)}.")
        config.id2label = dict(id2label)
        config.label2id = {name: index for index, name in id2label.items()}
