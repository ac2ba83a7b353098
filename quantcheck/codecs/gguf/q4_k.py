"""GGUF's Q4_K: 256 codes of 4 bits in 144 bytes, 4.5 bits a weight; 6-bit scales and minima for 32 codes.

::

    byte     0 1    2 3     4 .. 15               16 + 32 c + l, c in 0..3, l in 0..31
    holds    d      dmin    scales and minima,    bits 3..0: code 64 c + l
                            see `six_bits`        bits 7..4: code 64 c + 32 + l

w = d scale code - dmin minimum, ``d`` and ``dmin`` float16; group g holds codes 32 g to 32 g + 31. From
ggml's ``block_q4_K``. Searching scales and minima is left out.
"""

from __future__ import annotations

from quantcheck.codecs.gguf import six_bits
from quantcheck.codecs.gguf.blocks import Plane, SuperBlocks, Values, half


class Q4K(SuperBlocks):
    """Parts: ``codes`` uint8 [rows, cols] in 0..15, ``scales`` and ``minima`` uint8 [rows, groups] in 0..63.

    ``d`` and ``dmin`` float16 [rows, cols / 256].
    """

    name = "gguf_q4_k"
    width = 4
    group_sizes = (32,)
    block_bytes = 144
    block = (
        Values("codes", 256, (Plane(16, width=4, run=32),), high=15),
        six_bits.SCALES,
        six_bits.MINIMA,
        half("d", 0),
        half("dmin", 2),
    )

    def bits_of(self, part: str, value: int) -> tuple[tuple[int, int, int], ...]:
        """Follow the drawing."""
        match part:
            case "codes":
                return ((16 + 32 * (value // 64) + value % 32, 4 * (value // 32 % 2), 4),)
            case "scales" | "minima":
                return six_bits.bits_of(part, value)
        return ()
