"""Hypothesis strategies of what a kernel may be given: they draw the recipes of `operands`."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from hypothesis import strategies as st

from quantcheck.kernels import KernelCapabilities
from quantcheck.strategies.models import seeds
from quantcheck.strategies.operands import (
    INPUTS,
    LEVELS,
    MASKS,
    SCALES,
    ZERO_POINTS,
    CodebookRecipe,
    GroupedRecipe,
    PlanesRecipe,
    Product,
    WeightRecipe,
)

GROUP_SIZES = (None, 1, 3, 8, 16, 32, 64, 128)
BLOCK_SIZES = (64, 32, 128, 16)
TAILS = (16, 17, 31, 32, 33, 63, 64, 65, 96, 127, 128, 129, 200, 257)


def sizes(multiple: int = 1, *, least: int = 0, most: int = max(TAILS)) -> st.SearchStrategy[int]:
    """Draw a size: small ones, and those about the widths that blocks and vectors have."""
    steps = range(-(-least // multiple), max(most // multiple, -(-least // multiple)) + 1)
    few = [step for step in steps if step < 10]
    tails = [step for step in TAILS if step in steps and step >= 10] if multiple == 1 else []
    return st.sampled_from([*few, *tails]).map(lambda step: step * multiple)


@st.composite
def weights(
    draw: st.DrawFn,
    can: KernelCapabilities,
    bits: int,
    *,
    least: int = 0,
    most: int = max(TAILS),
    narrow: bool = False,
) -> WeightRecipe:
    """Draw a weight that a kernel supports.

    Args:
        draw: hypothesis'.
        can: the kernel's capabilities.
        bits: one of its widths; planes have codes of one bit, and there are one to four.
        least: the fewest rows and columns.
        most: the most columns; a multiple that the kernel asks for may exceed it.
        narrow: whether scales must fit float16.
    """
    rows = draw(sizes(can.out_multiple, least=least, most=65))
    cols = draw(sizes(can.in_multiple, least=least, most=max(most, can.in_multiple)))
    kinds = [kind for kind in SCALES if kind != "zero" and not (narrow and kind == "large")]
    scales, seed = draw(st.sampled_from(kinds)), draw(seeds())
    if can.weights == "codebook":
        blocks = [size for size in can.group_sizes or BLOCK_SIZES if size is not None]
        return CodebookRecipe(
            rows,
            cols,
            draw(st.sampled_from(blocks)),
            levels=draw(st.sampled_from(LEVELS)),
            scales=scales,
            seed=seed,
        )
    group_size = draw(st.sampled_from(can.group_sizes or GROUP_SIZES))
    shuffled = can.g_idx and draw(st.booleans())
    dtypes = ["float32", "bfloat16", *([] if scales == "large" else ["float16"])]
    scale_dtype = draw(st.sampled_from(dtypes))
    if can.weights == "planes":
        return PlanesRecipe(
            rows,
            cols,
            draw(st.integers(1, 4)),
            group_size,
            signed=draw(st.booleans()),
            offsets=draw(st.booleans()),
            masks=draw(st.sampled_from(MASKS)),
            scales=scales,
            scale_dtype=scale_dtype,
            shuffled=shuffled,
            seed=seed,
        )
    return GroupedRecipe(
        rows,
        cols,
        bits,
        group_size,
        zero_points=draw(st.sampled_from(zero_points(can))),
        scales=scales,
        scale_dtype=scale_dtype,
        shuffled=shuffled,
        seed=seed,
    )


def plain_weight(
    can: KernelCapabilities, bits: int, rows: int | None = None, cols: int | None = None
) -> WeightRecipe:
    """Make the simplest weight that a kernel supports, of a size, or of twice what it takes multiples of."""
    rows = 2 * can.out_multiple if rows is None else rows
    cols = 2 * can.in_multiple if cols is None else cols
    if can.weights == "codebook":
        blocks = [size for size in can.group_sizes or BLOCK_SIZES if size is not None]
        return CodebookRecipe(rows, cols, blocks[0])
    group_size = (can.group_sizes or GROUP_SIZES)[0]
    if can.weights == "planes":
        return PlanesRecipe(rows, cols, group_size=group_size)
    return GroupedRecipe(rows, cols, bits, group_size, zero_points=zero_points(can)[0])


@st.composite
def products(
    draw: st.DrawFn,
    can: KernelCapabilities,
    bits: int,
    act_bits: int | None = None,
    *,
    inputs: Iterable[str] = INPUTS,
    spoilt: Iterable[float | None] = (None,),
    least: int = 0,
) -> Product:
    """Draw a product that a kernel supports, of at least ``least`` tokens, rows and columns."""
    dtype = draw(st.sampled_from(can.dtypes))
    weight = draw(weights(can, bits, least=least, most=most_columns(can), narrow=dtype == "float16"))
    tokens = draw(sizes(least=least, most=33))
    kind, value = draw(st.sampled_from(list(inputs))), draw(st.sampled_from(list(spoilt)))
    return Product(weight, tokens, kind, dtype, act_bits, value, draw(seeds()))


def zero_points(can: KernelCapabilities) -> tuple[str, ...]:
    """Name the kinds of `ZERO_POINTS` that a kernel takes."""
    return ZERO_POINTS[: 1 if can.symmetric else 0] + (ZERO_POINTS[1:] if can.zero_points else ())


def widest(can: KernelCapabilities) -> str:
    """Name the dtype of inputs that holds the largest numbers."""
    return max(can.dtypes, key=lambda name: torch.finfo(getattr(torch, name)).max)


def most_columns(can: KernelCapabilities) -> int:
    """Count the columns up to which the error bound of a sum says something: n u stays below 1/2."""
    dtype = getattr(torch, can.accumulates)
    if not dtype.is_floating_point:
        return max(TAILS)
    return min(max(TAILS), int(1 / torch.finfo(dtype).eps) - 2)
