"""Makes static encoders: encoders without layers, whose vectors of texts are means of rows of a table.

Shapes: V vocabulary, D channels.
"""

from typing import Any

import torch
from transformers.initialization import no_init_weights

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ..configuration.presets import static_fields
from .given_weights import fill
from .modeling_sequence_encoder import SequenceEncoderModel
from .text_encoding.embedding_recipe import EmbeddingRecipe, Normalize


def static_encoder(
    table: Any, *, normalize: bool = True, max_length: int | None = None, **fields: Any
) -> SequenceEncoderModel:
    """Make an encoder from a table of token vectors (static embeddings), such as those of word2vec or model2vec.

    The vector of a text is the mean of the vectors of its tokens. The encoder is a `SequenceEncoderModel` without
    layers, so that it is saved, served, indexed, exported and adapted as every other one. `encode` adds no special
    tokens.

    Args:
        table: (V, D) a tensor or an array with the vector of each token, by its id.
        normalize: Whether `encode` scales vectors to unit length.
        max_length: Number of tokens to truncate texts to; by default they are read whole.
        **fields: Further fields of the configuration, such as `pad_token_id`.

    Raises:
        ValueError: If the table is not a matrix of floating numbers.
    """
    weight = torch.as_tensor(table)
    if weight.ndim != 2 or not weight.is_floating_point() or not weight.numel():
        raise ValueError(
            "table must be a matrix of floating numbers with a row for each token, got the shape "
            f"{tuple(weight.shape)} and {weight.dtype}."
        )
    config = SequenceEncoderConfig(**{**static_fields(*weight.shape), **fields})
    with no_init_weights():
        model = SequenceEncoderModel(config)
    fill(model, {"embed_tokens.weight": weight.contiguous()})
    model.config.dtype = weight.dtype
    model.embedding_recipe = EmbeddingRecipe(after=(Normalize(),) * normalize, max_length=max_length)
    return model
