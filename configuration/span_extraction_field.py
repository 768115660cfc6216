"""The field `span_extraction` of a `SequenceEncoderConfig`: how `SequenceEncoderForSpanExtraction` scores spans."""

# The configuration imports this module, so that it cannot be imported here.
from dataclasses import asdict, dataclass, field
from typing import Any

from .head_fields import check_head_fields


@dataclass
class SpanExtractionFields:
    """What the field `span_extraction` holds.

    Attributes:
        label_token_id: The id of the token before each label; None if the caller prepares the inputs.
        separator_token_id: The id of the token between the labels and the words.
        scoring: Whether the head scores `spans`, or whether `tokens` are starts, ends and insides of entities.
        hidden_size: Number of channels of the head, an even number; that of the encoder by default.
        num_recurrent_layers: Number of layers of the bidirectional LSTM over the words.
        reads_label_token: Whether the vector of a label is that of the token before it, or of its first own token.
        max_width: The largest number of words of a span. Only `spans` need it.
        max_words: The largest number of words in a window of a text.
        dropout: Dropout probability in the head.
        label_encoder: The fields of the configuration of a separate encoder of labels; None if the encoder reads them
            before the text.
        threshold: The probability above which a span is returned by default.
        logit_scale: What all logits are multiplied by, a positive number, which `calibrate` fits.
        logit_offset: What is added to them then.
    """

    label_token_id: int | None = None
    separator_token_id: int | None = None
    scoring: str = field(default="spans", metadata={"choices": ("spans", "tokens")})
    hidden_size: int | None = field(default=None, metadata={"least": 2})
    num_recurrent_layers: int = 1
    reads_label_token: bool = True
    max_width: int = field(default=12, metadata={"least": 1})
    max_words: int = field(default=384, metadata={"least": 1})
    dropout: float = 0.4
    label_encoder: dict[str, Any] | None = None
    threshold: float = 0.5
    logit_scale: float = field(default=1.0, metadata={"unlimited": True})
    logit_offset: float = field(default=0.0, metadata={"unlimited": True})


def span_extraction_fields(config: Any) -> SpanExtractionFields:
    """Return the field of a configuration with a value for everything that it leaves out."""
    complete = SpanExtractionFields(**(config.span_extraction or {}))
    if complete.hidden_size is None:
        complete.hidden_size = config.hidden_size
    return complete


def complete_span_extraction(config: Any) -> dict[str, Any]:
    """Return the field of a configuration with all of its values, as a dict."""
    return asdict(span_extraction_fields(config))


def check_span_extraction(config: Any) -> None:
    """Check the values of `span_extraction`."""
    given = config.span_extraction
    label_encoder = given.get("label_encoder") if isinstance(given, dict) else None
    if label_encoder is not None:
        given = {name: value for name, value in given.items() if name != "label_encoder"}
        if not isinstance(label_encoder, dict) or label_encoder.get("span_extraction"):
            raise ValueError(f"span_extraction['label_encoder'] must be fields of an encoder, got {label_encoder!r}.")
        type(config)(**label_encoder)
    check_head_fields("span_extraction", given, SpanExtractionFields, config.vocab_size)
    if (scale := (given or {}).get("logit_scale", 1.0)) <= 0:
        raise ValueError(f"span_extraction['logit_scale'] must be positive, got {scale}.")
    size = (given or {}).get("hidden_size") or 2
    if size % 2:
        raise ValueError(f"span_extraction['hidden_size'] must be even, got {size}.")
