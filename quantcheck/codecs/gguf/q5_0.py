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

import torch
from torch import Tensor

from quantcheck.codecs.gguf.blocks import AffineBlocks, Plane, Section, Values, half, view

FOLDS = ((7, 0x0101_0101_0101_0101), (14, 0x0003_0003_0003_0003), (28, 0x0000_000F_0000_000F))
"""How far bits move to join their neighbours in a word, and where they lay before: one, two, four of them."""


@dataclass(frozen=True)
class HighBits(Section):
    """Bit 4 of each code, eight codes to a byte, the first one lowest.

    Attributes:
        start: the first byte in the block.
    """

    start: int

    def write(self, values: Tensor, blocks: Tensor) -> None:
        """Fold each eight bytes' bits into the lowest byte."""
        words = view(values, torch.int64) >> 4
        words &= FOLDS[0][1]
        for distance, _ in FOLDS:
            words |= words >> distance
        blocks[:, :, self.start : self.start + words.shape[2]] = words.bitwise_and_(0xFF)

    def read(self, blocks: Tensor, values: Tensor) -> None:
        """Unfold them."""
        codes = values.view(torch.int64)
        words = blocks[:, :, self.start : self.start + codes.shape[2]].to(torch.int64)
        for distance, fields in reversed(FOLDS):
            words |= words << distance
            words &= fields
        codes |= words << 4


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
