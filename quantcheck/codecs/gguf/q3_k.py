"""GGUF's Q3_K: 256 codes of 3 bits in 110 bytes, 3.4375 bits a weight; 6-bit scales for 16 codes.

::

    byte     l, l in 0..31        32 + 32 h + l, h in 0..1        96 .. 107    108 109
    holds    bit j, j in 0..7:    bits 2 s + 1 .. 2 s, s in 0..3: scales       d
             bit 2 of code        low bits of code
             32 j + l             128 h + 32 s + l

    byte     96 + k, k in 0..7                  104 + k, k in 0..3
    holds    bits 3..0: low bits of scale k     bits 2 s + 1 .. 2 s, s in 0..3: bits 5..4 of
             bits 7..4: those of scale 8 + k    scale 4 s + k

w = d (scale - 32) (code - 4), ``d`` a float16; group g holds codes 16 g to 16 g + 15. ggml puts it as 4 less
where the high bit is clear, which is the same. From ggml's ``block_q3_K``. Searching scales is left out.
"""

from __future__ import annotations

from quantcheck.codecs.gguf.blocks import Plane, SuperBlocks, Values, half


class Q3K(SuperBlocks):
    """Parts: ``codes`` uint8 [rows, cols] in 0..7, ``scales`` uint8 [rows, groups] in 0..63.

    ``d`` float16 [rows, cols / 256].
    """

    name = "gguf_q3_k"
    width = 3
    group_sizes = (16,)
    zero_code = 4
    zero_scale = 32
    block_bytes = 110
    block = (
        Values("codes", 256, (Plane(32, width=2, run=32), Plane(0, width=1, run=32, low=2)), high=7),
        Values("scales", 16, (Plane(96, width=4, run=8), Plane(104, width=2, run=4, low=4)), high=63),
        half("d", 108),
    )

    def bits_of(self, part: str, value: int) -> tuple[tuple[int, int, int], ...]:
        """Follow the drawing."""
        match part:
            case "codes":
                low = (32 + 32 * (value // 128) + value % 32, 2 * (value // 32 % 4), 2)
                return low, (value % 32, value // 32, 1)
            case "scales":
                return (96 + value % 8, 4 * (value // 8), 4), (104 + value % 4, 2 * (value // 4), 2)
        return ()
