"""The packed weight of RTN and GPTQ: one code a weight, one scale (and zero point) a row and group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quantcheck.codecs import bitstream
from quantcheck.errors import QuantizationError
from quantcheck.kernels import reference
from quantcheck.kernels.base import Grouped, Planes
from quantcheck.methods.base import MetaValue, PackedWeight
from quantcheck.methods.packed.checks import SCALE_DTYPES, UINT8, most_levels, require
from quantcheck.methods.parts.grids import centre, effective_group_size, group_index

INT32 = (torch.int32,)


@dataclass(frozen=True, eq=False)
class GroupedWeight(PackedWeight):
    """Codes of ``bits`` bits in a dense bitstream, with affine scales.

    Attributes:
        bits: width of a code.
        group_size: input columns that share a scale; the last group may be shorter.
        in_features: columns of the decoded weight.
        qweight: uint8 [out, ceil(in * bits / 8)], each row a bitstream along the in-features.
        scales: float16 or float32 [out, groups].
        zero_points: uint8 [ceil(out * groups * bits / 8)], one bitstream over all rows; ``None`` for the
            symmetric grids, whose zero point is a constant.
        g_idx: int32 [in], the group of each column; ``None`` where groups are consecutive columns.
    """

    format: ClassVar[str] = "grouped"

    bits: int
    group_size: int
    in_features: int
    qweight: Tensor
    scales: Tensor
    zero_points: Tensor | None = None
    g_idx: Tensor | None = None

    def __post_init__(self) -> None:
        rows, groups = self.qweight.shape[0], -(-self.in_features // self.group_size)
        packed = bitstream.packed_width
        require("qweight", self.qweight, UINT8, (rows, packed(self.in_features, self.bits)))
        require("scales", self.scales, SCALE_DTYPES, (rows, groups))
        if self.zero_points is not None:
            require("zero_points", self.zero_points, UINT8, (packed(rows * groups, self.bits),))
        if self.g_idx is not None:
            require("g_idx", self.g_idx, INT32, (self.in_features,))
            if not 0 <= int(self.g_idx.min()) <= int(self.g_idx.max()) < groups:
                raise QuantizationError(f"g_idx must name groups 0..{groups - 1}")

    @classmethod
    def from_codes(
        cls,
        codes: Tensor,
        scales: Tensor,
        zero_points: Tensor | None = None,
        *,
        bits: int,
        group_size: int | None = None,
        g_idx: Tensor | None = None,
    ) -> GroupedWeight:
        """Pack ``codes`` (uint8 [out, in], below ``2**bits``).

        Args:
            codes: one code a weight.
            scales: float16 or float32 [out, groups]; what is given is what is stored.
            zero_points: whole numbers in 0 .. 2^bits - 1, [out, groups]; left out for a symmetric grid, where
                they are 2^(bits-1), or 1/2 at 1 bit.
            bits: width of a code, 1 to 8.
            group_size: input columns that share a scale; left out: per channel.
            g_idx: group of each column [in], where groups are not consecutive columns.

        Raises:
            CodecError: a code or zero point does not fit, or has another dtype or shape.
            QuantizationError: scales or g_idx do not fit the codes.
        """
        packed = bitstream.pack(codes, bits)
        packed_zeros = None
        if zero_points is not None:
            if zero_points.shape != scales.shape:
                raise QuantizationError(
                    f"zero points of shape {tuple(zero_points.shape)} do not fit "
                    f"scales of shape {tuple(scales.shape)}"
                )
            narrow = zero_points.to(torch.uint8)
            if not torch.equal(narrow.to(zero_points.dtype), zero_points):
                raise QuantizationError(f"zero points must be whole numbers in 0..{2**bits - 1}")
            packed_zeros = bitstream.pack(narrow.reshape(1, -1), bits)[0]
        return cls(
            bits,
            effective_group_size(group_size, codes.shape[1]),
            codes.shape[1],
            packed,
            scales.contiguous(),
            packed_zeros,
            None if g_idx is None else g_idx.to(torch.int32).contiguous(),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """``(out_features, in_features)`` of the decoded weight."""
        return self.qweight.shape[0], self.in_features

    @property
    def nominal_bits(self) -> float:
        """The width of a code."""
        return float(self.bits)

    def tensors(self) -> dict[str, Tensor]:
        """Return ``qweight``, ``scales`` and, where they are stored, ``zero_points`` and ``g_idx``."""
        stored = {
            "qweight": self.qweight,
            "scales": self.scales,
            "zero_points": self.zero_points,
            "g_idx": self.g_idx,
        }
        return {name: tensor for name, tensor in stored.items() if tensor is not None}

    def meta(self) -> dict[str, MetaValue]:
        """Return ``bits``, ``group_size`` and ``in_features``."""
        return {"bits": self.bits, "group_size": self.group_size, "in_features": self.in_features}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], meta: Mapping[str, MetaValue]) -> GroupedWeight:
        """Put back together what `tensors` and `meta` gave."""
        return cls(
            int(meta["bits"]),
            int(meta["group_size"]),
            int(meta["in_features"]),
            tensors["qweight"],
            tensors["scales"],
            tensors.get("zero_points"),
            tensors.get("g_idx"),
        )

    def codes(self) -> Tensor:
        """Unpack the codes, uint8 [out, in]."""
        return bitstream.unpack(self.qweight, self.bits, self.in_features)

    def zeros(self) -> Tensor | float:
        """Return the zero points in code units: uint8 [out, groups], or the symmetric grids' constant."""
        if self.zero_points is None:
            return centre(self.bits)
        return bitstream.unpack(self.zero_points[None], self.bits, self.scales.numel()).view(
            self.scales.shape
        )

    def columns(self) -> Tensor:
        """Return the group of each input column, integers [in]."""
        if self.g_idx is not None:
            return self.g_idx
        return group_index(self.in_features, self.group_size, self.qweight.device)

    def decode(self) -> Tensor:
        """Return the weight that the stored tensors stand for, float32 [out, in]."""
        return reference.dequantize(self.codes(), self.scales, self.zeros(), self.columns())

    def operand(self) -> Grouped | Planes:
        """Return what kernels take: signs and half of their scale for the symmetric grids of 1 bit."""
        columns = self.columns().to(torch.int32)
        if self.zero_points is None and self.bits == 1:
            halves = self.scales.to(torch.float32)[None] / 2
            return Planes(self.in_features, self.qweight[None], halves, None, None, columns, signed=True)
        zeros = self.zeros()
        stored = zeros if isinstance(zeros, Tensor) else None
        return Grouped(self.bits, self.in_features, self.qweight, self.scales, stored, columns)

    def levels_respected(self, weight: Tensor) -> bool:
        """Tell whether each row of each group of ``weight`` takes at most ``2**bits`` values."""
        columns = self.columns()
        return all(
            most_levels(weight[:, columns == group]) <= 1 << self.bits
            for group in range(self.scales.shape[1])
        )
