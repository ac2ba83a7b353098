"""GGUF's TQ2_0: 256 ternary codes in 2 bits each and a scale in 66 bytes, 2.0625 bits a weight.

::

    byte     32 h + l, h in 0..1, l in 0..31                               64 65
    holds    bits 2 s + 1 .. 2 s, s in 0..3: code 128 h + 32 s + l         d

w = d (code - 1), ``d`` a float16. From ggml's ``block_tq2_0``. Codes are 0, 1 and 2. Two bits can say 3, too,
which ggml reads as 2 d; what rounds to three levels never writes it, so it is refused in both directions: a
file with it is damaged or not ternary. Finding ``d`` is left out: ggml takes the largest magnitude.
"""

from __future__ import annotations

from torch import Tensor

from quantcheck.codecs.base import Shape, Tensors, check_field
from quantcheck.codecs.gguf.blocks import AffineBlocks, Plane, Values, half


class TQ2_0(AffineBlocks):
    """Parts: ``codes`` uint8 [rows, cols] in 0..2, ``d`` float16 [rows, cols / 256]."""

    name = "gguf_tq2_0"
    width = 2
    cols_multiple = 256
    group_sizes = (256,)
    zero_point = 1
    block_bytes = 66
    block = (Values("codes", 256, (Plane(0, width=2, run=32),), high=2), half("d", 64))

    def bits_of(self, part: str, value: int) -> tuple[tuple[int, int, int], ...]:
        """Follow the drawing."""
        return ((32 * (value // 128) + value % 32, 2 * (value // 32 % 4), 2),) if part == "codes" else ()

    def _unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        parts = super()._unpack(stored, shape)
        check_field(parts["codes"], self.parts(shape)["codes"], f"{self.id}: codes in blocks")
        return parts
