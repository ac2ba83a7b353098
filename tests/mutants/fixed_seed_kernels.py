"""The usual test of a kernel: products of seed 0, sizes that are multiples of 32, a tolerance set by hand."""

from __future__ import annotations

import torch

from quantcheck.contracts.kernel_subjects import Subject, subjects
from quantcheck.kernels.base import Kernel
from quantcheck.strategies.operands import CodebookRecipe, GroupedRecipe, PlanesRecipe, Product, WeightRecipe

SHAPES = ((1, 32, 32), (32, 64, 128), (32, 128, 256))
"""Tokens, rows, columns."""
TOLERANCE = 1e-2
DTYPE = "float16"


def product_fails(kernel: Kernel) -> bool:
    """Whether such a test turns red, of decoded weights or of products."""
    return any(_off(subject, *shape) for subject in subjects([kernel]) for shape in SHAPES)


def _off(subject: Subject, tokens: int, rows: int, cols: int) -> bool:
    weight = _weight(subject, rows, cols)
    product = Product(weight, tokens, dtype=DTYPE, act_bits=subject.act_bits)
    matrix, x = weight.terms().sum(0).float(), product.x()
    inputs = x.float()
    if subject.act_bits is not None:
        step = inputs.abs().amax(1, keepdim=True) / (2 ** (subject.act_bits - 1) - 1)
        inputs = (inputs / step).round() * step
    try:
        for got, expected in (
            (subject.dequantize(weight, x.dtype), matrix),
            (subject.multiply(product), inputs @ matrix.T),
        ):
            torch.testing.assert_close(got.float(), expected, rtol=TOLERANCE, atol=TOLERANCE)
    except (AssertionError, RuntimeError):
        return True
    return False


def _weight(subject: Subject, rows: int, cols: int) -> WeightRecipe:
    if subject.can.weights == "codebook":
        return CodebookRecipe(rows, cols, levels="random")
    if subject.can.weights == "planes":
        return PlanesRecipe(rows, cols, group_size=32, masks="disjoint", offsets=True)
    return GroupedRecipe(rows, cols, group_size=32, zero_points="random")
