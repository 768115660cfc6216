"""Linear layers in eight bits: the weights, and on CPUs that multiply eight-bit integers also the inputs.

An input is quantized with a scale and an offset for each channel, which calibration has found before (SmoothQuant, Xiao
et al., 2023; offsets as in Outlier Suppression+, Wei et al., 2023). A few channels with outliers may stay out of it, as
in LLM.int8() (Dettmers et al., 2022). Since nothing depends on the batch, a text always gets the same vector.

Shapes: K inputs, N outputs, C channels with outliers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from ..cpu.eligibility import NO_ACTIVATION, is_eager_on_cpu, is_recorded, onednn_activation
from ..cpu.prepacked import pad_rows
from ..cpu.shapes import has_onednn

# The integers that stand for inputs.
LOWEST, HIGHEST = -128, 127
# oneDNN gets unsigned integers, which are higher by this. Without AMX, it multiplies signed inputs with its reference
# implementation alone, which takes a thousand times as long.
_SHIFT = 128


def multiplies_integers() -> bool:
    """Return whether torch can use instructions of this CPU for products of eight-bit integers."""
    return bool(torch.backends.mkldnn.enabled) and _has_integer_products()


@cache
def _has_integer_products() -> bool:
    return bool(torch.cpu._is_vnni_supported() and torch.backends.mkldnn.is_available())


@dataclass(frozen=True)
class _Kernel:
    """What oneDNN reads in place of the weight and the bias of a layer.

    Attributes:
        weight: The weight in oneDNN's layout.
        zero_points: (N,) the integer that stands for 0 in each row of the weight.
        bias: (N,) float32, the bias less the share that the offsets of the inputs add to the product.
    """

    weight: torch.Tensor
    zero_points: torch.Tensor
    bias: torch.Tensor


class EightBitLinear(nn.Module):
    """The function xWᵀ + b with a weight in eight bits, for inference.

    On CPUs without instructions for eight-bit integers, on other devices, in training, with autocast and while another
    tool records the operations, only the weight has eight bits: it is converted to the dtype of the input. Graphs
    of `export` multiply integers.

    Args:
        in_features: K.
        out_features: N.
        bias: Whether there is a bias.
        outliers: Number of channels of the input that are not quantized, C.

    Attributes:
        weight: (N, K) int8, for inputs in units of `input_scale`; 0 for channels with outliers.
        weight_scale: (N,) float32, the factor of each row.
        bias: (N,), or None.
        input_scale: (K,) float32, the difference between neighbouring integers for each channel.
        input_offset: (K,) float32, the integer that stands for 0.
        outlier_channels: (C,) the indices of the channels with outliers, or None.
        outlier_weight: (N, C) their weights, or None.
    """

    weight_scale: torch.Tensor
    input_scale: torch.Tensor
    input_offset: torch.Tensor
    outlier_channels: torch.Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool, outliers: int = 0) -> None:
        super().__init__()
        self.in_features, self.out_features, self.outliers = in_features, out_features, outliers
        self.weight = nn.Parameter(torch.zeros(out_features, in_features, dtype=torch.int8), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(out_features), requires_grad=False) if bias else None
        # Buffers, so that they do not determine the dtype of the model.
        self.register_buffer("weight_scale", torch.ones(out_features, dtype=torch.float32))
        self.register_buffer("input_scale", torch.ones(in_features, dtype=torch.float32))
        self.register_buffer("input_offset", torch.zeros(in_features, dtype=torch.float32))
        self.register_buffer("outlier_channels", torch.zeros(outliers, dtype=torch.long) if outliers else None)
        self.outlier_weight = (
            nn.Parameter(torch.zeros(out_features, outliers), requires_grad=False) if outliers else None
        )
        self._derived: dict[Any, Any] = {}
        # The function of the layer in graphs that multiply integers.
        self.graph_product: Callable[..., torch.Tensor] | None = None

    def forward(self, hidden_states: torch.Tensor, act: nn.Module | None = None) -> torch.Tensor:
        """Map (..., K) to (..., N).

        Args:
            hidden_states: The input.
            act: An activation to apply to the output.
        """
        if self.graph_product is not None and is_recorded():
            output = self.graph_product(hidden_states)
            return output if act is None else act(output)
        if not self.takes_integers(hidden_states):
            output = nn.functional.linear(hidden_states, *self.in_dtype(hidden_states.dtype))
            return output if act is None else act(output)
        rows = hidden_states.reshape(-1, self.in_features)
        fused = onednn_activation(act) if self.outlier_channels is None else None
        output = self.product(self.quantize(rows), rows.dtype, fused)
        if self.outlier_channels is not None:
            self.add_outliers(output, pad_rows(rows.index_select(1, self.outlier_channels)))
        output = output[: len(rows)]
        output = output if act is None or fused else act(output)
        return output.view(*hidden_states.shape[:-1], self.out_features)

    def takes_integers(self, hidden_states: torch.Tensor) -> bool:
        """Return whether the layer quantizes this input."""
        return (
            is_eager_on_cpu(hidden_states, self.weight)
            and multiplies_integers()
            and has_onednn(hidden_states.dtype)
            and not torch.is_autocast_enabled("cpu")
            and not (hidden_states.requires_grad and torch.is_grad_enabled())
        )

    def quantize(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the integers for inputs (rows, K) in uint8, with a few more rows to limit oneDNN's kernels."""
        dtype = rows.dtype
        factor, offset = self._once(dtype, lambda: ((1 / self.input_scale).to(dtype), self.input_offset.to(dtype)))
        integers = torch.addcmul(offset, rows, factor).round_().clamp_(LOWEST, HIGHEST).to(torch.int8)
        # Flipping the sign bit adds 128, and is faster than torch's conversion to uint8.
        return pad_rows(integers.view(torch.uint8).bitwise_xor_(_SHIFT))

    def product(
        self,
        integers: torch.Tensor,
        dtype: torch.dtype,
        fused: tuple[str, str] | None,
        following: "EightBitLinear | None" = None,
    ) -> torch.Tensor:
        """Multiply quantized inputs with the weight.

        Args:
            integers: (rows, K), the result of `quantize`.
            dtype: The dtype of the output.
            fused: oneDNN's names of an activation to apply to the output.
            following: The layer for which to quantize the output. Its inputs must be uniform.

        Returns:
            (rows, N), uint8 with `following`.
        """
        kernel = self._once("kernel", self._kernel)
        scale, offset = 1.0, 0
        if following is not None:
            assert following.uniform_input is not None
            scale, offset = following.uniform_input
            offset, dtype = offset + _SHIFT, torch.uint8
        name, algorithm = fused or NO_ACTIVATION
        packed = (kernel.weight, self.weight_scale, kernel.zero_points, kernel.bias)
        output: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            integers, 1.0, 0, *packed, scale, offset, dtype, name, [], algorithm
        )
        return output

    def add_outliers(self, output: torch.Tensor, outliers: torch.Tensor) -> None:
        """Add the product of the channels with outliers, (rows, C), to the output (rows, N) in place.

        Both have the rows of `quantize`. With fewer, torch's product of floats rounds differently, and what rounds
        differently here can become another integer in the next layer.
        """
        assert self.outlier_weight is not None
        output.addmm_(outliers, self.outlier_weight.t())

    @property
    def uniform_input(self) -> tuple[float, int] | None:
        """The scale and the offset of the inputs if they are the same for all channels, or else None."""
        return self._once("uniform input", self._uniform_input)

    def rows_of(self, channels: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the rows of the weight and the bias that compute some channels of the output, without quantization.

        Args:
            channels: The indices of the channels, the same in each call.
            dtype: The dtype of the result.
        """

        def make() -> tuple[torch.Tensor, torch.Tensor | None]:
            return self._weight()[channels].to(dtype), None if self.bias is None else self.bias[channels].to(dtype)

        return self._once(("rows", dtype), make)

    def in_dtype(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the weight (N, K) and the bias of the linear layer that this one stands for."""
        bias = None if self.bias is None else self.bias.to(dtype)
        if is_recorded():
            return self._weight().to(dtype), bias
        return self._once(("weight", dtype), lambda: self._weight().to(dtype)), bias

    def _weight(self) -> torch.Tensor:
        weight = self.weight * self.weight_scale[:, None] / self.input_scale
        if self.outlier_channels is not None and self.outlier_weight is not None:
            weight = weight.index_copy(1, self.outlier_channels, self.outlier_weight.float())
        return weight

    @torch.no_grad()
    def bias_less_offsets(self, shift: int = 0) -> torch.Tensor:
        """Return the bias less the share that the offsets of the inputs add to the product, (N,) in float32.

        Args:
            shift: What is added to all integers of the inputs.
        """
        # Exact sums of integers: of offsets up to 2^8 and weights below 2^7, for up to 2^38 channels.
        offset = (self.weight.double() @ (self.input_offset.double() + shift)) * self.weight_scale
        return (-offset if self.bias is None else self.bias - offset).float()

    def _kernel(self) -> _Kernel:
        packed = torch.ops.onednn.qlinear_prepack(self.weight.detach(), None)
        return _Kernel(packed, torch.zeros(self.out_features, dtype=torch.long), self.bias_less_offsets(_SHIFT))

    def _uniform_input(self) -> tuple[float, int] | None:
        scale, offset = self.input_scale[0], self.input_offset[0]
        uniform = (self.input_scale == scale).all() and (self.input_offset == offset).all()
        return (float(scale), int(offset)) if uniform else None

    @torch.no_grad()
    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what `make` derives from the tensors of the layer, which do not change in inference."""
        if key not in self._derived:
            # Another thread may do the same. Both results are right. Later uses may need gradients of the input.
            with torch.inference_mode(False):
                self._derived[key] = make()
        return self._derived[key]

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "EightBitLinear":
        """Move the layer to a device, or cast all but the scales and offsets, whose rounding would add up."""
        before = {name: tensor for name, tensor in self._buffers.items() if tensor is not None}
        super()._apply(fn, recurse)
        for name, tensor in before.items():
            after = self._buffers[name]
            assert after is not None
            self._buffers[name] = after if after.dtype == tensor.dtype else tensor.to(after.device)
        self._derived = {}
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._derived = {}

    def __getstate__(self) -> dict[str, Any]:
        # Tensors in oneDNN's layout cannot be copied.
        return {**self.__dict__, "_derived": {}}

    def extra_repr(self) -> str:
        """Return the sizes, as `nn.Linear` does."""
        return f"in_features={self.in_features}, out_features={self.out_features}, outliers={self.outliers}"
