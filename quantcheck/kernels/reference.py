"""The reference kernel: what grouped codes mean, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


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
