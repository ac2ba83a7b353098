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
        words = codes.new_empty(rows, count // WORD, self.bits, dtype=torch.int32)
        for strip, target in bitstream.strips(codes, words, count):
            low = 0
            for width in PLANES[self.bits]:
                plane = bitstream.pack_words(strip >> low & (1 << width) - 1, width)
                target[:, :, low : low + width] = plane.view(*target.shape[:2], width)
                low += width
        return words.view(rows, count * self.bits // WORD)

    def _codes(self, words: Tensor, count: int) -> Tensor:
        rows, blocks = words.shape[0], count // WORD
        codes = words.new_zeros(rows, count, dtype=torch.uint8)
        planes = words.reshape(rows, blocks, self.bits)
        for target, strip in bitstream.strips(codes, planes, count):
            low = 0
            for width in PLANES[self.bits]:
                plane = strip[:, :, low : low + width].reshape(len(strip), blocks * width)
                target.bitwise_or_(bitstream.unpack_words(plane, width, count) << low)
                low += width
        return codes
