"""GGUF's Q5_K: 256 codes of 5 bits in 176 bytes, 5.5 bits a weight; 6-bit scales and minima for 32 codes.

::

    byte     0 1    2 3     4 .. 15               16 + l, l in 0..31    48 + 32 c + l, c in 0..3
    holds    d      dmin    scales and minima,    bit j, j in 0..7:     bits 3..0: low bits of code 64 c + l
                            see `six_bits`        bit 4 of code         bits 7..4: those of code
                                                  32 j + l              64 c + 32 + l

w = d scale code - dmin minimum, ``d`` and ``dmin`` float16; group g holds codes 32 g to 32 g + 31. From
ggml's ``block_q5_K``. Searching scales and minima is left out.
"""

from __future__ import annotations

from quantcheck.codecs.gguf import six_bits
from quantcheck.codecs.gguf.blocks import Plane, SuperBlocks, Values, half


class Q5K(SuperBlocks):
    """Parts: ``codes`` uint8 [rows, cols] in 0..31, ``scales`` and ``minima`` uint8 [rows, groups] in 0..63.

    ``d`` and ``dmin`` float16 [rows, cols / 256].
    """

    name = "gguf_q5_k"
    width = 5
    group_sizes = (32,)
    block_bytes = 176
    block = (
        Values("codes", 256, (Plane(48, width=4, run=32), Plane(16, width=1, run=32, low=4)), high=31),
        six_bits.SCALES,
        six_bits.MINIMA,
        half("d", 0),
        half("dmin", 2),
    )

    def bits_of(self, part: str, value: int) -> tuple[tuple[int, int, int], ...]:
        """Follow the drawing."""
        match part:
            case "codes":
                low = (48 + 32 * (value // 64) + value % 32, 4 * (value // 32 % 2), 4)
                return low, (16 + value % 32, value // 32, 1)
            case "scales" | "minima":
                return six_bits.bits_of(part, value)
        return ()
