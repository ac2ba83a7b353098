"""The fast kernels for the CPU: decoded and multiplied a strip of rows at a time, while it is in cache.

Torch's dequantize-then-matmul writes the decoded weight to memory and reads it back, pass by pass. Here a
strip of some `STRIP` weights is decoded in float32, in a few passes in cache, and multiplied at once; sums
are float32, whatever the inputs are.

Integer codes and bit planes are laid out in lanes, for which torch has vectorized operations on whole rows,
where the bitstream, in which neighbours share a byte, has none. A row of four-bit codes is cut into halves::

    byte i of a row        bit 7 6 5 4 3 2 1 0
    columns, n in a half       i + n       i

A lane has 1, 2, 4 or 8 bits, the fewest that hold a code: codes of 3 bits take 4 here, and those of 5 to 7
bits take 8. Codes of a codebook stay as they are, and a byte is looked up to two levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd, lcm
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from quantcheck.codecs import bitstream
from quantcheck.kernels.base import Codebook, Grouped, Planes
from quantcheck.kernels.checked import CheckedKernel, Prepared
from quantcheck.kernels.order import Order
from quantcheck.kernels.reference import centre

STRIP = 1 << 18
"""Weights that are decoded at once: 1 MiB of float32, which a second-level cache holds."""


@dataclass(frozen=True, eq=False)
class Lanes:
    """Rows of codes, cut into lanes that lie over one another in the bits of a byte.

    Attributes:
        cols: codes of a row.
        width: bits of a lane: 1, 2, 4 or 8.
        bytes: uint8 [rows, ceil(cols * width / 8)].
    """

    cols: int
    width: int
    bytes: Tensor

    @classmethod
    def of(cls, codes: Tensor, bits: int) -> Lanes:
        """Lay out ``codes``, uint8 [rows, cols] of ``bits`` bits."""
        width = next(width for width in (1, 2, 4, 8) if width >= bits)
        lanes = 8 // width
        size = -(-codes.shape[1] // lanes)
        padded = F.pad(codes, (0, lanes * size - codes.shape[1]))
        packed = torch.zeros(len(codes), size, dtype=torch.uint8, device=codes.device)
        for lane in range(lanes):
            packed |= padded[:, lane * size : (lane + 1) * size] << lane * width
        return cls(codes.shape[1], width, packed)

    def read(self, rows: slice) -> Tensor:
        """Read the codes of some rows, float32 [rows, cols]."""
        packed = self.bytes[rows]
        codes = torch.empty(len(packed), self.cols)
        size, mask = packed.shape[1], (1 << self.width) - 1
        for lane in range(8 // self.width):
            target = codes[:, lane * size : (lane + 1) * size]
            target.copy_((packed >> lane * self.width & mask)[:, : target.shape[1]])
        return codes


@dataclass(frozen=True, eq=False)
class GroupedLayout:
    """Integer codes; columns lie group by group.

    Attributes:
        order: of the columns.
        codes: in lanes.
        scales: float32 [out, groups].
        zero_points: float32 [out, groups], or one number for all.
    """

    order: Order
    codes: Lanes
    scales: Tensor
    zero_points: Tensor | float
    rows_multiple: ClassVar[int] = 1

    def decode(self, rows: slice) -> Tensor:
        """Decode some rows, float32 [rows, in], in the layout's order of columns."""
        weight, zero_points = self.codes.read(rows), self.zero_points
        weight -= zero_points if isinstance(zero_points, float) else self.order.spread(zero_points[rows])
        return weight.mul_(self.order.spread(self.scales[rows]))


@dataclass(frozen=True, eq=False)
class PlanesLayout:
    """Bit planes; columns lie group by group.

    Attributes:
        order: of the columns.
        signed: whether a bit is a sign.
        planes: each in lanes.
        masks: likewise; none where every plane holds everywhere.
        scales: float32 [planes, out, groups].
        offsets: likewise; ``None``: no offsets.
    """

    order: Order
    signed: bool
    planes: list[Lanes]
    masks: list[Lanes]
    scales: Tensor
    offsets: Tensor | None
    rows_multiple: ClassVar[int] = 1

    def decode(self, rows: slice) -> Tensor:
        """Decode some rows, float32 [rows, in], in the layout's order of columns."""
        total = torch.zeros(self.scales[0, rows].shape[0], len(self.order.g_idx))
        for plane, lanes in enumerate(self.planes):
            weight = lanes.read(rows)
            if self.signed:
                weight.mul_(2).sub_(1)
            weight.mul_(self.order.spread(self.scales[plane, rows]))
            if self.offsets is not None:
                weight += self.order.spread(self.offsets[plane, rows])
            if self.masks:
                weight.mul_(self.masks[plane].read(rows))
            total += weight
        return total


@dataclass(frozen=True, eq=False)
class CodebookLayout:
    """Codes that name a level, as they came.

    Attributes:
        weight: the operand.
        pairs: the two levels of each byte, float32 [256, 2].
    """

    weight: Codebook
    pairs: Tensor
    order: ClassVar[Order | None] = None

    @classmethod
    def of(cls, weight: Codebook) -> CodebookLayout:
        """Look up both halves of each byte once."""
        byte = torch.arange(256)
        return cls(weight, torch.stack([weight.levels[byte & 15], weight.levels[byte >> 4]], dim=1))

    @property
    def rows_multiple(self) -> int:
        """Rows that whole bytes and whole blocks fill."""
        whole = lcm(2, self.weight.block_size)
        return whole // gcd(whole, self.weight.shape[1])

    def decode(self, rows: slice) -> Tensor:
        """Decode some rows, float32 [rows, in]; they start with a byte and with a block."""
        cols, size = self.weight.shape[1], self.weight.block_size
        first, last = rows.start * cols, rows.stop * cols
        packed = self.weight.qweight[first // 2 : -(-last // 2)].to(torch.int32)
        # One float64 in place of two float32: torch copies elements faster than rows of two.
        levels = self.pairs.view(torch.float64).flatten().index_select(0, packed).view(torch.float32)
        levels = levels[: last - first]
        scales = self.weight.absmax[first // size : -(-last // size)]
        blocks = F.pad(levels, (0, len(scales) * size - len(levels))).view(-1, size)
        return blocks.mul_(scales[:, None]).flatten()[: last - first].view(-1, cols)


Layout = GroupedLayout | PlanesLayout | CodebookLayout


class _Strips(CheckedKernel):
    """A kernel that decodes and multiplies strips of rows."""

    def _dequantize(self, prepared: Prepared, dtype: torch.dtype) -> Tensor:
        weight = torch.empty(prepared.shape, dtype=dtype)
        for rows, decoded in _strips(prepared):
            weight[rows] = _restored(decoded, prepared)
        return weight

    def _matmul(self, inputs: Tensor, prepared: Prepared, act_bits: int | None) -> Tensor:
        order, x = prepared.layout.order, inputs.to(torch.float32)
        x = x if order is None else order.sort(x)
        result = torch.empty(len(x), prepared.shape[0])
        for rows, decoded in _strips(prepared):
            torch.mm(x, decoded.T, out=result[:, rows])
        return result.to(inputs.dtype)

    def gradient(self, outer: Tensor, prepared: Prepared) -> Tensor:
        """Return the gradient of the inputs; see `CheckedKernel.gradient`."""
        result, outer32 = torch.zeros(len(outer), prepared.shape[1]), outer.to(torch.float32)
        if outer.numel() and result.numel():
            for rows, decoded in _strips(prepared):
                result.addmm_(outer32[:, rows], decoded)
        return _restored(result, prepared).to(outer.dtype)


def _strips(prepared: Prepared) -> Iterator[tuple[slice, Tensor]]:
    layout: Layout = prepared.layout
    rows, cols = prepared.shape
    height = max(1, STRIP // cols // layout.rows_multiple) * layout.rows_multiple
    for first in range(0, rows, height):
        strip = slice(first, min(first + height, rows))
        yield strip, layout.decode(strip)


def _restored(matrix: Tensor, prepared: Prepared) -> Tensor:
    order: Order | None = prepared.layout.order
    return matrix if order is None else order.restore(matrix)


class GroupedCpu(_Strips):
    """Integer codes with scales and zero points."""

    name: ClassVar[str] = "cpu_grouped"

    def _prepare(self, weight: Grouped) -> GroupedLayout:
        order = Order.of(weight.g_idx)
        codes = order.sort(bitstream.unpack(weight.qweight, weight.bits, weight.in_features))
        zeros = centre(weight.bits) if weight.zero_points is None else weight.zero_points.to(torch.float32)
        return GroupedLayout(order, Lanes.of(codes, weight.bits), weight.scales.to(torch.float32), zeros)


class PlanesCpu(_Strips):
    """Bit planes."""

    name: ClassVar[str] = "cpu_planes"

    def _prepare(self, weight: Planes) -> PlanesLayout:
        order = Order.of(weight.g_idx)
        planes, masks = (
            [Lanes.of(order.sort(bitstream.unpack(plane, 1, weight.in_features)), 1) for plane in stream]
            for stream in (weight.planes, () if weight.masks is None else weight.masks)
        )
        offsets = None if weight.offsets is None else weight.offsets.to(torch.float32)
        return PlanesLayout(order, weight.signed, planes, masks, weight.scales.to(torch.float32), offsets)


class CodebookCpu(_Strips):
    """Codes that name a level."""

    name: ClassVar[str] = "cpu_codebook"

    def _prepare(self, weight: Codebook) -> CodebookLayout:
        return CodebookLayout.of(weight)
