"""What codecs pack, as recipes: a shape that they hold, and how each part is filled.

``Parts(Shape(2, 9, 3), (Fill("codes", "top"), Fill("scales", "powers", 7))).build(codec)`` are the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf, lcm, nan, prod

import torch
from hypothesis import strategies as st
from torch import Tensor

from quantcheck.codecs.affine import consecutive
from quantcheck.codecs.base import Codec, Field, Shape

INTEGERS = ("low", "top", "middle", "ramp", "one", "hole", "diagonal", "random")
"""How an integer part is filled: with its lowest, highest or middle value, counting up, the highest at one
place or the lowest at one, the highest along a diagonal, at random."""

FLOATS = ("ones", "zeros", "whole", "powers", "random", "extremes", "patterns")
"""The same of floating point: whole numbers of the codes' range, powers of two, normal, NaN to subnormal,
random bytes."""

ORDERS = ("order", "random", "low", "top")
"""How ``g_idx`` is filled: groups in the order of their columns, at random, all the same."""

ROWS = (0, 1, 2, 3, 5, 8, 17, 33)
COLS = (0, 1, 2, 3, 5, 7, 8, 9, 10, 11, 16, 17, 31, 32, 33, 63, 64, 65, 129, 257)
GROUP_SIZES = (None, 1, 3, 8, 16, 32, 64, 128)
MOST_ROWS, MOST_COLS = 48, 300
"""Where multiples of what a format needs end; two of them are always tried."""
WORD = 32
SEEDS = 1 << 10


@dataclass(frozen=True)
class Fill:
    """How one part is filled.

    Attributes:
        part: its name.
        kind: one of `INTEGERS` or `FLOATS`, for ``g_idx`` one of `ORDERS`.
        seed: of what is random, and the place of what is ``one`` or ``hole``.
    """

    part: str
    kind: str
    seed: int = 0

    def build(self, field: Field, codec: Codec, shape: Shape) -> Tensor:
        """Make the tensor."""
        if self.kind == "order":
            return consecutive(shape)
        if field.dtype.is_floating_point:
            return self._floats(field, codec.bits)
        return self._integers(field)

    def _integers(self, field: Field) -> Tensor:
        low, high = bounds(field)
        numbers = torch.arange(prod(field.shape)).reshape(field.shape)
        match self.kind:
            case "low":
                values = torch.full_like(numbers, low)
            case "top":
                values = torch.full_like(numbers, high)
            case "middle":
                values = torch.full_like(numbers, (low + high + 1) // 2)
            case "ramp":
                values = low + numbers % (high - low + 1)
            case "one":
                values = torch.where(numbers == self.seed % max(numbers.numel(), 1), high, low)
            case "hole":
                values = torch.where(numbers == self.seed % max(numbers.numel(), 1), low, high)
            case "diagonal":
                width = field.shape[-1] or 1
                values = torch.where((numbers % width - numbers // width) % WORD == 0, high, low)
            case "random":
                values = torch.randint(low, high + 1, field.shape, generator=self._generator())
            case _:
                raise ValueError(f"unknown kind {self.kind!r} of integers")
        return values.to(field.dtype)

    def _floats(self, field: Field, bits: int) -> Tensor:
        shape, generator = field.shape, self._generator()
        match self.kind:
            case "ones":
                values = torch.ones(shape)
            case "zeros":
                values = torch.zeros(shape)
            case "whole":
                values = torch.randint(0, 1 << bits, shape, generator=generator).float()
            case "powers":
                values = 2.0 ** torch.randint(-6, 4, shape, generator=generator)
            case "random":
                values = torch.randn(shape, generator=generator)
            case "extremes":
                values = extremes(field.dtype)[torch.randint(0, 8, shape, generator=generator)]
            case "patterns":
                size = (*shape, field.dtype.itemsize)
                values = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
                return values.view(field.dtype).reshape(shape)
            case _:
                raise ValueError(f"unknown kind {self.kind!r} of floating point")
        return values.to(field.dtype)

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True)
class Parts:
    """What a codec is given to pack.

    Attributes:
        shape: of the weight.
        fills: one a part.
    """

    shape: Shape
    fills: tuple[Fill, ...]

    def build(self, codec: Codec) -> dict[str, Tensor]:
        """Make the tensors."""
        fields = codec.parts(self.shape)
        return {fill.part: fill.build(fields[fill.part], codec, self.shape) for fill in self.fills}


def bounds(field: Field) -> tuple[int, int]:
    """Return the smallest and largest value of an integer field."""
    if field.high is not None:
        return field.low, field.high
    return torch.iinfo(field.dtype).min, torch.iinfo(field.dtype).max


def extremes(dtype: torch.dtype) -> Tensor:
    """Return eight values that arithmetic would not leave alone, NaN, Inf and subnormal among them."""
    facts = torch.finfo(dtype)
    values = [nan, inf, -inf, -0.0, facts.smallest_normal, facts.tiny / 2, facts.max, facts.min]
    return torch.tensor(values, dtype=torch.float64)


def shapes_of(*codecs: Codec) -> list[Shape]:
    """List shapes that all of the codecs hold, small ones first: none, one, odd sizes, tails."""
    rows, cols = (
        lcm(*(codec.rows_multiple for codec in codecs)),
        lcm(*(codec.cols_multiple for codec in codecs)),
    )
    sizes = product(_multiples(ROWS, rows, MOST_ROWS), _multiples(COLS, cols, MOST_COLS), _groups(*codecs))
    shapes = (Shape(*size) for size in sizes)
    held = [shape for shape in shapes if all(codec.refusal(shape) is None for codec in codecs)]
    return sorted(held, key=lambda shape: (shape.rows * shape.cols, shape.rows + shape.cols, shape.groups))


def smallest(*codecs: Codec) -> Shape:
    """Return the smallest shape with weights in it that all of the codecs hold."""
    return next(shape for shape in shapes_of(*codecs) if shape.rows * shape.cols)


def filled(
    codec: Codec, shape: Shape, integers: str, floats: str, g_idx: str = "order", **kinds: str
) -> Parts:
    """Fill all parts of a kind alike, but for those that are named."""
    return Parts(
        shape,
        tuple(
            Fill(name, kinds.get(name) or _kinds(name, field, (integers,), (floats,), (g_idx,))[0])
            for name, field in codec.parts(shape).items()
        ),
    )


def packed(
    codec: Codec,
    shapes: Sequence[Shape] | None = None,
    *,
    integers: tuple[str, ...] = INTEGERS,
    floats: tuple[str, ...] = FLOATS,
    orders: tuple[str, ...] = ORDERS,
    kinds: Mapping[str, tuple[str, ...]] | None = None,
) -> st.SearchStrategy[Parts]:
    """Draw `Parts` of a codec.

    Args:
        codec: what will pack them.
        shapes: what to draw the shape from; left out: all of `shapes_of`.
        integers: the kinds of integer parts.
        floats: the kinds of floating-point parts.
        orders: the kinds of ``g_idx``.
        kinds: those of parts by name, before all others.
    """
    known = kinds or {}

    def fill(name: str, field: Field) -> st.SearchStrategy[Fill]:
        choice = known.get(name) or _kinds(name, field, integers, floats, orders)
        return st.builds(Fill, st.just(name), st.sampled_from(choice), st.integers(0, SEEDS))

    choice = shapes_of(codec) if shapes is None else shapes
    named = codec.parts(choice[0])
    fills = st.tuples(*(fill(name, field) for name, field in named.items()))
    return st.builds(Parts, st.sampled_from(choice), fills)


def _kinds(
    name: str, field: Field, integers: tuple[str, ...], floats: tuple[str, ...], orders: tuple[str, ...]
) -> tuple[str, ...]:
    if name == "g_idx":
        return orders
    return floats if field.dtype.is_floating_point else integers


def _multiples(counts: tuple[int, ...], multiple: int, most: int) -> list[int]:
    return [count * multiple for count in counts if count <= 2 or count * multiple <= most]


def _groups(*codecs: Codec) -> list[int | None]:
    """Return the group sizes to try: what all of the codecs declare, or some."""
    common: list[int | None] = list(GROUP_SIZES)
    declared = [codec.group_sizes for codec in codecs if codec.group_sizes]
    if declared:
        common = [size for size in declared[0] if all(size in sizes for sizes in declared)]
    return common
