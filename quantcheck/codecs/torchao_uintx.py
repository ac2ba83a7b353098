"""Torchao's uintx shards: codes of 1 to 7 bits in parts of 4, 2 and 1 bits, each part in its own tensor.

The widths of the parts add up to that of the code, the widest one with its low bits: 3 = 2 + 1, 5 = 4 + 1,
6 = 4 + 2, 7 = 4 + 2 + 1; 1, 2 and 4 bits have one shard. In the shard of w bits, a row's columns are cut into
8/w slices, and a byte holds one part of each slice, the first slice's in its low bits. Six bits, a row of 8::

    int4_shard   bit  7 .. 4   3 .. 0              int2_shard   bit  7 6   5 4   3 2   1 0
                      col j+4  col j, bits 3..0                      j+6   j+4   j+2   col j, bits 5..4

Sizes for K in-features, N out-features, G groups and b bits, in bits: the shards N K b, ``scale`` 16 N G,
``zero_point`` 32 N G. K must come in multiples of 8. ``w = (code - zero_point) scale``.

The shards are those of torchao 0.18's ``UintxTensor`` with ``pack_dim=-1``; scales and zero points lie beside
it as in its ``UintxLayout``, with the zero points int32 in the range of the codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quantcheck.codecs.affine import Affine, AffineFormat, consecutive, exactly, in_order, whole
from quantcheck.codecs.base import Field, Place, Shape, Tensors
from quantcheck.codecs.bitstream import STRIP
from quantcheck.codecs.lanes import fresh, join, part

SHARDS = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}
"""Widths of the shards of each width of codes, low bits first."""


@dataclass(frozen=True)
class Uintx(AffineFormat):
    """Uintx at 1 to 7 bits.

    Parts: ``codes`` uint8 [rows, cols], ``scales`` in floating point and ``zero_points`` int32
    [rows, groups].

    Attributes:
        bits: width of a code.
        scale_dtype: of the scales, the model's dtype.
    """

    name: ClassVar[str] = "torchao_uintx"
    cols_multiple: ClassVar[int] = 8  # type: ignore[misc]

    bits: int
    scale_dtype: torch.dtype = torch.float16

    def parts(self, shape: Shape) -> dict[str, Field]:
        """Declare what `pack` takes."""
        top = (1 << self.bits) - 1
        return {
            "codes": Field(torch.uint8, (shape.rows, shape.cols), high=top),
            "scales": Field(self.scale_dtype, (shape.rows, shape.groups)),
            "zero_points": Field(torch.int32, (shape.rows, shape.groups), high=top),
        }

    def stored(self, shape: Shape) -> dict[str, Field]:
        """Declare the shards and what lies beside them."""
        shards = {
            f"int{width}_shard": Field(torch.uint8, (shape.rows, shape.cols * width // 8))
            for width in SHARDS[self.bits]
        }
        return {
            **shards,
            "scale": Field(self.scale_dtype, (shape.rows, shape.groups)),
            "zero_point": Field(torch.int32, (shape.rows, shape.groups)),
        }

    def place(self, part: str, shape: Shape, index: tuple[int, ...]) -> tuple[Place, ...]:
        """Find the parts of a code in their shards, and a zero point in its word."""
        row, other = index
        if part == "zero_points":
            return (Place("zero_point", row * shape.groups + other, 0, 32),)
        places = []
        for width in SHARDS[self.bits]:
            size = shape.cols * width // 8
            lane, byte = divmod(other, size)
            places.append(Place(f"int{width}_shard", row * size + byte, lane * width, width))
        return tuple(places)

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        fields = self.stored(shape)
        shards = {name: parts["codes"].new_empty(fields[name].shape) for name in self._shards}
        for codes, *strips in self._strips(parts["codes"], shards):
            low = 0
            for width, strip in zip(SHARDS[self.bits], strips, strict=True):
                values = (codes >> low).bitwise_and_((1 << width) - 1)
                slices = values.reshape(len(codes), 8 // width, strip.shape[1]).unbind(1)
                strip.copy_(join(slices, range(0, 8, width)))
                low += width
        return {
            **shards,
            "scale": fresh(parts["scales"], shape.rows, shape.groups),
            "zero_point": fresh(parts["zero_points"], shape.rows, shape.groups),
        }

    def _unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        unpacked = stored["scale"].new_zeros((shape.rows, shape.cols), dtype=torch.uint8)
        for codes, *strips in self._strips(unpacked, stored):
            low = 0
            for width, strip in zip(SHARDS[self.bits], strips, strict=True):
                values = codes.new_empty((len(codes), 8 // width, strip.shape[1]))
                part(strip, range(0, 8, width), width, values.unbind(1))
                codes.bitwise_or_(values.view(codes.shape) << low)
                low += width
        return {
            "codes": unpacked,
            "scales": fresh(stored["scale"], shape.rows, shape.groups),
            "zero_points": fresh(stored["zero_point"], shape.rows, shape.groups),
        }

    @property
    def _shards(self) -> list[str]:
        return [f"int{width}_shard" for width in SHARDS[self.bits]]

    def _strips(self, codes: Tensor, shards: Tensors) -> zip[tuple[Tensor, ...]]:
        """Cut codes and shards into strips of rows that stay in the cache."""
        rows = max(1, STRIP // max(codes.shape[1], 1))
        together = (codes, *(shards[name] for name in self._shards))
        return zip(*(torch.split(each, rows) for each in together), strict=True)

    def to_affine(self, parts: Tensors, shape: Shape) -> Affine:
        """Take the parts as they are."""
        g_idx = consecutive(shape).to(parts["codes"].device)
        return Affine(self.bits, parts["codes"], parts["scales"], parts["zero_points"].float(), g_idx)

    def from_affine(self, affine: Affine, shape: Shape) -> dict[str, Tensor]:
        """Take whole zero points, scales that the dtype holds, and groups in order."""
        in_order(affine, shape, self.id)
        return {
            "codes": affine.codes,
            "scales": exactly(affine.scales, self.scale_dtype, f"{self.id}: scales"),
            "zero_points": whole(affine.zero_points, self.bits, self.id).to(torch.int32),
        }
