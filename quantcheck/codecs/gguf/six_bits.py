"""The eight 6-bit scales and minima of a Q4_K or Q5_K block, in 12 bytes.

::

    byte        4 + k, k in 0..3            8 + k                         12 + k
    bits 7 6    bits 5..4 of scale 4 + k    bits 5..4 of minimum 4 + k    bits 7..4: low bits of minimum 4 + k
    bits 5..0   scale k                     minimum k                     bits 3..0: low bits of scale 4 + k

From ``get_scale_min_k4`` of ggml, which numbers these bytes from 0.
"""

from __future__ import annotations

from quantcheck.codecs.gguf.blocks import Plane, Values


def _values(part: str, start: int, shift: int) -> Values:
    return Values(
        part,
        8,
        (
            Plane(start, width=6, run=4, last=4),
            Plane(12, width=4, run=4, shift=shift, first=4),
            Plane(start, width=2, run=4, low=4, shift=6, first=4),
        ),
        high=63,
    )


SCALES = _values("scales", 4, shift=0)
MINIMA = _values("minima", 8, shift=4)


def bits_of(part: str, value: int) -> tuple[tuple[int, int, int], ...]:
    """Say where a scale or a minimum lies; see `quantcheck.codecs.gguf.blocks.BlockFormat.bits_of`."""
    start, shift = {"scales": (4, 0), "minima": (8, 4)}[part]
    if value < 4:
        return ((start + value, 0, 6),)
    return (8 + value, shift, 4), (start + value - 4, 6, 2)
