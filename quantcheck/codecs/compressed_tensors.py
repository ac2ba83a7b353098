"""compressed-tensors' ``pack-quantized`` in both of its forms: one name, two layouts of bytes.

Codes are packed along the in-features into 32-bit words, the first in the lowest bits, row by row:

- dense (since the middle of 2026, 0.19.0 among them): the dense bitstream, codes straddle words; a row takes
  ``ceil(cols * bits / 32)`` words.
- padded (before): ``n = 32 // bits`` codes a word, the bits to spare are zero; a row takes ``ceil(cols / n)``
  words. Three bits, codes a to j::

    bit 31 30 | 29..27 | 26..24 | ... | 5..3 | 2..0
          0   |   j    |   i    |     |  b   |  a

At 1, 2, 4 and 8 bits both are the same bytes. At the others nothing in a file tells them apart but the number
of words, and rows short enough have the same number in both (3 bits: up to 10 columns).

A field holds the signed code plus ``2**(bits - 1)``; parts are the fields as they are, so that here, too,
``w = (code - zero_point) scale``. Stored are

- ``weight_packed`` int32 [N, words];
- ``weight_scale`` [N, G] in the dtype of the model;
- ``weight_zero_point`` int32 [words of N codes, G], packed along the out-features in the same form; symmetric
  codecs have none: it is ``2**(bits - 1)``;
- ``weight_shape`` int64 [2] (0.12.2 declares int32 and writes int64);
- ``weight_g_idx`` int32 [K] for activation order by group, which 0.19.0 no longer has.

Groups fill the in-features.

Sizes in bits for K in-features, N out-features, G groups and words of n codes: ``32 N ceil(K / n)`` and
``32 G ceil(N / n)``, dense ``32 ceil(K bits / 32) N`` and ``32 ceil(N bits / 32) G``; scales 16 N G at half
precision, ``weight_shape`` 128, ``weight_g_idx`` 32 K.

Source: compressed-tensors 0.19.0 and 0.12.2. Left out: one scale for a whole tensor, and activations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantcheck.codecs import CodecError, bitstream
from quantcheck.codecs.affine import Affine, AffineFormat, consecutive, exactly, in_order, ragged, whole
from quantcheck.codecs.base import Field, Place, Shape, Tensors

WORD = 32


@dataclass(frozen=True)
class PackQuantized(AffineFormat):
    """compressed-tensors' packed integers at 1 to 8 bits.

    Parts: ``codes`` uint8 [rows, cols]; ``zero_points`` uint8 [rows, groups], unless symmetric; ``scales``
    [rows, groups]; ``g_idx`` int32 [cols], if act_order.

    Attributes:
        bits: width of a code.
        dense: whether codes straddle words.
        symmetric: whether all zero points are ``2**(bits - 1)``, and left out.
        act_order: whether ``weight_g_idx`` is stored; else groups are consecutive in-features.
        scale_dtype: of the scales.
    """

    bits: int
    dense: bool
    symmetric: bool = False
    act_order: bool = False
    scale_dtype: torch.dtype = torch.float16

    @property
    def name(self) -> str:  # type: ignore[override]
        """``ct_dense`` or ``ct_padded``."""
        return "ct_dense" if self.dense else "ct_padded"

    def refusal(self, shape: Shape) -> str | None:
        """Refuse groups that do not fill the columns, too."""
        return super().refusal(shape) or ragged(shape)

    def parts(self, shape: Shape) -> dict[str, Field]:
        """Declare what `pack` takes."""
        top, grouped = (1 << self.bits) - 1, (shape.rows, shape.groups)
        fields = {"codes": Field(torch.uint8, (shape.rows, shape.cols), high=top)}
        if not self.symmetric:
            fields["zero_points"] = Field(torch.uint8, grouped, high=top)
        fields["scales"] = Field(self.scale_dtype, grouped)
        if self.act_order:
            fields["g_idx"] = Field(torch.int32, (shape.cols,), high=max(shape.groups - 1, 0))
        return fields

    def stored(self, shape: Shape) -> dict[str, Field]:
        """Declare the tensors of the checkpoint."""
        fields = {"weight_packed": Field(torch.int32, (shape.rows, self._width(shape.cols)))}
        if not self.symmetric:
            fields["weight_zero_point"] = Field(torch.int32, (self._width(shape.rows), shape.groups))
        fields["weight_scale"] = Field(self.scale_dtype, (shape.rows, shape.groups))
        fields["weight_shape"] = Field(torch.int64, (2,))
        if self.act_order:
            fields["weight_g_idx"] = Field(torch.int32, (shape.cols,))
        return fields

    def place(self, part: str, shape: Shape, index: tuple[int, ...]) -> tuple[Place, ...]:
        """Follow the bits of one code along its row of words, or of one zero point down its column."""
        match part:
            case "codes":
                row, column = index
                first = row * self._width(shape.cols)
                return tuple(Place("weight_packed", first + word, bit, 1) for word, bit in self._run(column))
            case "zero_points":
                row, group = index
                return tuple(
                    Place("weight_zero_point", word * shape.groups + group, bit, 1)
                    for word, bit in self._run(row)
                )
            case "g_idx":
                return (Place("weight_g_idx", index[0], 0, WORD),)
        return ()

    def _run(self, position: int) -> list[tuple[int, int]]:
        """Return the word and the place in it of each bit of a code."""
        if self.dense:
            return [divmod(position * self.bits + bit, WORD) for bit in range(self.bits)]
        word, field = divmod(position, WORD // self.bits)
        return [(word, field * self.bits + bit) for bit in range(self.bits)]

    def _width(self, count: int) -> int:
        """Words that a run of codes takes."""
        return -(-count * self.bits // WORD) if self.dense else -(-count // (WORD // self.bits))

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        stored = {
            "weight_packed": self._words(parts["codes"]),
            "weight_scale": parts["scales"].contiguous(),
            "weight_shape": torch.tensor([shape.rows, shape.cols], device=parts["codes"].device),
        }
        if not self.symmetric:
            stored["weight_zero_point"] = self._words(parts["zero_points"].T).T.contiguous()
        if self.act_order:
            stored["weight_g_idx"] = parts["g_idx"].contiguous()
        return stored

    def _unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        kept = stored["weight_shape"].tolist()
        if kept != [shape.rows, shape.cols]:
            raise CodecError(f"{self.id}: weight_shape says {kept}, expected {[shape.rows, shape.cols]}")
        parts = {
            "codes": self._codes(stored["weight_packed"], shape.cols),
            "scales": stored["weight_scale"].contiguous(),
        }
        if not self.symmetric:
            parts["zero_points"] = self._codes(stored["weight_zero_point"].T, shape.rows).T.contiguous()
        if self.act_order:
            parts["g_idx"] = stored["weight_g_idx"].contiguous()
        return parts

    def to_affine(self, parts: Tensors, shape: Shape) -> Affine:
        """Take the parts as they are, or as symmetric codes and groups in order stand for them."""
        codes, scales = parts["codes"], parts["scales"]
        zero_points = torch.full_like(scales, self._centre, dtype=torch.float32)
        if not self.symmetric:
            zero_points = parts["zero_points"].float()
        g_idx = parts["g_idx"] if self.act_order else consecutive(shape).to(codes.device)
        return Affine(self.bits, codes, scales, zero_points, g_idx)

    def from_affine(self, affine: Affine, shape: Shape) -> dict[str, Tensor]:
        """Take whole zero points (symmetric: the centre alone), scales of the dtype, groups of any order."""
        parts = {
            "codes": affine.codes,
            "scales": exactly(affine.scales, self.scale_dtype, f"{self.id}: scales"),
        }
        zero_points = whole(affine.zero_points, self.bits, self.id)
        if not self.symmetric:
            parts["zero_points"] = zero_points
        elif not bool((zero_points == self._centre).all()):
            raise CodecError(f"{self.id} is symmetric: its zero points are {self._centre} alone")
        if self.act_order:
            parts["g_idx"] = affine.g_idx
        else:
            in_order(affine, shape, self.id)
        return parts

    @property
    def _centre(self) -> int:
        return 1 << (self.bits - 1)

    def _words(self, codes: Tensor) -> Tensor:
        if self.dense or WORD % self.bits == 0:
            return bitstream.pack_words(codes, self.bits)
        rows, count = codes.shape
        words = codes.new_zeros(rows, self._width(count), dtype=torch.int32)
        for field in range(WORD // self.bits):
            lane = codes[:, field :: WORD // self.bits].to(torch.int32)
            words[:, : lane.shape[1]] |= lane << field * self.bits
        return words

    def _codes(self, words: Tensor, count: int) -> Tensor:
        if self.dense or WORD % self.bits == 0:
            return bitstream.unpack_words(words, self.bits, count)
        codes = words.new_empty(words.shape[0], count, dtype=torch.uint8)
        for field in range(WORD // self.bits):
            lane = codes[:, field :: WORD // self.bits]
            lane.copy_(words[:, : lane.shape[1]] >> field * self.bits & (1 << self.bits) - 1)
        return codes


def dense(bits: int, *, symmetric: bool = False, act_order: bool = False) -> PackQuantized:
    """Make the dense form; asymmetric and with groups in order, as 0.19.0 writes it, unless told."""
    return PackQuantized(bits, True, symmetric, act_order)


def padded(bits: int, *, symmetric: bool = False, act_order: bool = True) -> PackQuantized:
    """Make the padded form; asymmetric and with ``weight_g_idx`` unless told."""
    return PackQuantized(bits, False, symmetric, act_order)
