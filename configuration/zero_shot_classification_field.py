"""The field `zero_shot_classification` of a `SequenceEncoderConfig`: how its head compares texts with labels."""

# The configuration imports this module, so that it cannot be imported here.
from dataclasses import asdict, dataclass, field
from typing import Any

_ACTIVATIONS = ("relu", "gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "silu", "tanh")


@dataclass
class ZeroShotClassificationFields:
    """What the field `zero_shot_classification` holds.

    Attributes:
        label_token_id: The id of the token before each label; None if the caller passes `class_ids`.
        text_token_id: The id of the token between labels and text; None if it is the word `<<SEP>>`.
        labels_first: Whether the labels come before the text.
        label_pooling: Whether the vector of a label is that of its `first` token, or the `mean` over its tokens.
        reads_label_token: Whether the token before a label is the first of its tokens.
        hidden_size: Number of inner channels of the two projections; those of the encoder by default.
        act: The activation in the projections.
        scorer: How a label is compared with a text: by the `dot` product of their vectors, or by a network that reads
            both (`mlp`), or both and the product of two projections (`weighted_dot`).
        normalize: Whether both vectors are scaled to length 1, and scores multiplied by a learned number.
        dropout: Dropout probability in the head.
    """

    label_token_id: int | None = None
    text_token_id: int | None = None
    labels_first: bool = True
    label_pooling: str = field(default="first", metadata={"choices": ("first", "mean")})
    reads_label_token: bool = True
    hidden_size: int | None = field(default=None, metadata={"least": 1})
    act: str = field(default="gelu", metadata={"choices": _ACTIVATIONS})
    scorer: str = field(default="dot", metadata={"choices": ("dot", "weighted_dot", "mlp")})
    normalize: bool = False
    dropout: float = 0.1


def zero_shot_classification_fields(config: Any) -> ZeroShotClassificationFields:
    """Return the field of a configuration with a value for everything that it leaves out."""
    complete = ZeroShotClassificationFields(**(config.zero_shot_classification or {}))
    if complete.hidden_size is None:
        complete.hidden_size = config.hidden_size
    return complete


def complete_zero_shot_classification(config: Any) -> dict[str, Any]:
    """Return the field of a configuration with all of its values, as a dict."""
    return asdict(zero_shot_classification_fields(config))
