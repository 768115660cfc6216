"""The convolution over neighbouring tokens of DeBERTa v2 (He et al., 2021), beside the first layer or before it.

Shapes: B batch, S sequence (1 and T for packed tokens), D hidden, W width of the convolution.
"""

import torch
from torch import nn
from transformers.activations import ACT2FN

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig
from .cpu.dropout import Dropout
from .cpu.linear import fused_linear
from .cpu.shapes import compute_dtype
from .norms import NORMS
from .packing import PackedBatch, select_tokens


class Convolution(nn.Module):
    """A convolution of the input of a layer, which is added to its output and normalised, or added to its input.

    It is a linear layer of the W tokens around each token. Tokens outside the text count as zeros.
    """

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__()
        self.width = config.conv_kernel_size
        self.dense = nn.Linear(self.width * config.hidden_size, config.hidden_size)
        self.act = ACT2FN[config.conv_act]
        self.dropout = Dropout(config.hidden_dropout)
        self.norm = NORMS[config.norm](config) if config.norm_placement == "post" else nn.Identity()

    def forward(
        self, inputs: torch.Tensor, outputs: torch.Tensor, segments: torch.Tensor, needed: torch.Tensor | None
    ) -> torch.Tensor:
        """Return hidden states with the convolution.

        Args:
            inputs: The input of the layer, (B, S, D).
            outputs: The hidden states, (B, S, D), or (1, K, D) with `needed`.
            segments: The text of each token, (B, S) long, and -1 at padding.
            needed: The indices (K,) of the packed tokens in the output.
        """
        segments, reach, length = segments.to(inputs.device), self.width // 2, inputs.shape[1]
        # The product would convert W times as many.
        around = nn.functional.pad(inputs.to(compute_dtype(inputs.dtype, inputs.device)), (0, 0, reach, reach))
        texts = nn.functional.pad(segments, (reach, reach), value=-1)
        tokens = [
            around[:, first : first + length] * (texts[:, first : first + length] == segments)[..., None]
            for first in range(self.width)
        ]
        convolved = fused_linear(self.dense, torch.cat([select_tokens(part, needed) for part in tokens], -1))
        return self.norm(outputs + self.act(self.dropout(convolved)))


def packed_segments(packed: PackedBatch) -> torch.Tensor:
    """Return the text of each packed token, (1, T)."""
    lengths = packed.cu_seq_lens.diff().long()
    texts = torch.arange(len(lengths), device=lengths.device)
    return torch.repeat_interleave(texts, lengths, output_size=sum(packed.lengths))[None]


def padded_segments(starts: torch.Tensor, token_mask: torch.Tensor | None) -> torch.Tensor:
    """Return the text of each token of a padded batch, (B, S), counted over all rows, and -1 at padding.

    Args:
        starts: (B, S) bool, the first token of every text.
        token_mask: (B, S) bool, False at padding; None if the batch has no padding.
    """
    segments = starts.flatten().long().cumsum(0).unflatten(0, starts.shape)
    return segments if token_mask is None else segments.masked_fill(~token_mask, -1)
