"""GGUF's Q8_0: 32 codes of 8 bits and a scale in 34 bytes, 8.5 bits a weight.

::

    byte     0 1     2 + i, i in 0..31
    holds    d       code i - 128, signed

w = d (code - 128), ``d`` a float16. From ggml's ``block_q8_0``. The file holds signed integers; codes here
are unsigned as everywhere, 128 more, which flips the top bit of a byte. Finding ``d`` is left out: ggml takes
the largest magnitude over 127, so that it never writes code 0.
"""

from __future__ import annotations

from torch import Tensor

from quantcheck.codecs.base import Shape, Tensors
from quantcheck.codecs.gguf.blocks import AffineBlocks, Values, Verbatim, half

SIGN = 0x80


class Q8_0(AffineBlocks):
    """Parts: ``codes`` uint8 [rows, cols], ``d`` float16 [rows, cols / 32]."""

    name = "gguf_q8_0"
    width = 8
    cols_multiple = 32
    group_sizes = (32,)
    zero_point = 128
    block_bytes = 34
    block = (Values("codes", 32, (Verbatim(2),), high=255), half("d", 0))

    def bits_of(self, part: str, value: int) -> tuple[tuple[int, int, int], ...]:
        """Give each code its byte."""
        return ((2 + value, 0, 8),) if part == "codes" else ()

    def raw(self, part: str, value: int) -> int:
        """Return the signed integer's two's complement."""
        return (value - 128) % 256

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        return super()._pack({**parts, "codes": parts["codes"] ^ SIGN}, shape)

    def _unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        parts = super()._unpack(stored, shape)
        parts["codes"] ^= SIGN
        return parts
