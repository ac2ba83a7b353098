"""GGUF's Q2_K: 256 codes of 2 bits in 84 bytes, 2.625 bits a weight; 4-bit scales and minima for 16 codes.

::

    byte     g, g in 0..15           16 + 32 h + l, h in 0..1, l in 0..31          80 81    82 83
    holds    bits 3..0: scale g      bits 2 s + 1 .. 2 s, s in 0..3:               d        dmin
             bits 7..4: minimum g    code 128 h + 32 s + l

w = d scale code - dmin minimum, ``d`` and ``dmin`` float16; group g holds codes 16 g to 16 g + 15. From
ggml's ``block_q2_K``. Searching scales and minima is left out.
"""

from __future__ import annotations

from quantcheck.codecs.gguf.blocks import Plane, SuperBlocks, Values, half


class Q2K(SuperBlocks):
    """Parts: ``codes`` uint8 [rows, cols] in 0..3, ``scales`` and ``minima`` uint8 [rows, groups] in 0..15.

    ``d`` and ``dmin`` float16 [rows, cols / 256].
    """

    name = "gguf_q2_k"
    width = 2
    group_sizes = (16,)
    block_bytes = 84
    block = (
        Values("codes", 256, (Plane(16, width=2, run=32),), high=3),
        Values("scales", 16, (Plane(0, width=4, run=16),), high=15),
        Values("minima", 16, (Plane(0, width=4, run=16, shift=4),), high=15),
        half("d", 80),
        half("dmin", 82),
    )

    def bits_of(self, part: str, value: int) -> tuple[tuple[int, int, int], ...]:
        """Follow the drawing."""
        match part:
            case "codes":
                return ((16 + 32 * (value // 128) + value % 32, 2 * (value // 32 % 4), 2),)
            case "scales":
                return ((value, 0, 4),)
            case "minima":
                return ((value, 4, 4),)
        return ()
