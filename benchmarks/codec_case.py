"""One weight in one format, and what a library does with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import Routine
from quantcheck.codecs import build
from quantcheck.codecs.base import Codec, Shape
from quantcheck.strategies.codecs import ORDERS, Fill, Parts

GROUP_SIZES = (128, 64, 32, 16, 256, None)


@dataclass(frozen=True, eq=False)
class Case:
    """A weight in one format.

    Attributes:
        codec: the format.
        shape: of the weight.
        parts: integers at random, scales powers of two, so that encoding finds the codes again.
        stored: the parts, packed.
    """

    codec: Codec
    shape: Shape
    parts: dict[str, Tensor]
    stored: dict[str, Tensor]

    @classmethod
    def random(cls, name: str, bits: int, rows: int, cols: int) -> Case:
        """Draw a weight, in the first of `GROUP_SIZES` that the format has."""
        codec = build(name, bits)
        shapes = [Shape(rows, cols, size) for size in GROUP_SIZES]
        shape = next(shape for shape in shapes if codec.refusal(shape) is None)
        fills = (Fill(part, _kind(part, field.dtype)) for part, field in codec.parts(shape).items())
        parts = Parts(shape, tuple(fills)).build(codec)
        return cls(codec, shape, parts, codec.pack(parts, shape))

    @property
    def bits(self) -> int:
        """Width of a code."""
        return self.codec.bits

    def across(self, part: str) -> Tensor:
        """Return a part as libraries take it that put in-features first: int32, transposed."""
        return self.parts[part].T.to(torch.int32).contiguous()


def _kind(part: str, dtype: torch.dtype) -> str:
    if part == "g_idx":
        return ORDERS[0]
    return "powers" if dtype.is_floating_point else "random"


@dataclass(frozen=True, eq=False)
class Work:
    """What a library does in one direction.

    Attributes:
        direction: ``pack``, ``unpack``, ``encode`` (round weights to codes, and pack) or ``decode`` (unpack,
            and make weights).
        what: the library and its functions.
        run: does it.
        read: brings the result into our words: stored tensors, parts or ``weights`` by name.
        compiled: whether the library has compiled it, from other than Python.
    """

    direction: str
    what: str
    run: Routine
    read: Callable[[Any], dict[str, Tensor]]
    compiled: bool = False
