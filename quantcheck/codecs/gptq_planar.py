"""GPTQModel's planar format (``gptq_p``): GPTQ whose codes are split into planes, so that none straddles.

A code is cut into planes of 4, 2 and 1 bits, low bits first: 3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2, 7 = 4 + 2 + 1.
Each block of 32 codes takes ``bits`` words, those of the low plane before those of the high ones; a plane of
w bits is 32 fields in a row, w words. Five bits, one block::

    word 0     codes  7 ..  0, bits 0 to 3 of each      bit 31..28 27..24 ...... 3..0
    word 1     codes 15 ..  8                                  7      6            0
    word 2     codes 23 .. 16
    word 3     codes 31 .. 24
    word 4     codes 31 ..  0, bit 4 of each

Everything else is that of GPTQ's version 2: ``qweight`` runs along the in-features, ``qzeros`` along the
out-features in the same planes and as the zero points are, ``scales`` and ``g_idx``, and the sizes. In- and
out-features must come in multiples of 32. GPTQModel writes 5, 6 and 7 bits only this way, and 3 where it is
asked for; at 2, 4 and 8 bits there is one plane, and the words are those of `quantcheck.codecs.gptq`.

Source: GPTQModel 7.6.0, whose packed words these are.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from quantcheck.codecs import bitstream
from quantcheck.codecs.gptq import WORD, Gptq

PLANES = {3: (2, 1), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}
"""Widths of the planes at each width of a code, low bits first."""
LANES = {1: torch.int64, 2: torch.int32, 4: torch.int16}
"""What holds the codes that share a byte of a plane, before they do: a byte for each."""


class GptqPlanar(Gptq):
    """The planar format at 3, 5, 6 or 7 bits; its parts are those of `Gptq`."""

    def __init__(self, bits: int) -> None:
        super().__init__(2, bits)

    @property
    def name(self) -> str:  # type: ignore[override]
        """``gptq_planar``."""
        return "gptq_planar"

    @property
    def cols_multiple(self) -> int:  # type: ignore[override]
        """The codes of a block."""
        return WORD

    def _runs(self, position: int) -> Iterator[tuple[int, int, int]]:
        block, code = divmod(position, WORD)
        first = block * self.bits
        for width in PLANES[self.bits]:
            word, field = divmod(code, WORD // width)
            yield first + word, field * width, width
            first += width

    def _words(self, codes: Tensor) -> Tensor:
        rows, count = codes.shape
        packed = codes.new_empty(rows, count // WORD, 4 * self.bits)
        for strip, target in bitstream.strips(codes, packed, count):
            whole = strip.clone(memory_format=torch.contiguous_format).view(-1)
            for low, width in self._planes():
                section = target[:, :, 4 * low : 4 * (low + width)]
                section.copy_(_gathered(whole >> low, width).view(section.shape))
        return packed.view(torch.int32).view(rows, count * self.bits // WORD)

    def _codes(self, words: Tensor, count: int) -> Tensor:
        rows, blocks = words.shape[0], count // WORD
        codes = words.new_zeros(rows, count, dtype=torch.uint8)
        packed = bitstream.as_bytes(words).view(rows, blocks, 4 * self.bits)
        for target, strip in bitstream.strips(codes, packed, count):
            for low, width in self._planes():
                lanes = target.view(-1).view(LANES[width])
                lanes |= _spread(strip[:, :, 4 * low : 4 * (low + width)].flatten(), width) << low
        return codes

    def _planes(self) -> Iterator[tuple[int, int]]:
        """List the planes: the lowest bit of each in a code, and its width."""
        low = 0
        for width in PLANES[self.bits]:
            yield low, width
            low += width


def _gathered(codes: Tensor, width: int) -> Tensor:
    """Gather the low bits of flat codes in the bytes of a plane, one byte a lane.

    One product moves all codes of a lane: code i, at bit 8 i, to the lane's highest byte, at bit
    ``width * i`` of it; nothing else that it makes gets there, and no two addends share a bit.
    """
    count, lanes = 8 // width, codes.view(LANES[width])
    mask = sum((1 << width) - 1 << 8 * code for code in range(count))
    factor = sum(1 << 8 * (count - 1) - (8 - width) * code for code in range(count))
    return ((lanes & mask) * factor).bitwise_right_shift_(8 * (count - 1))


def _spread(plane: Tensor, width: int) -> Tensor:
    """Spread the flat bytes of a plane over lanes, one lane a byte: in halves, quarters, then codes."""
    lanes, joined = plane.to(LANES[width]), 4 // width
    while joined:
        mask = sum((1 << joined * width) - 1 << 8 * code for code in range(0, 8 // width, joined))
        lanes = (lanes << joined * (8 - width)).bitwise_or_(lanes).bitwise_and_(mask)
        joined //= 2
    return lanes
