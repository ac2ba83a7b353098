"""compressed-tensors' ``nvfp4-pack-quantized``: FP4 with a scale of eight bits for each 16 columns.

A code is an E2M1 pattern, a sign and one of eight magnitudes::

    bit     3      2..0        0    1    2    3    4    5    6    7
            sign   index of    0   1/2   1   3/2   2    3    4    6

``weight_packed`` uint8 [N, K / 2] holds two neighbours of a row a byte, the even one in the low half: codes
1, 2 are 0x21. ``weight_scale`` float8_e4m3fn [N, K / 16] and ``weight_global_scale`` float32 [1] make
``w = level (scale / global_scale)``, both operations rounded to float32.

Size: 4.5 bits a weight, and 32. K must come in multiples of 16.

Source: compressed-tensors 0.19.0. Left out: its MXFP4, whose scales are powers of two for 32 columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quantcheck.codecs import bitstream
from quantcheck.codecs.base import Field, Format, Place, Shape, Tensors

BITS = 4
GROUP_SIZE = 16
MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
LEVELS = (*MAGNITUDES, *(-magnitude for magnitude in MAGNITUDES))
"""What each code stands for; 8 is -0.0."""


@dataclass(frozen=True)
class Fp4Packed(Format):
    """NVFP4.

    Parts: ``codes`` uint8 [rows, cols], E2M1 patterns; ``scales`` float8_e4m3fn [rows, cols / 16];
    ``global_scale`` float32 [1].

    Attributes:
        bits: 4.
    """

    name: ClassVar[str] = "ct_fp4"
    cols_multiple = GROUP_SIZE
    group_sizes = (GROUP_SIZE,)

    bits: int = BITS

    def parts(self, shape: Shape) -> dict[str, Field]:
        """Declare what `pack` takes."""
        return {
            "codes": Field(torch.uint8, (shape.rows, shape.cols), high=15),
            "scales": Field(torch.float8_e4m3fn, (shape.rows, shape.groups)),
            "global_scale": Field(torch.float32, (1,)),
        }

    def stored(self, shape: Shape) -> dict[str, Field]:
        """Declare the tensors of the checkpoint."""
        return {
            "weight_packed": Field(torch.uint8, (shape.rows, shape.cols // 2)),
            "weight_scale": Field(torch.float8_e4m3fn, (shape.rows, shape.groups)),
            "weight_global_scale": Field(torch.float32, (1,)),
        }

    def weights(self, parts: Tensors, shape: Shape) -> Tensor:
        """Look the levels up and scale them."""
        codes = parts["codes"]
        levels = torch.tensor(LEVELS, device=codes.device)[codes.int()]
        scales = parts["scales"].float() / parts["global_scale"]
        return levels * scales.repeat_interleave(GROUP_SIZE, dim=1)

    def place(self, part: str, shape: Shape, index: tuple[int, ...]) -> tuple[Place, ...]:
        """Find the byte of two neighbours, and the half of it."""
        if part != "codes":
            return ()
        row, column = index
        return (Place("weight_packed", row * (shape.cols // 2) + column // 2, BITS * (column % 2), BITS),)

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        return {
            "weight_packed": bitstream.pack(parts["codes"], BITS),
            "weight_scale": parts["scales"].contiguous(),
            "weight_global_scale": parts["global_scale"].contiguous(),
        }

    def _unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        return {
            "codes": bitstream.unpack(stored["weight_packed"], BITS, shape.cols),
            "scales": stored["weight_scale"].contiguous(),
            "global_scale": stored["weight_global_scale"].contiguous(),
        }
