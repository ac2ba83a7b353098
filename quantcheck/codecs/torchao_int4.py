"""Torchao's plain int4: two columns a byte, the even one high; and the scales that tinygemm's kernels take.

::

    byte j of a row   bit  7 .. 4      3 .. 0
                           column 2j   column 2j+1

Each group has a scale and a shift in bfloat16, side by side in ``scale_and_zero`` [groups, rows, 2], and
``w = (code - 8) scale + shift``: the shift, torchao's "zero point in the floating-point domain", is the
weight of code 8. Sizes for K in-features, N out-features and G groups, in bits: ``qdata`` 4 N K,
``scale_and_zero`` 32 N G. K must be even, and groups are whole. Torchao computes weights in bfloat16,
`weights` in float32.

The bytes are what torchao's ``groupwise_affine_quantize_tensor`` makes for CUDA, and what its tile packing
starts from. Left out: the same for XPU, which has the odd column high, and ``Int4Tensor`` of torchao 0.18
(``Int4WeightOnlyConfig``, also called plain), which has the odd column high, codes as two's complement, and
scales and shifts in two tensors; its packer is in ``mslk``.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quantcheck.codecs.base import Field, Place, Shape, Tensors
from quantcheck.codecs.lanes import broken_groups, fresh, join, part
from quantcheck.codecs.shifted import ShiftedFormat


class Tinygemm(ShiftedFormat):
    """Four-bit codes with scales and shifts for tinygemm; its parts are those of `ShiftedFormat`."""

    middle: ClassVar[int] = 8
    sign: ClassVar[int] = 1

    @property
    def scale_dtype(self) -> torch.dtype:
        """The kernels' only dtype."""
        return torch.bfloat16

    def refusal(self, shape: Shape) -> str | None:
        """Refuse shorter groups, too."""
        return super().refusal(shape) or broken_groups(shape)

    def stored(self, shape: Shape) -> dict[str, Field]:
        """Declare the codes and, beside them, ``scale_and_zero``."""
        return {
            "qdata": self.data(shape),
            "scale_and_zero": Field(torch.bfloat16, (shape.groups, shape.rows, 2)),
        }

    @abstractmethod
    def data(self, shape: Shape) -> Field:
        """Declare the packed codes."""

    def _pack_scales(self, parts: Tensors) -> Tensor:
        return torch.stack([parts["scales"].T, parts["shifts"].T], dim=2)

    def _unpack_scales(self, scale_and_zero: Tensor) -> dict[str, Tensor]:
        scales, shifts = scale_and_zero.permute(2, 1, 0)
        return {"scales": fresh(scales, *scales.shape), "shifts": fresh(shifts, *shifts.shape)}


@dataclass(frozen=True)
class PlainInt4(Tinygemm):
    """Plain int4.

    Attributes:
        bits: width of a code, 4.
    """

    name: ClassVar[str] = "torchao_int4"
    cols_multiple: ClassVar[int] = 2  # type: ignore[misc]

    bits: int = 4

    def data(self, shape: Shape) -> Field:
        """Declare the packed codes: half a byte each."""
        return Field(torch.uint8, (shape.rows, shape.cols // 2))

    def place(self, part: str, shape: Shape, index: tuple[int, ...]) -> tuple[Place, ...]:
        """Find a code in its byte."""
        if part != "codes":
            return ()
        row, col = index
        return (Place("qdata", (row * shape.cols + col) // 2, 0 if col % 2 else 4, 4),)

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        codes = parts["codes"]
        return {
            "qdata": join((codes[:, 0::2], codes[:, 1::2]), (4, 0)),
            "scale_and_zero": self._pack_scales(parts),
        }

    def _unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        codes = stored["qdata"].new_empty((shape.rows, shape.cols))
        part(stored["qdata"], (4, 0), 4, (codes[:, 0::2], codes[:, 1::2]))
        return {"codes": codes, **self._unpack_scales(stored["scale_and_zero"])}
