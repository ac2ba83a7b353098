"""bitsandbytes on the CPU: its blockwise decoder, and the integer product of LLM.int8.

NF4 and FP4 have fixed levels, which no operand of ours promises; `Blockwise` is the decoder for levels of
any kind, whose 256 are filled up with zeros here. ``tests/interop`` holds the decoder of NF4 and FP4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import bitsandbytes.functional
import torch
import torch.nn.functional as F
from torch import Tensor

from quantcheck.codecs import bitstream
from quantcheck.kernels.base import Codebook, Grouped
from quantcheck.kernels.checked import CheckedKernel, Prepared
from quantcheck.kernels.tokens import round_tokens

LEVELS = 256
MIDDLE = 128
TOP = 127


@dataclass(frozen=True, eq=False)
class Blocks:
    """Codes as ``dequantize_blockwise`` takes them.

    Attributes:
        codes: uint8 [out, in].
        levels: float32 [256].
        absmax: float32 [blocks].
        block_size: weights that share a scale.
    """

    codes: Tensor
    levels: Tensor
    absmax: Tensor
    block_size: int


class Blockwise(CheckedKernel):
    """``dequantize_blockwise``, and torch's product, as bitsandbytes multiplies without a fused kernel."""

    name: ClassVar[str] = "bnb_blockwise"

    def _prepare(self, weight: Codebook) -> Blocks:
        rows, cols = weight.shape
        codes = bitstream.unpack(weight.qweight[None], 4, rows * cols)
        levels = F.pad(weight.levels, (0, LEVELS - len(weight.levels)))
        return Blocks(codes.reshape(rows, cols), levels, weight.absmax, weight.block_size)

    def _dequantize(self, prepared: Prepared, dtype: torch.dtype) -> Tensor:
        blocks: Blocks = prepared.layout
        state = bitsandbytes.functional.QuantState(
            absmax=blocks.absmax, code=blocks.levels, blocksize=blocks.block_size, dtype=dtype
        )
        return cast("Tensor", bitsandbytes.functional.dequantize_blockwise(blocks.codes, state))

    def _matmul(self, inputs: Tensor, prepared: Prepared, act_bits: int | None) -> Tensor:
        return F.linear(inputs, self._dequantize(prepared, inputs.dtype))


class Int8(CheckedKernel):
    """``int8_scaled_mm`` of LLM.int8, with inputs rounded here: its own rounding takes float16 alone."""

    name: ClassVar[str] = "bnb_int8"

    def _prepare(self, weight: Grouped) -> tuple[Tensor, Tensor]:
        codes = bitstream.unpack(weight.qweight, weight.bits, weight.in_features)
        return (codes - MIDDLE).view(torch.int8), weight.scales[:, 0].float()

    def _dequantize(self, prepared: Prepared, dtype: torch.dtype) -> Tensor:
        codes, scales = prepared.layout
        return cast("Tensor", (codes.float() * scales[:, None]).to(dtype))

    def _matmul(self, inputs: Tensor, prepared: Prepared, act_bits: int | None) -> Tensor:
        codes, scales = prepared.layout
        steps, peaks = round_tokens(inputs, TOP.bit_length() + 1)
        product = torch.ops.bitsandbytes.int8_scaled_mm(
            steps, codes, peaks[:, 0] * TOP, scales * TOP, None, inputs.dtype
        )
        return cast("Tensor", product)
