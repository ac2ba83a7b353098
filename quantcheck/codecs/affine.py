"""Integer codes with scales and zero points, ``w = scale (code - zero_point)``: what most formats hold.

Formats of this kind convert into each other by way of `Affine`, which each can read and make; one that
cannot express what it is given says so.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from quantcheck.codecs import CodecError
from quantcheck.codecs.base import Codec, Format, Shape, Tensors


@dataclass(frozen=True, eq=False)
class Affine:
    """A weight of any affine format.

    Attributes:
        bits: width of a code.
        codes: uint8 [rows, cols].
        scales: floating point [rows, groups].
        zero_points: in code units, [rows, groups]; floating point, integers in most formats.
        g_idx: int32 [cols], the group of each column.
    """

    bits: int
    codes: Tensor
    scales: Tensor
    zero_points: Tensor
    g_idx: Tensor

    def weights(self) -> Tensor:
        """Decode, float32 [rows, cols]; the difference is exact, so each weight is rounded once."""
        columns = self.g_idx.long()
        levels = self.codes.float() - self.zero_points.float()[:, columns]
        return levels * self.scales.float()[:, columns]


def consecutive(shape: Shape) -> Tensor:
    """Return the groups of columns in their order, int32 [cols]."""
    return torch.arange(shape.cols, dtype=torch.int32) // (shape.group_size or max(shape.cols, 1))


class AffineFormat(Format):
    """A format whose parts are an `Affine` in other words."""

    @abstractmethod
    def to_affine(self, parts: Tensors, shape: Shape) -> Affine:
        """Say what the parts stand for.

        Raises:
            CodecError: no affine codes say exactly that.
        """

    @abstractmethod
    def from_affine(self, affine: Affine, shape: Shape) -> dict[str, Tensor]:
        """Return the parts that stand for the same weights, bit for bit.

        Raises:
            CodecError: the format has no such parts.
        """

    def weights(self, parts: Tensors, shape: Shape) -> Tensor:
        """Return the weights that the parts stand for, float32 [rows, cols]."""
        return self.to_affine(parts, shape).weights()

    def encode(self, weights: Tensor, parts: Tensors, shape: Shape) -> Tensor:
        """Return the codes nearest to ``weights`` [rows, cols] under the scales and zero points of ``parts``.

        What lies beyond the range saturates; half-way the even code is taken; a scale of 0 gives the code at
        its zero point.

        Raises:
            CodecError: no affine codes say what the parts do, or a weight or scale is NaN.
        """
        field = self.parts(shape)["codes"]
        affine = self.to_affine({**parts, "codes": torch.zeros_like(parts["codes"])}, shape)
        columns = affine.g_idx.long()
        scales = affine.scales.float()[:, columns]
        levels = torch.where(scales == 0, 0, weights.float() / scales)
        levels = levels + affine.zero_points.float()[:, columns]
        if bool(levels.isnan().any()):
            raise CodecError(f"{self.id}: a weight or scale of shape {tuple(weights.shape)} is NaN")
        return levels.round().clamp(field.low, field.high).to(field.dtype)


def convert(stored: Tensors, source: Codec, target: Codec, shape: Shape) -> dict[str, Tensor]:
    """Turn tensors of one affine format into those of another that decode to the same weights.

    Raises:
        CodecError: one of them is not affine, their widths differ, or the target cannot express the weights.
    """
    for codec in (source, target):
        if not isinstance(codec, AffineFormat):
            raise CodecError(f"{codec.id} holds no affine codes, so it cannot be converted")
    assert isinstance(source, AffineFormat) and isinstance(target, AffineFormat)
    if source.bits != target.bits:
        raise CodecError(f"{source.id} has codes of {source.bits} bits, {target.id} of {target.bits}")
    affine = source.to_affine(source.unpack(stored, shape), shape)
    return target.pack(target.from_affine(affine, shape), shape)


def ragged(shape: Shape) -> str | None:
    """Say that the last group of a row is shorter, for the `refusal` of a format that has no such group."""
    if shape.group_size and shape.cols % shape.group_size:
        return f"groups must fill the columns, got {shape.cols} columns at group_size {shape.group_size}"
    return None


def in_order(affine: Affine, shape: Shape, target: str) -> None:
    """Refuse groups out of order, for a format without ``g_idx``; raises `CodecError`."""
    if not torch.equal(affine.g_idx.cpu(), consecutive(shape)):
        raise CodecError(f"{target} has no g_idx: groups must lie in the order of their columns")


def exactly(values: Tensor, dtype: torch.dtype, what: str) -> Tensor:
    """Cast ``values`` where nothing is lost; raises `CodecError` elsewhere."""
    cast = values.to(dtype)
    # NaN scales survive a cast, too.
    if not torch.equal(cast.double().nan_to_num(nan=0.5), values.double().nan_to_num(nan=0.5)):
        raise CodecError(
            f"{what} of {values.dtype} and shape {tuple(values.shape)} do not fit {dtype} exactly"
        )
    return cast


def whole(zero_points: Tensor, bits: int, target: str) -> Tensor:
    """Return zero points as uint8 codes; raises `CodecError` where they are none."""
    top = (1 << bits) - 1
    if not bool(((zero_points == zero_points.round()) & (zero_points >= 0) & (zero_points <= top)).all()):
        raise CodecError(f"{target} has whole zero points in 0..{top} alone")
    return zero_points.to(torch.uint8)


def same(weights: Tensor, others: Tensor, target: str) -> None:
    """Refuse weights of other bits, for a format that computes them otherwise; raises `CodecError`."""
    differ = weights.view(torch.int32) != others.view(torch.int32)
    count = int((differ & ~(weights.isnan() & others.isnan())).sum())
    if count:
        raise CodecError(f"{target} cannot express {count} of {weights.numel()} weights bit for bit")
