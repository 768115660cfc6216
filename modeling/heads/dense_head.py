"""What heads share before their output layer: dense layers, and the vectors of whole texts.

Shapes: B batch, D hidden.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ..norms import NORMS


class DenseHead(nn.Module):
    """A dense layer with activation and norm, as in BERT before the vocabulary projection."""

    def __init__(self, config: SequenceEncoderConfig, size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, size, bias=config.head_bias)
        self.act = ACT2FN[config.head_act or config.hidden_act]
        self.norm = NORMS[config.norm](config, size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map (..., D) to (..., size)."""
        return self.norm(self.act(self.dense(hidden_states)))


# Each takes a configuration and the number of output channels.
HEADS: dict[str, Callable[[SequenceEncoderConfig, int], nn.Module]] = {
    "linear": lambda config, size: nn.Identity(),
    "dense": DenseHead,
}


def text_vectors(outputs: BaseModelOutputWithPooling, model: nn.Module) -> torch.Tensor:
    """Return the `pooler_output` (B, D), which models with one prediction per row need.

    Args:
        outputs: The outputs of the encoder.
        model: The model, for the error.

    Raises:
        ValueError: If it is None, because a row has several documents.
    """
    if outputs.pooler_output is None:
        raise ValueError(
            f"{type(model).__name__} makes one prediction per row, but a row of this batch has several documents "
            "(cu_seq_lens_q, or position_ids that restart); pass one text per row."
        )
    return outputs.pooler_output
