"""GPTQ's checkpoint format, as AutoGPTQ, GPTQModel and auto-round write it, in its two versions.

``qweight`` packs the codes along the in-features, one 32-bit word beside the other for each out-feature;
``qzeros`` packs the zero points along the out-features. Both are the dense bitstream, least significant bit
first, read as little-endian words. Four bits, codes a to h of one out-feature::

    word 0 of qweight's column   bit 31 .. 28 27 .. 24 ............ 7 .. 4 3 .. 0
                                       h        g       f e d c       b      a

At 3 bits codes straddle words: 32 of them take three. ``g_idx`` is the group of each in-feature, and
``w = (code - zero_point) scale``.

- v1 (``gptq``) stores ``zero_point - 1``, each field wrapping by itself: 0 becomes all ones. Subtracting
  words instead borrows from the neighbours wherever a zero point is 0.
- v2 (``gptq_v2``) stores ``zero_point``.

Sizes for K in-features, N out-features, G groups and b bits, in bits: ``qweight`` K N b, ``qzeros`` G N b,
``scales`` 16 G N, ``g_idx`` 32 K. K and N must come in multiples of 32 over b's share of a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor

from quantcheck.codecs import bitstream
from quantcheck.codecs.affine import Affine, AffineFormat, exactly, whole
from quantcheck.codecs.base import Field, Place, Shape, Tensors

WORD = 32


@dataclass(frozen=True)
class Gptq(AffineFormat):
    """GPTQ at 2, 3, 4 or 8 bits.

    Parts: ``codes`` uint8 [rows, cols], ``zero_points`` uint8 [rows, groups], ``scales`` float16
    [rows, groups], ``g_idx`` int32 [cols].

    Attributes:
        version: 1 or 2.
        bits: width of a code.
    """

    version: int
    bits: int

    @property
    def name(self) -> str:  # type: ignore[override]
        """``gptq_v1`` or ``gptq_v2``."""
        return f"gptq_v{self.version}"

    @property
    def cols_multiple(self) -> int:  # type: ignore[override]
        """The fewest codes that fill whole words."""
        return WORD // gcd(WORD, self.bits)

    @property
    def rows_multiple(self) -> int:  # type: ignore[override]
        """The same: zero points are packed along the rows."""
        return self.cols_multiple

    def parts(self, shape: Shape) -> dict[str, Field]:
        """Declare what `pack` takes."""
        top = (1 << self.bits) - 1
        return {
            "codes": Field(torch.uint8, (shape.rows, shape.cols), high=top),
            "zero_points": Field(torch.uint8, (shape.rows, shape.groups), high=top),
            "scales": Field(torch.float16, (shape.rows, shape.groups)),
            "g_idx": Field(torch.int32, (shape.cols,), high=max(shape.groups - 1, 0)),
        }

    def stored(self, shape: Shape) -> dict[str, Field]:
        """Declare the tensors of the checkpoint."""
        return {
            "qweight": Field(torch.int32, (shape.cols * self.bits // WORD, shape.rows)),
            "qzeros": Field(torch.int32, (shape.groups, shape.rows * self.bits // WORD)),
            "scales": Field(torch.float16, (shape.groups, shape.rows)),
            "g_idx": Field(torch.int32, (shape.cols,)),
        }

    def place(self, part: str, shape: Shape, index: tuple[int, ...]) -> tuple[Place, ...]:
        """Follow the bits of one code down its column of words, or of one zero point along its row."""
        match part:
            case "codes":
                row, column = index
                return tuple(
                    Place("qweight", word * shape.rows + row, shift, width)
                    for word, shift, width in self._runs(column)
                )
            case "zero_points":
                row, group = index
                first = group * (shape.rows * self.bits // WORD)
                return tuple(
                    Place("qzeros", first + word, shift, width) for word, shift, width in self._runs(row)
                )
            case "g_idx":
                return (Place("g_idx", index[0], 0, WORD),)
        return ()

    def raw(self, part: str, value: int) -> int:
        """Return a code as it is, and a zero point one less in version 1."""
        if part == "zero_points" and self.version == 1:
            return (value - 1) % (1 << self.bits)
        return value

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        zero_points = parts["zero_points"]
        if self.version == 1:
            zero_points = (zero_points - 1) & (1 << self.bits) - 1
        return {
            "qweight": self._words(parts["codes"]).T.contiguous(),
            "qzeros": self._words(zero_points.T),
            "scales": parts["scales"].T.contiguous(),
            "g_idx": parts["g_idx"].clone(),
        }

    def _unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        zero_points = self._codes(stored["qzeros"], shape.rows).T
        if self.version == 1:
            zero_points = (zero_points + 1) & (1 << self.bits) - 1
        return {
            "codes": self._codes(stored["qweight"].T, shape.cols),
            "zero_points": zero_points.contiguous(),
            "scales": stored["scales"].T.contiguous(),
            "g_idx": stored["g_idx"].clone(),
        }

    def _runs(self, position: int) -> Iterator[tuple[int, int, int]]:
        """Say where a code lies in its run of words: word, shift and width of its bits, from low to high."""
        for bit in range(position * self.bits, (position + 1) * self.bits):
            yield bit // WORD, bit % WORD, 1

    def _words(self, codes: Tensor) -> Tensor:
        return bitstream.pack_words(codes, self.bits)

    def _codes(self, words: Tensor, count: int) -> Tensor:
        return bitstream.unpack_words(words, self.bits, count)

    def to_affine(self, parts: Tensors, shape: Shape) -> Affine:
        """Take the parts as they are."""
        return Affine(
            self.bits, parts["codes"], parts["scales"], parts["zero_points"].float(), parts["g_idx"]
        )

    def from_affine(self, affine: Affine, shape: Shape) -> dict[str, Tensor]:
        """Take whole zero points and scales of float16."""
        return {
            "codes": affine.codes,
            "zero_points": whole(affine.zero_points, self.bits, self.id),
            "scales": exactly(affine.scales, torch.float16, f"{self.id}: scales"),
            "g_idx": affine.g_idx,
        }


def v1(bits: int) -> Gptq:
    """Make version 1, which stores ``zero_point - 1``."""
    return Gptq(1, bits)


def v2(bits: int) -> Gptq:
    """Make version 2."""
    return Gptq(2, bits)
