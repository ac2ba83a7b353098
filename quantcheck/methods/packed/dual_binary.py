"""The packed weight of DB-LLM: two bit planes, each with a scale a row and group.

Flexible dual binarization, of Chen et al., "DB-LLM: Accurate Dual-Binarization for Efficient LLMs", Findings
of ACL 2024::

    w = a1 b1 + a2 b2,  b1, b2 in {0, 1}        levels 0, a1, a2, a1 + a2

With a1 > 0 > a2 and a1 + a2 >= 0 the levels lie in the order a2, 0, a1 + a2, a1, and with H(0) = 1 ::

    b1 = H(w - (a1 + a2) / 2)        b2 = H(-(w - a1 b1 - a2 / 2))

tests exactly the midpoints between them: every weight goes to its nearest level. A mirrored group has
a1 < 0 < a2, the signs of all levels turned over; the sign of a1 tells, so that nothing more is stored. With
two float16 scales a group of g weights takes 2 + 32/g bits a weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from quantcheck.codecs import bitstream
from quantcheck.errors import QuantizationError
from quantcheck.kernels.base import Planes
from quantcheck.methods.base import MetaValue, PackedWeight
from quantcheck.methods.packed.checks import SCALE_DTYPES, UINT8, most_levels, require
from quantcheck.methods.parts.grids import effective_group_size, group_index

LEVELS = 4


@dataclass(frozen=True, eq=False)
class DualBinaryWeight(PackedWeight):
    """Two bit planes with their scales.

    Attributes:
        group_size: input columns that share the two scales; the last group may be shorter.
        in_features: columns of the decoded weight.
        b1: uint8 [out, ceil(in / 8)], the plane of ``a1``; each row a bitstream.
        b2: uint8 [out, ceil(in / 8)], the plane of ``a2``.
        a1: float16 or float32 [out, groups].
        a2: float16 or float32 [out, groups], of the other sign than ``a1`` and not of larger magnitude.
    """

    format: ClassVar[str] = "dual_binary"

    group_size: int
    in_features: int
    b1: Tensor
    b2: Tensor
    a1: Tensor
    a2: Tensor

    def __post_init__(self) -> None:
        rows, groups = self.b1.shape[0], -(-self.in_features // self.group_size)
        for name, plane in (("b1", self.b1), ("b2", self.b2)):
            require(name, plane, UINT8, (rows, bitstream.packed_width(self.in_features, 1)))
        for name, scale in (("a1", self.a1), ("a2", self.a2)):
            require(name, scale, SCALE_DTYPES, (rows, groups))
        if not (turned(self.a1) * self.a2 < 0).all() or not (self.a1.abs() >= self.a2.abs()).all():
            raise QuantizationError("a1 and a2 must differ in sign, and a1 must not be the smaller one")

    @classmethod
    def nearest(cls, weight: Tensor, a1: Tensor, a2: Tensor, group_size: int | None) -> DualBinaryWeight:
        """Send each weight to its nearest level.

        Args:
            weight: float32 [out, in].
            a1: float16 or float32 [out, groups]; what is given is what is stored.
            a2: as ``a1``.
            group_size: input columns that share the two scales; ``None``: per channel.

        Raises:
            QuantizationError: the scales do not fit the weight or one another.
        """
        in_features = weight.shape[1]
        size = effective_group_size(group_size, in_features)
        high, low = (scale.to(torch.float32)[..., None] for scale in (a1, a2))
        b1, b2 = (
            bitstream.pack(by_column(plane, in_features).to(torch.uint8), 1)
            for plane in nearest_planes(by_group(weight, size), high, low)
        )
        return cls(size, in_features, b1, b2, a1.contiguous(), a2.contiguous())

    @property
    def shape(self) -> tuple[int, int]:
        """``(out_features, in_features)`` of the decoded weight."""
        return self.b1.shape[0], self.in_features

    @property
    def nominal_bits(self) -> float:
        """Two: one a plane."""
        return 2.0

    def tensors(self) -> dict[str, Tensor]:
        """Return the planes ``b1`` and ``b2`` and the scales ``a1`` and ``a2``."""
        return {"b1": self.b1, "b2": self.b2, "a1": self.a1, "a2": self.a2}

    def meta(self) -> dict[str, MetaValue]:
        """Return ``group_size`` and ``in_features``."""
        return {"group_size": self.group_size, "in_features": self.in_features}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], meta: Mapping[str, MetaValue]) -> DualBinaryWeight:
        """Put back together what `tensors` and `meta` gave."""
        return cls(int(meta["group_size"]), int(meta["in_features"]), **tensors)

    def planes(self) -> tuple[Tensor, Tensor]:
        """Unpack ``b1`` and ``b2``, uint8 [out, in]."""
        first, second = (bitstream.unpack(plane, 1, self.in_features) for plane in (self.b1, self.b2))
        return first, second

    def decode(self) -> Tensor:
        """Return the weight that the stored tensors stand for, float32 [out, in]."""
        columns = group_index(self.in_features, self.group_size, self.b1.device)
        first, second = self.planes()
        a1, a2 = (scale.to(torch.float32)[:, columns] for scale in (self.a1, self.a2))
        return combine(first, second, a1, a2)

    def operand(self) -> Planes:
        """Return what kernels take."""
        columns = group_index(self.in_features, self.group_size, self.b1.device).to(torch.int32)
        planes, scales = torch.stack([self.b1, self.b2]), torch.stack([self.a1, self.a2])
        return Planes(self.in_features, planes, scales, None, None, columns, signed=False)

    def levels_respected(self, weight: Tensor) -> bool:
        """Tell whether each row of each group of ``weight`` takes at most four values."""
        return all(most_levels(group) <= LEVELS for group in torch.split(weight, self.group_size, dim=1))


def turned(a1: Tensor) -> Tensor:
    """Return -1 for mirrored groups, else 1."""
    return torch.where(a1 < 0, -1.0, 1.0)


def nearest_planes(weight: Tensor, a1: Tensor, a2: Tensor) -> tuple[Tensor, Tensor]:
    """Return the planes b1 and b2 of the levels nearest to ``weight``, bool; scales must broadcast."""
    sign = turned(a1)
    upright, high, low = sign * weight, sign * a1, sign * a2
    b1 = upright >= (high + low) / 2
    return b1, upright - high * b1 <= low / 2


def combine(b1: Tensor, b2: Tensor, a1: Tensor, a2: Tensor) -> Tensor:
    """Return ``a1 b1 + a2 b2``; scales must broadcast."""
    return a1 * b1 + a2 * b2


def by_group(matrix: Tensor, group_size: int) -> Tensor:
    """View [out, in] as [out, groups, group_size], the last group filled up with zeros."""
    missing = -matrix.shape[1] % group_size
    padded = F.pad(matrix, (0, missing)) if missing else matrix
    return padded.reshape(matrix.shape[0], -1, group_size)


def by_column(groups: Tensor, in_features: int) -> Tensor:
    """Undo `by_group`: [out, in]."""
    return groups.flatten(1)[:, :in_features]
