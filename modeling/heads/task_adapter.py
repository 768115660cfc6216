"""A linear classifier on a frozen pretrained encoder: the cheapest way to adapt an encoder to a task.

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
from ...data.argument_checks import check_count
from ...saving.atomic_saving import ModelSavingMixin
from ...saving.loading import SafeModelLoadingMixin
from ...saving.written_for import EIGHT_BITS
from ..attention.masks import mask_of_padding, real_tokens
from ..checks import check_floating_mask, check_tensor
from ..given_weights import keep_weights
from ..label_checks import check_classification_labels, check_num_labels
from ..modeling_sequence_encoder import SequenceEncoderModel
from ..pooling import CONFIGURABLE_POOLINGS, POOLINGS, check_pooling
from ..text_encoding.recipe_files import recipe_of
from .losses import sequence_classification_loss


class TaskAdapter(SafeModelLoadingMixin, ModelSavingMixin, PreTrainedModel):  # type: ignore[misc] # wraps `push_to_hub`
    """A frozen encoder with one vector per text and a linear classifier. Only the classifier is trained.

    The encoder gets no gradients, and stays in evaluation mode even after `train()`. It therefore always returns the
    same vector for a text, so callers can store `features` and pass them instead of the text, as `train_adapted_model`
    does.

    ```python
    >>> from transformers import AutoModel
    >>> from sequence_encoder import TaskAdapter
    >>> encoder = AutoModel.from_pretrained("…")  # doctest: +SKIP
    >>> adapter = TaskAdapter(encoder, num_classes=3)  # doctest: +SKIP

    ```

    Args:
        encoder: A pretrained encoder of any family, or a configuration for random weights. If the model has a head,
            only its base model is used.
        num_classes: The number of classes, or 1 for regression; by default the number in the configuration.
        pooling: `mean` for the mean over the tokens of a text, or `cls` for its first token. Defaults to the
            sentence-transformers settings of the encoder's folder, or else to the configuration.
        id2label: The names of the classes.

    Raises:
        ValueError: If the encoder is not a text-only model, `num_classes` is not positive, or `pooling` is not one of
            the choices.
    """

    _auto_classes = ("AutoModelForSequenceClassification",)
    _hub_task = "text-classification"
    config_class = TaskAdapterConfig
    config: TaskAdapterConfig
    base_model_prefix = "encoder"
    # Cannot be calibrated. By this attribute, our pipelines know that they must refuse what needs a calibration.
    calibration = None
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
            check_pooling(pooling, CONFIGURABLE_POOLINGS)
            config.pooling = cast(Any, pooling)
        super().__init__(config)
        self.num_labels = check_num_labels(type(self).__name__, config)
        self.encoder = _from_config(config.encoder_config) if base is None else base
        self.encoder.requires_grad_(False).eval()
        self.pool = POOLINGS[config.pooling]
        self.classifier = nn.Linear(self.encoder.config.hidden_size, self.num_labels)
        # Not all encoders have segments.
        self._takes_segments = "token_type_ids" in inspect.signature(self.encoder.forward).parameters
        if base is not None:
            keep_weights(base)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a model with a frozen encoder, see `SequenceEncoderPreTrainedModel.from_pretrained`."""
        loaded = super().from_pretrained(*args, **kwargs)
        # Loading replaces the frozen parameters by new ones.
        (loaded[0] if isinstance(loaded, tuple) else loaded).encoder.requires_grad_(False)
        return loaded

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise the classifier as in BERT. The encoder initialises itself."""
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, mean=0.0, std=0.02)
            init.zeros_(module.bias)

    def train(self, mode: bool = True) -> "TaskAdapter":
        """Set the mode of the classifier. The encoder stays in evaluation mode."""
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
        """Compute the vectors of texts, (B, D), without gradients.

        Args:
            input_ids: (B, S).
            attention_mask: (B, S), 0 at padding; by default 0 at the `pad_token_id` of the encoder's configuration, if
                it has one.
            token_type_ids: (B, S). Ignored if the encoder has no segments.
            **kwargs: Keyword arguments of the encoder.

        Raises:
            ValueError: If the values of a floating mask are invalid.
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
        token_mask = None if token_mask is None else token_mask.to(hidden_states.device)
        return self.pool(hidden_states, token_mask).to(hidden_states.dtype)

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
        """Classify texts, or their `features`.

        Args:
            input_ids: (B, S).
            attention_mask: (B, S), see `features`.
            token_type_ids: (B, S).
            features: (B, D) vectors from the method `features`, instead of texts.
            labels: See `SequenceEncoderForSequenceClassification`.
            num_items_in_batch: The divisor of the loss, which `Trainer` passes; by default the number of labels.
            **kwargs: Keyword arguments of the encoder.

        Returns:
            `loss` and `logits` (B, C).

        Raises:
            ValueError: If labels or features are invalid, or both texts and features are given.
        """
        if features is not None:
            self._check_features(features, input_ids)
        texts = input_ids if features is None else features
        if labels is not None and texts is not None:
            # The loss reads it from the configuration, and the next batch has the same kind of labels.
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
            raise ValueError("Exactly one of features and input_ids is needed, got both.")
        check_tensor("features", features)
        channels = self.classifier.in_features
        if features.dim() != 2 or features.shape[1] != channels:
            raise ValueError(f"features must have shape (batch, {channels}), got {tuple(features.shape)}.")


def _base_of(encoder: PreTrainedModel) -> PreTrainedModel:
    """Return the encoder without a head.

    Raises:
        ValueError: If it is not a text-only encoder, or is quantized to eight bits.
    """
    if not isinstance(encoder, PreTrainedModel):
        raise ValueError(f"encoder must be a transformers model, got a {type(encoder).__name__}.")
    base = cast(PreTrainedModel, encoder.base_model)
    if base.config.is_encoder_decoder or not hasattr(base.config, "hidden_size"):
        raise ValueError(f"encoder must be a text-only model without a decoder, got a {type(base).__name__}.")
    if getattr(base, "quantization_method", None) == EIGHT_BITS:
        raise ValueError("encoder must not be quantized to eight bits: a TaskAdapter cannot be saved with it.")
    return base


def _from_config(config: PreTrainedConfig | dict[str, Any] | None) -> PreTrainedModel:
    if not isinstance(config, PreTrainedConfig):
        raise ValueError(f"encoder_config must be the configuration of an encoder, got {config!r}.")
    # Without this package, AutoModel does not know the encoder.
    if isinstance(config, SequenceEncoderConfig):
        return SequenceEncoderModel._from_config(config)
    return cast(PreTrainedModel, AutoModel.from_config(config))


def _set_classes(config: TaskAdapterConfig, num_classes: int | None, id2label: dict[int, str] | None) -> None:
    if num_classes is not None:
        check_count(num_classes, "num_classes")
        config.num_labels = num_classes
    if id2label is not None:
        if num_classes not in (None, len(id2label)):
            raise ValueError(f"id2label must name num_classes={num_classes} classes, got {len(id2label)}.")
        config.id2label = dict(id2label)
        config.label2id = {name: index for index, name in id2label.items()}
