"""Codes with a scale and a shift in the weights' own units: ``w = (code - middle) scale + sign shift``.

Such a weight is affine with the zero point ``middle - sign shift / scale``, wherever float32 says the same
with both; elsewhere a conversion is refused.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from quantcheck.codecs import CodecError
from quantcheck.codecs.affine import Affine, AffineFormat, consecutive, exactly, in_order
from quantcheck.codecs.base import Field, Shape, Tensors


class ShiftedFormat(AffineFormat):
    """A format with shifts instead of zero points.

    Parts: ``codes`` uint8 [rows, cols], ``scales`` and ``shifts`` in floating point [rows, groups].

    Attributes:
        middle: the code that stands for the shift itself.
        sign: of the stored shift, 1 or -1.
    """

    middle: ClassVar[int]
    sign: ClassVar[int]

    @property
    @abstractmethod
    def scale_dtype(self) -> torch.dtype:
        """The dtype of scales and shifts."""

    def parts(self, shape: Shape) -> dict[str, Field]:
        """Declare what `pack` takes."""
        return {
            "codes": Field(torch.uint8, (shape.rows, shape.cols), high=(1 << self.bits) - 1),
            "scales": Field(self.scale_dtype, (shape.rows, shape.groups)),
            "shifts": Field(self.scale_dtype, (shape.rows, shape.groups)),
        }

    def weights(self, parts: Tensors, shape: Shape) -> Tensor:
        """Return the weights, float32 [rows, cols], rounded once scaled and once shifted."""
        columns = consecutive(shape).long()
        scaled = (parts["codes"].float() - self.middle) * parts["scales"].float()[:, columns]
        return scaled + self.sign * parts["shifts"].float()[:, columns]

    def to_affine(self, parts: Tensors, shape: Shape) -> Affine:
        """Divide the shifts by the scales, where the weights stay the same bit for bit."""
        scales, shifts = parts["scales"].double(), self.sign * parts["shifts"].double()
        zero_points = torch.where(shifts == 0, self.middle, self.middle - shifts / scales).float()
        g_idx = consecutive(shape).to(parts["codes"].device)
        affine = Affine(self.bits, parts["codes"], parts["scales"], zero_points, g_idx)
        # Exact in float64: a float32 zero point times the scale.
        exact = (self.middle - zero_points.double()) * scales == shifts
        self._confirm(bool(exact.all()) and _same(affine.weights(), self.weights(parts, shape)), affine)
        return affine

    def from_affine(self, affine: Affine, shape: Shape) -> dict[str, Tensor]:
        """Multiply the zero points by the scales, where the weights stay the same bit for bit."""
        in_order(affine, shape, self.id)
        shifts = self.sign * (self.middle - affine.zero_points.double()) * affine.scales.double()
        parts = {
            "codes": affine.codes,
            "scales": exactly(affine.scales, self.scale_dtype, f"{self.id}: scales"),
            "shifts": exactly(shifts, self.scale_dtype, f"{self.id}: shifts"),
        }
        self._confirm(_same(affine.weights(), self.weights(parts, shape)), affine)
        return parts

    def _confirm(self, same: bool, affine: Affine) -> None:
        if not same:
            raise CodecError(
                f"{self.id}: shifts of {self.scale_dtype} and zero points of {affine.zero_points.dtype}, "
                f"both of shape {tuple(affine.scales.shape)}, do not say the same weights in float32"
            )


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two weights are bit-equal; a NaN is one whatever its bits."""
    equal = one.view(torch.int32) == other.view(torch.int32)
    return bool((equal | one.isnan() & other.isnan()).all())
