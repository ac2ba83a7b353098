"""GGUF's Q5_0: 32 codes of 5 bits and a scale in 22 bytes, 5.5 bits a weight.

::

    byte     0 1     2 .. 5 (qh)                       6 + l, l in 0..15
    holds    d       bit i of these 32: bit 4 of       bits 3..0: low bits of code l
                     code i                            bits 7..4: those of code 16 + l

w = d (code - 16), ``d`` a float16. From ggml's ``block_q5_0``. Finding ``d`` is left out: ggml takes the
weight of the largest magnitude, with its sign, over -16.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from quantcheck.codecs import bitstream
from quantcheck.codecs.gguf.blocks import AffineBlocks, Plane, Section, Values, half


@dataclass(frozen=True)
class HighBits(Section):
    """Bit 4 of each code, as a dense bitstream.

    Attributes:
        start: the first byte in the block.
    """

    start: int

    def write(self, values: Tensor, blocks: Tensor) -> None:
        """Pack the bits of all blocks of a row."""
        bits = bitstream.pack(values.flatten(1) >> 4, 1)
        blocks[:, :, self.start : self.start + 4] = bits.view(*blocks.shape[:2], 4)

    def read(self, blocks: Tensor, values: Tensor) -> None:
        """Add the bits to the codes."""
        packed = blocks[:, :, self.start : self.start + 4].flatten(1)
        bits = bitstream.unpack(packed, 1, packed.shape[1] * 8)
        values |= (bits << 4).view_as(values)


class Q5_0(AffineBlocks):
    """Parts: ``codes`` uint8 [rows, cols] in 0..31, ``d`` float16 [rows, cols / 32]."""

    name = "gguf_q5_0"
    width = 5
    cols_multiple = 32
    group_sizes = (32,)
    zero_point = 16
    block_bytes = 22
    block = (Values("codes", 32, (Plane(6, width=4, run=16), HighBits(2)), high=31), half("d", 0))

    def bits_of(self, part: str, value: int) -> tuple[tuple[int, int, int], ...]:
        """Follow Q4_0's nibbles, then the 32-bit word of high bits."""
        if part != "codes":
            return ()
        return (6 + value % 16, 4 * (value // 16), 4), (2 + value // 8, value % 8, 1)
