"""Seeded recipes as hypothesis strategies: layers and tiny models, packed weights, operands of kernels.

What is drawn is a recipe, a few values that print on one line; equal recipes make equal tensors. So a
falsifying example can be read, and pasted into a test.
"""

from __future__ import annotations

from quantcheck.strategies.models import (
    BLEMISHES,
    DAMAGES,
    Layer,
    TinyInstructions,
    TinyLlama,
    damaged,
    layers,
    odd_models,
    seeds,
)
from quantcheck.strategies.operands import CodebookRecipe, GroupedRecipe, PlanesRecipe, Product

__all__ = [
    "BLEMISHES",
    "DAMAGES",
    "CodebookRecipe",
    "GroupedRecipe",
    "Layer",
    "PlanesRecipe",
    "Product",
    "TinyInstructions",
    "TinyLlama",
    "damaged",
    "layers",
    "odd_models",
    "seeds",
]
