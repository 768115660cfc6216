"""Layers in eight bits in graphs for other runtimes, with operations that these recognise as products of integers.

Shapes: K inputs, N outputs, C channels with outliers.
"""

import torch
from torch import nn

from .eight_bit_linear import HIGHEST, LOWEST, EightBitLinear


class EightBitProduct:
    """The function of a layer in a graph, which quantizes and dequantizes its inputs.

    It needs the operations that `torch.ao.quantization.fx` registers.

    Args:
        layer: The layer, before the trace. What is derived from its tensors here is constant in the graph.
        previous: The first layer of a network of which `layer` is the second one, to compute channels with outliers
            without quantization.
        named_weights: Whether to dequantize the weight with a single named operation. ONNX Runtime only multiplies
            integers if it finds this operation. OpenVINO cannot convert it, but recognises a plain multiplication.
    """

    @torch.no_grad()
    def __init__(self, layer: EightBitLinear, previous: EightBitLinear | None, named_weights: bool) -> None:
        self._layer, self._named_weights = layer, named_weights
        self._factor, self._bias = 1 / layer.input_scale, layer.bias_less_offsets()
        channels = layer.outlier_channels
        self.outlier_rows = (
            None if previous is None or channels is None else previous.rows_of(channels, layer.input_scale.dtype)
        )

    def __call__(self, hidden_states: torch.Tensor, outliers: torch.Tensor | None = None) -> torch.Tensor:
        """Map (..., K) to (..., N).

        Args:
            hidden_states: The input.
            outliers: (..., C) the channels with outliers, if they are not those of the input.
        """
        layer = self._layer
        options = (1.0, 0, LOWEST, HIGHEST, torch.int8)
        scaled = hidden_states * self._factor + layer.input_offset
        integers = torch.ops.quantized_decomposed.quantize_per_tensor(scaled, *options)
        rounded = torch.ops.quantized_decomposed.dequantize_per_tensor(integers, *options)
        output = nn.functional.linear(rounded, self._weight(), self._bias)
        if layer.outlier_channels is not None and layer.outlier_weight is not None:
            if outliers is None:
                outliers = hidden_states.index_select(-1, layer.outlier_channels)
            output = output + nn.functional.linear(outliers, layer.outlier_weight)
        return output

    def _weight(self) -> torch.Tensor:
        weight, scale = self._layer.weight, self._layer.weight_scale
        if not self._named_weights:
            return weight * scale[:, None]
        # ONNX Runtime looks for the weight as it multiplies with it, (K, N).
        named = torch.ops.quantized_decomposed.dequantize_per_channel
        dequantized: torch.Tensor = named(weight.t(), scale, None, 1, LOWEST, HIGHEST, torch.int8)
        return dequantized.t()
