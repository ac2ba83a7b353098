"""torchao on the CPU: its scaled integer product, and weight-only integers of 1 to 8 bits."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torchao.kernel import int_scaled_matmul
from torchao.quantization.quantize_.workflows.intx.intx_unpacked_to_int8_tensor import (
    IntxUnpackedToInt8Tensor,
)

from quantcheck.codecs import bitstream
from quantcheck.kernels.base import Grouped
from quantcheck.kernels.checked import CheckedKernel, Prepared
from quantcheck.kernels.tokens import round_tokens

ACT_BITS = 8


class Int8(CheckedKernel):
    """``int_scaled_matmul`` as ``Int8Tensor`` calls it; inputs are rounded here: its grid is another."""

    name: ClassVar[str] = "torchao_int8"

    def _prepare(self, weight: Grouped) -> tuple[Tensor, Tensor]:
        return signed_codes(weight), weight.scales[:, 0].float()

    def _dequantize(self, prepared: Prepared, dtype: torch.dtype) -> Tensor:
        codes, scales = prepared.layout
        return cast("Tensor", (codes.float() * scales[:, None]).to(dtype))

    def _matmul(self, inputs: Tensor, prepared: Prepared, act_bits: int | None) -> Tensor:
        codes, scales = prepared.layout
        steps, peaks = round_tokens(inputs, ACT_BITS)
        # Where torchao casts to the dtype of the inputs, too; see docs/findings.md.
        scaled = int_scaled_matmul(steps, codes.contiguous().t(), peaks).to(inputs.dtype)
        return cast("Tensor", (scaled * scales).to(inputs.dtype))


class Intx(CheckedKernel):
    """``IntxUnpackedToInt8Tensor`` as the weight of a linear layer."""

    name: ClassVar[str] = "torchao_intx"

    def _prepare(self, weight: Grouped) -> Grouped:
        return weight

    def _dequantize(self, prepared: Prepared, dtype: torch.dtype) -> Tensor:
        return self._tensor(prepared.layout, dtype).dequantize()

    def _matmul(self, inputs: Tensor, prepared: Prepared, act_bits: int | None) -> Tensor:
        return F.linear(inputs, self._tensor(prepared.layout, inputs.dtype))

    def _tensor(self, weight: Grouped, dtype: torch.dtype) -> Tensor:
        zero_points = torch.zeros(weight.scales.shape, dtype=torch.int8)
        if weight.zero_points is not None:
            zero_points = (weight.zero_points.int() - (1 << (weight.bits - 1))).to(torch.int8)
        groups = weight.scales.shape[1]
        return cast(
            "Tensor",
            IntxUnpackedToInt8Tensor(
                signed_codes(weight),
                weight.scales,
                zero_points,
                getattr(torch, f"int{weight.bits}"),
                (1, weight.in_features // groups),
                dtype,
                None,
            ),
        )


def signed_codes(weight: Grouped) -> Tensor:
    """Return the codes less half their range, int8 [out, in]."""
    codes = bitstream.unpack(weight.qweight, weight.bits, weight.in_features)
    return (codes.int() - (1 << (weight.bits - 1))).to(torch.int8)
