"""Inputs rounded to integers, a scale a token: what W8A8, W6A6 and W4A4 multiply by."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_PEAK = 1e-5


def round_tokens(inputs: Tensor, act_bits: int) -> tuple[Tensor, Tensor]:
    """Round each row of ``inputs`` [tokens, in] to its symmetric grid, in float32 and half to even.

    Returns:
        int8 [tokens, in], at most ``2**(act_bits - 1) - 1`` in magnitude, and float32 scales [tokens, 1]. A
        row with NaN or Inf has a scale that is not finite and zeros: times their sum, 0, that is NaN.
    """
    values = inputs.to(torch.float32)
    peak = values.abs().amax(dim=1, keepdim=True)
    scales = peak.clamp(min=SMALLEST_PEAK) / ((1 << (act_bits - 1)) - 1)
    # Finite over Inf is 0, and Inf over Inf is NaN.
    return (values / scales).round_().nan_to_num_(0.0).to(torch.int8), scales
