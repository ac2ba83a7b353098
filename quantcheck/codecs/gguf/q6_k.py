"""GGUF's Q6_K: 256 codes of 6 bits in 210 bytes, 6.5625 bits a weight; signed 8-bit scales for 16 codes.

::

    byte     64 h + l, h in 0..1, l in 0..63       128 + 32 h + l, l in 0..31        192 + g     208 209
    holds    bits 3..0: low bits of                bits 2 s + 1 .. 2 s, s in 0..3:   scale g,    d
             code 128 h + l                        bits 5..4 of code                 signed
             bits 7..4: those of                   128 h + 32 s + l
             code 128 h + 64 + l

w = d scale (code - 32), ``d`` a float16; group g holds codes 16 g to 16 g + 15. From ggml's ``block_q6_K``.
Searching scales is left out.
"""

from __future__ import annotations

import torch

from quantcheck.codecs.gguf.blocks import Plane, SuperBlocks, Values, Verbatim, half


class Q6K(SuperBlocks):
    """Parts: ``codes`` uint8 [rows, cols] in 0..63, ``scales`` int8 [rows, groups].

    ``d`` float16 [rows, cols / 256].
    """

    name = "gguf_q6_k"
    width = 6
    group_sizes = (16,)
    zero_code = 32
    block_bytes = 210
    block = (
        Values("codes", 256, (Plane(0, width=4, run=64), Plane(128, width=2, run=32, low=4)), high=63),
        Values("scales", 16, (Verbatim(192),), torch.int8, -128, 127),
        half("d", 208),
    )

    def bits_of(self, part: str, value: int) -> tuple[tuple[int, int, int], ...]:
        """Follow the drawing."""
        match part:
            case "codes":
                low = (64 * (value // 128) + value % 64, 4 * (value // 64 % 2), 4)
                return low, (128 + 32 * (value // 128) + value % 32, 2 * (value // 32 % 4), 2)
            case "scales":
                return ((192 + value, 0, 8),)
        return ()

    def raw(self, part: str, value: int) -> int:
        """Return a signed scale's two's complement."""
        return value % 256 if part == "scales" else value
