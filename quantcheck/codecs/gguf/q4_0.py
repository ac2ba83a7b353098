"""GGUF's Q4_0: 32 codes of 4 bits and a scale in 18 bytes, 4.5 bits a weight.

::

    byte     0 1     2 + l, l in 0..15
    holds    d       bits 3..0: code l    bits 7..4: code 16 + l

w = d (code - 8), ``d`` a float16. From ggml's ``block_q4_0``. Finding ``d`` is left out: ggml takes the
weight of the largest magnitude, with its sign, over -8.
"""

from __future__ import annotations

from quantcheck.codecs.gguf.blocks import AffineBlocks, Plane, Values, half


class Q4_0(AffineBlocks):
    """Parts: ``codes`` uint8 [rows, cols] in 0..15, ``d`` float16 [rows, cols / 32]."""

    name = "gguf_q4_0"
    width = 4
    cols_multiple = 32
    group_sizes = (32,)
    zero_point = 8
    block_bytes = 18
    block = (Values("codes", 32, (Plane(2, width=4, run=16),), high=15), half("d", 0))

    def bits_of(self, part: str, value: int) -> tuple[tuple[int, int, int], ...]:
        """Put the first half of the codes into the low nibbles, the second one into the high nibbles."""
        return ((2 + value % 16, 4 * (value // 16), 4),) if part == "codes" else ()
