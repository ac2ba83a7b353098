"""GGUF's TQ1_0: 256 ternary codes, five to a byte, and a scale in 54 bytes, 1.6875 bits a weight.

::

    byte     l, l in 0..31             32 + l, l in 0..15             48 + l, l in 0..3           52 53
    holds    codes 32 k + l,           codes 160 + 16 k + l,          codes 240 + 4 k + l,        d
             k in 0..4                 k in 0..4                      k in 0..3

w = d (code - 1), ``d`` a float16. From ggml's ``block_tq1_0``.

A byte is a fraction of 256, and its codes t0, t1, ... are the fraction's digits in base 3, the first one the
highest. Written, with n = 81 t0 + 27 t1 + 9 t2 + 3 t3 + t4 in 0..242 (t4 = 0 where there are four codes)::

    byte = ceil(256 n / 243)

Read, digit by digit: t = floor(3 byte / 256), then byte = 3 byte mod 256; thanks to the rounding up, these
are the digits that were written. 13 of the 256 bytes are written by nobody, more where there are four codes;
these are read by the same rule, as by ggml.

So codes have no bits of their own and `place` says nothing of them. Finding ``d`` is left out: ggml takes the
largest magnitude.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantcheck.codecs.gguf.blocks import AffineBlocks, Section, Values, half

DIGITS = 5
POWER = 3**DIGITS


@dataclass(frozen=True)
class Run:
    """Bytes side by side whose codes are, too: digit k of byte ``start + l`` is code ``first + size k + l``.

    Attributes:
        start: the first byte in the block.
        size: how many bytes.
        first: the first code.
        digits: how many codes a byte.
    """

    start: int
    size: int
    first: int
    digits: int = DIGITS

    def of(self, tensor: Tensor) -> Tensor:
        """Return these bytes of all."""
        return tensor[:, :, self.start : self.start + self.size]

    def codes(self, values: Tensor, digit: int) -> Tensor:
        """Return the codes that are the n-th digits."""
        first = self.first + digit * self.size
        return values[:, :, first : first + self.size]


@dataclass(frozen=True)
class Trits(Section):
    """Codes as the digits of bytes.

    Attributes:
        runs: of bytes, from the block's first one on.
    """

    runs: tuple[Run, ...]

    def write(self, values: Tensor, blocks: Tensor) -> None:
        """Evaluate the digits by Horner's rule and round the fraction up."""
        number = torch.zeros_like(blocks[:, :, : self._bytes])
        for digit in range(DIGITS):
            number *= 3
            for run in self._with(digit):
                run.of(number).add_(run.codes(values, digit))
        # 256 n / 243 is n + 13 n / 243, which stays within 16 bits.
        number += (number.to(torch.int16) * (256 - POWER) + POWER - 1).floor_divide_(POWER).to(torch.uint8)
        blocks[:, :, : self._bytes] = number

    def read(self, blocks: Tensor, values: Tensor) -> None:
        """Take the digits off, the highest first."""
        fraction = blocks[:, :, : self._bytes].to(torch.int16)
        for digit in range(DIGITS):
            fraction *= 3
            code = fraction >> 8
            fraction &= 0xFF
            for run in self._with(digit):
                run.codes(values, digit).copy_(run.of(code))

    @property
    def _bytes(self) -> int:
        return sum(run.size for run in self.runs)

    def _with(self, digit: int) -> list[Run]:
        return [run for run in self.runs if digit < run.digits]


class TQ1_0(AffineBlocks):
    """Parts: ``codes`` uint8 [rows, cols] in 0..2, ``d`` float16 [rows, cols / 256]."""

    name = "gguf_tq1_0"
    width = 2
    cols_multiple = 256
    group_sizes = (256,)
    zero_point = 1
    block_bytes = 54
    block = (
        Values("codes", 256, (Trits((Run(0, 32, 0), Run(32, 16, 160), Run(48, 4, 240, digits=4))),), high=2),
        half("d", 52),
    )

    def bits_of(self, part: str, value: int) -> tuple[tuple[int, int, int], ...]:
        """Say nothing: a digit in base 3 takes no whole bits."""
        return ()
