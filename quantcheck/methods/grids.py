"""Uniform grids: a scale and a zero point for each row, or for each row and group of input columns.

Every grid is affine, ``w = scale * (code - zero_point)``, with codes of ``bits`` bits. With ``n = 2^bits -
1``:

========  ==============================  =================  ==============
grid      scale                           zero point         codes
========  ==============================  =================  ==============
``asym``  (max(w, 0) - min(w, 0)) / n     round(-min / s)    0 .. n
``sym``   2 max|w| / n                    2^(bits-1)         0 .. n
``symr``  max|w| / (2^(bits-1) - 1)       2^(bits-1)         1 .. n
========  ==============================  =================  ==============

``asym`` and ``sym`` are GPTQ's grids (Frantar et al., 2023; the official code's ``Quantizer``), ``symr`` is
the restricted-range grid of SmoothQuant (Xiao et al., 2023). At 1 bit both symmetric grids mean sign times
mean magnitude: scale 2 mean|w|, zero point 1/2, and a zero counts as positive. Rounding is to nearest, half
to even. Where all weights of a row or group are zero, the range is taken as [-1, 1], so that they decode to
exactly 0; a 1-bit symmetric grid, which has no zero level, stores the scale 0 instead.

Scales are rounded to the dtype they are stored in before zero points and codes are computed, so what is
stored decodes to what was judged.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantcheck.errors import QuantizationError
from quantcheck.spec import QuantSpec


@dataclass(frozen=True)
class Grid:
    """A family of affine grids.

    Attributes:
        kind: ``asym``, ``sym`` or ``symr``.
        bits: width of a code, 1 to 8.
        scale_dtype: what scales are stored in: ``torch.float16`` or ``torch.float32``.
    """

    kind: str
    bits: int
    scale_dtype: torch.dtype = torch.float32

    @classmethod
    def of(cls, spec: QuantSpec, scale_dtype: torch.dtype) -> Grid:
        """Return the grid that ``spec`` asks for."""
        return cls(spec.grid, int(spec.bits), scale_dtype)

    @property
    def highest_code(self) -> int:
        """The largest code, ``2^bits - 1``."""
        return (1 << self.bits) - 1

    @property
    def lowest_code(self) -> int:
        """The smallest code in use: 1 where the restricted range leaves 0 out."""
        return int(self.kind == "symr" and not self.signs)

    @property
    def signs(self) -> bool:
        """Whether codes are signs alone: 1 bit, symmetric."""
        return self.bits == 1 and self.kind != "asym"

    def fit(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Fit scale and zero point to the last dimension of ``weight`` (float32 [..., n], n >= 1).

        Returns:
            Scales and zero points, both float32 [...]; the scales are values of ``scale_dtype``.

        Raises:
            QuantizationError: a scale overflows ``scale_dtype``, or underflows to zero.
        """
        if self.kind == "asym":
            return self._fit_asym(weight)
        magnitude = weight.abs()
        if self.signs:
            scale = self._stored(2 * magnitude.mean(dim=-1), 1)
        else:
            peak = magnitude.amax(dim=-1)
            peak = torch.where(peak == 0, 1.0, peak)
            scale = self._stored(2 * peak, self.highest_code if self.kind == "sym" else self.highest_code - 1)
        return scale, torch.full_like(scale, centre(self.bits))

    def quantize(self, weight: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """Return the uint8 codes of ``weight``; scale and zero point must broadcast against it."""
        if self.signs:
            return (weight >= 0).to(torch.uint8)
        codes = (weight / scale).round_().add_(zero_point)
        return codes.clamp_(self.lowest_code, self.highest_code).to(torch.uint8)

    def _fit_asym(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        low, high = weight.amin(dim=-1).clamp(max=0), weight.amax(dim=-1).clamp(min=0)
        empty = low == high
        low, high = torch.where(empty, -1.0, low), torch.where(empty, 1.0, high)
        scale = self._stored(high - low, self.highest_code)
        return scale, (-low / scale).round_().clamp_(0, self.highest_code)

    def _stored(self, span: Tensor, steps: int) -> Tensor:
        scale = (span / steps).to(self.scale_dtype).to(torch.float32)
        lost = ~torch.isfinite(scale) | ((scale == 0) & (span != 0))
        if lost.any():
            raise QuantizationError(
                f"a scale of {float((span / steps)[lost][0]):.3g} does not fit {self.scale_dtype}; "
                "use scale_dtype=torch.float32, or check the layer for runaway or vanishing weights"
            )
        return scale


def centre(bits: int) -> float:
    """Return the zero point of the symmetric grids, in code units; it is never stored."""
    return float(1 << (bits - 1)) if bits > 1 else 0.5


def group_index(in_features: int, group_size: int, device: torch.device | None = None) -> Tensor:
    """Return the group of each input column, int64 [in]; the last group may be shorter."""
    return torch.arange(in_features, device=device) // group_size


def effective_group_size(group_size: int | None, in_features: int) -> int:
    """Count the columns that share a scale.

    All of them do per channel (``group_size=None``), and where the group is larger than the layer.
    """
    return min(group_size or in_features, in_features)


def fit_groups(grid: Grid, weight: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """Fit ``grid`` to each row and group of ``weight``, float32 [out, in].

    Returns:
        Scales and zero points, float32 [out, groups].
    """
    whole = weight.shape[1] // group_size * group_size
    parts = []
    if whole:
        parts.append(grid.fit(weight[:, :whole].reshape(weight.shape[0], -1, group_size)))
    if whole < weight.shape[1]:
        parts.append(grid.fit(weight[:, None, whole:]))
    scales, zero_points = zip(*parts, strict=True)
    return torch.cat(scales, dim=1), torch.cat(zero_points, dim=1)
