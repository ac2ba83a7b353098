"""HQQ's packed weights, as hqq 0.2.8.post1 writes them: blocks of groups, the first one high.

The weight is grouped along the in-features (``axis=1``) into a matrix with a row for each group,
``weight.view(-1, group_size)``. At b bits its rows are cut into 8/b blocks of equal height, and a byte holds
one code of each block, the first block's in its high bits. Rows of the grouped matrix of 8 groups::

    8 bits   bit  7 .. 0     4 bits   bit  7 .. 4   3 .. 0     2 bits   bit  7 6   5 4   3 2   1 0
                  row i                    row i    row i+4                  row i i+2   i+4   i+6

Three bits have words of 32: ten blocks at the shifts 27, 24, ..., 0; the top two bits stay zero, and so does
what ten blocks are longer than the matrix. At the other widths hqq fills nothing up (it loses the last groups
or fails), so the number of groups must divide into the blocks.

Sizes for R groups in all (out-features times groups of a row) of g in-features, in bits: ``W_q`` R g b, at 3
bits 32 g ceil(R / 10); ``scale`` and ``zero`` 16 R each. ``w = (code - zero) scale``, with zero points in
floating point; hqq computes it in the compute dtype, `weights` in float32.

Left out: quantized scales and zero points, ``axis=0``, groups across rows, and ``view_as_float``, which casts
the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quantcheck.codecs.affine import Affine, AffineFormat, consecutive, exactly, in_order
from quantcheck.codecs.base import Field, Place, Shape, Tensors
from quantcheck.codecs.lanes import broken_groups, fresh, grouped, join_blocks, part_blocks


@dataclass(frozen=True)
class Hqq(AffineFormat):
    """HQQ at 1, 2, 3, 4 or 8 bits.

    Parts: ``codes`` uint8 [rows, cols], ``scales`` and ``zero_points`` in floating point [rows, groups].

    Attributes:
        bits: width of a code.
        scale_dtype: of scales and zero points, hqq's compute dtype.
    """

    name: ClassVar[str] = "hqq"

    bits: int
    scale_dtype: torch.dtype = torch.float16

    @property
    def blocks(self) -> int:
        """Codes of a word."""
        return 10 if self.bits == 3 else 8 // self.bits

    @property
    def word(self) -> torch.dtype:
        """The dtype of a word."""
        return torch.int32 if self.bits == 3 else torch.uint8

    def refusal(self, shape: Shape) -> str | None:
        """Refuse shorter groups, too, and groups that do not fill the blocks."""
        if refused := super().refusal(shape) or broken_groups(shape):
            return refused
        groups, _ = grouped(shape)
        if self.bits != 3 and groups % self.blocks:
            return f"rows times groups must come in multiples of {self.blocks}, got {groups}"
        return None

    def parts(self, shape: Shape) -> dict[str, Field]:
        """Declare what `pack` takes."""
        return {
            "codes": Field(torch.uint8, (shape.rows, shape.cols), high=(1 << self.bits) - 1),
            "scales": Field(self.scale_dtype, (shape.rows, shape.groups)),
            "zero_points": Field(self.scale_dtype, (shape.rows, shape.groups)),
        }

    def stored(self, shape: Shape) -> dict[str, Field]:
        """Declare the tensors of an ``HQQLinear``."""
        groups, width = grouped(shape)
        return {
            "W_q": Field(self.word, (-(-groups // self.blocks), width)),
            "scale": Field(self.scale_dtype, (groups, 1)),
            "zero": Field(self.scale_dtype, (groups, 1)),
        }

    def place(self, part: str, shape: Shape, index: tuple[int, ...]) -> tuple[Place, ...]:
        """Find a code's group among the blocks."""
        if part != "codes":
            return ()
        groups, width = grouped(shape)
        group, column = divmod(index[0] * shape.cols + index[1], width)
        block, row = divmod(group, -(-groups // self.blocks))
        return (Place("W_q", row * width + column, self.bits * (self.blocks - 1 - block), self.bits),)

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        matrix = parts["codes"].reshape(grouped(shape))
        return {
            "W_q": join_blocks(matrix, self._shifts, self.word),
            "scale": fresh(parts["scales"], -1, 1),
            "zero": fresh(parts["zero_points"], -1, 1),
        }

    def _unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        groups, _ = grouped(shape)
        matrix = part_blocks(stored["W_q"], self._shifts, self.bits, groups)
        return {
            "codes": matrix.reshape(shape.rows, shape.cols),
            "scales": fresh(stored["scale"], shape.rows, shape.groups),
            "zero_points": fresh(stored["zero"], shape.rows, shape.groups),
        }

    @property
    def _shifts(self) -> list[int]:
        return [self.bits * block for block in reversed(range(self.blocks))]

    def to_affine(self, parts: Tensors, shape: Shape) -> Affine:
        """Take the parts as they are."""
        g_idx = consecutive(shape).to(parts["codes"].device)
        return Affine(self.bits, parts["codes"], parts["scales"], parts["zero_points"], g_idx)

    def from_affine(self, affine: Affine, shape: Shape) -> dict[str, Tensor]:
        """Take scales and zero points that the dtype holds, and groups in order."""
        in_order(affine, shape, self.id)
        return {
            "codes": affine.codes,
            "scales": exactly(affine.scales, self.scale_dtype, f"{self.id}: scales"),
            "zero_points": exactly(affine.zero_points, self.scale_dtype, f"{self.id}: zero points"),
        }
