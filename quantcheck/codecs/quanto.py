"""Quanto's packed weights, as optimum-quanto 0.2.7 writes them: blocks of groups, the first one low.

The weight is grouped along the in-features (``axis=0``) into a matrix with a row for each group,
``weight.view(-1, group_size)``. At b bits its rows are cut into 8/b blocks, and a byte holds one code of each
block, the first block's in its low bits, which is HQQ upside down. Rows of the grouped matrix of 8 groups::

    4 bits   bit  7 .. 4   3 .. 0     2 bits   bit  7 6   5 4   3 2   1 0
                  row i+4  row i                    row i+6 i+4   i+2   i

Where the blocks are longer than the matrix the last one is filled up with zeros.

Sizes for R groups in all (out-features times groups of a row) of g in-features, in bits: ``_data._data``
8 g ceil(R b / 8); ``_scale`` and ``_shift`` 16 R each. ``w = code scale - shift``, with shifts in the
weights' own units; quanto computes it in the dtype of the scales, `weights` in float32.

Left out: integer shifts (``zeropoint=True``, which no quantized module asks for), ``axis=-1``, and the
layouts of AWQ, Marlin and tinygemm, which quanto makes of this one when it loads and never saves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quantcheck.codecs.base import Field, Place, Shape, Tensors
from quantcheck.codecs.lanes import broken_groups, fresh, grouped, join_blocks, part_blocks
from quantcheck.codecs.shifted import ShiftedFormat

DATA, SCALE, SHIFT = "weight._data._data", "weight._scale", "weight._shift"


@dataclass(frozen=True)
class Quanto(ShiftedFormat):
    """Quanto at 2 or 4 bits; its parts are those of `ShiftedFormat`.

    Attributes:
        bits: width of a code.
        scale_dtype: of scales and shifts, the model's dtype.
    """

    name: ClassVar[str] = "quanto"
    middle: ClassVar[int] = 0
    sign: ClassVar[int] = -1

    bits: int
    scale_dtype: torch.dtype = torch.float16

    @property
    def blocks(self) -> int:
        """Codes of a byte."""
        return 8 // self.bits

    def refusal(self, shape: Shape) -> str | None:
        """Refuse shorter groups, too."""
        return super().refusal(shape) or broken_groups(shape)

    def stored(self, shape: Shape) -> dict[str, Field]:
        """Declare the tensors of a ``QLinear``."""
        groups, width = grouped(shape)
        return {
            DATA: Field(torch.uint8, (-(-groups // self.blocks), width)),
            SCALE: Field(self.scale_dtype, (groups, 1)),
            SHIFT: Field(self.scale_dtype, (groups, 1)),
        }

    def place(self, part: str, shape: Shape, index: tuple[int, ...]) -> tuple[Place, ...]:
        """Find a code's group among the blocks."""
        if part != "codes":
            return ()
        groups, width = grouped(shape)
        group, column = divmod(index[0] * shape.cols + index[1], width)
        block, row = divmod(group, -(-groups // self.blocks))
        return (Place(DATA, row * width + column, self.bits * block, self.bits),)

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        return {
            DATA: join_blocks(parts["codes"].reshape(grouped(shape)), self._shifts),
            SCALE: fresh(parts["scales"], -1, 1),
            SHIFT: fresh(parts["shifts"], -1, 1),
        }

    def _unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        groups, _ = grouped(shape)
        matrix = part_blocks(stored[DATA], self._shifts, self.bits, groups)
        return {
            "codes": matrix.reshape(shape.rows, shape.cols),
            "scales": fresh(stored[SCALE], shape.rows, shape.groups),
            "shifts": fresh(stored[SHIFT], shape.rows, shape.groups),
        }

    @property
    def _shifts(self) -> list[int]:
        return [self.bits * block for block in range(self.blocks)]
