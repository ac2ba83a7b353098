"""The reference kernels: what each family of weights means, in plain torch.

Weights are decoded whole, in float32, and products are added up in float32. Where inputs are rounded to
integers, float64 takes the place of both, in which each product of a step, a level and a scale is exact.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from quantcheck.codecs import bitstream
from quantcheck.kernels.base import Codebook, Grouped, Planes
from quantcheck.kernels.checked import CheckedKernel, Prepared
from quantcheck.kernels.tokens import round_tokens


def dequantize(codes: Tensor, scales: Tensor, zero_points: Tensor | float, group_index: Tensor) -> Tensor:
    """Decode ``w[o, i] = scales[o, g] * (codes[o, i] - zero_points[o, g])`` with ``g = group_index[i]``.

    Args:
        codes: uint8 [out, in].
        scales: floating point [out, groups].
        zero_points: in code units: integers [out, groups], or one number for all.
        group_index: integers [in], the group of each input column.

    Returns:
        float32 [out, in]. The difference is exact, so each weight is rounded once.
    """
    columns = group_index.long()
    levels = codes.to(torch.float32)
    if isinstance(zero_points, Tensor):
        levels -= zero_points.to(torch.float32)[:, columns]
    else:
        levels -= zero_points
    return levels.mul_(scales.to(torch.float32)[:, columns])


class _Reference(CheckedKernel):
    """A kernel that keeps the weight as it came and decodes all of it, each time."""

    def _prepare(self, weight: Any) -> Any:
        return weight

    def _dequantize(self, prepared: Prepared, dtype: torch.dtype) -> Tensor:
        return self._decode(prepared.layout).to(dtype)

    def _matmul(self, inputs: Tensor, prepared: Prepared, act_bits: int | None) -> Tensor:
        return (inputs.to(torch.float32) @ self._decode(prepared.layout).T).to(inputs.dtype)

    @abstractmethod
    def _decode(self, weight: Any) -> Tensor:
        """Return the weight, float32 [out, in]."""


class GroupedReference(_Reference):
    """Integer codes with scales and zero points."""

    name: ClassVar[str] = "reference_grouped"

    def _decode(self, weight: Grouped) -> Tensor:
        return _scaled(weight, weight.scales)


class CodebookReference(_Reference):
    """Codes that name a level, times the scale of their block."""

    name: ClassVar[str] = "reference_codebook"

    def _decode(self, weight: Codebook) -> Tensor:
        rows, cols = weight.shape
        codes = bitstream.unpack(weight.qweight[None], 4, rows * cols)[0]
        blocks = torch.arange(rows * cols, device=codes.device) // weight.block_size
        return (weight.levels[codes.long()] * weight.absmax[blocks]).view(rows, cols)


class PlanesReference(_Reference):
    """Bit planes, added up from the first one on."""

    name: ClassVar[str] = "reference_planes"

    def _decode(self, weight: Planes) -> Tensor:
        columns = weight.g_idx.long()
        total = torch.zeros(weight.shape, device=weight.planes.device)
        for plane, packed in enumerate(weight.planes):
            bits = bitstream.unpack(packed, 1, weight.in_features).to(torch.float32)
            signs = 2 * bits - 1 if weight.signed else bits
            values = signs * weight.scales[plane].to(torch.float32)[:, columns]
            if weight.offsets is not None:
                values += weight.offsets[plane].to(torch.float32)[:, columns]
            if weight.masks is not None:
                values *= bitstream.unpack(weight.masks[plane], 1, weight.in_features)
            total += values
        return total


class IntegerReference(GroupedReference):
    """Integer codes times inputs that are rounded to integers, token by token."""

    name: ClassVar[str] = "reference_integer"

    def _matmul(self, inputs: Tensor, prepared: Prepared, act_bits: int | None) -> Tensor:
        assert act_bits is not None
        weight: Grouped = prepared.layout
        steps, scales = round_tokens(inputs, act_bits)
        levels = _scaled(weight, torch.ones_like(weight.scales)).to(torch.float64)
        decoded = levels * weight.scales.to(torch.float64)[:, weight.g_idx.long()]
        return (steps.to(torch.float64) @ decoded.T * scales).to(inputs.dtype)


def _scaled(weight: Grouped, scales: Tensor) -> Tensor:
    codes = bitstream.unpack(weight.qweight, weight.bits, weight.in_features)
    zero_points = centre(weight.bits) if weight.zero_points is None else weight.zero_points
    return dequantize(codes, scales, zero_points, weight.g_idx)


def centre(bits: int) -> float:
    """Return the zero point of a `Grouped` weight that stores none."""
    return float(1 << (bits - 1))
