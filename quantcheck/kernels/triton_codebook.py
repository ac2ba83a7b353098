"""Triton's kernels for codebooks: a code is looked up to its level and scaled as it is read.

A block of weights that share a scale runs over the flat weight, so a tile's columns have scales of their own;
decoded weights are float32, and so is their product with the inputs, whatever dtype these are. Tensor cores
take no part in it: float16 would overflow where a scale does.
"""
# mypy: disable-error-code="import-not-found,import-untyped,no-untyped-def,untyped-decorator"
# ruff: noqa: PLR0913, PLR0917

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantcheck.kernels.base import Codebook
from quantcheck.kernels.checked import CheckedKernel, Prepared
from quantcheck.kernels.triton_launch import ROWS, launch, token_tile

COLS = 32


@triton.jit
def _read(packed, levels, absmax, n, k, inside, in_features, block_size):
    """Decode the weights of out-features ``n`` and columns ``k``, float32; those not ``inside`` are 0."""
    flat = n.to(tl.int64)[:, None] * in_features + k[None, :]
    codes = tl.load(packed + flat // 2, mask=inside, other=0).to(tl.int32)
    codes = (codes >> ((flat % 2) * 4).to(tl.int32)) & 15
    weight = tl.load(levels + codes) * tl.load(absmax + flat // block_size, mask=inside, other=0)
    return tl.where(inside, weight, 0.0)


@triton.jit
def _decode(
    packed,
    levels,
    absmax,
    weight,
    out_features,
    in_features,
    block_size,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Write a tile of weights."""
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = (n < out_features)[:, None] & (k < in_features)[None, :]
    decoded = _read(packed, levels, absmax, n, k, inside, in_features, block_size)
    tl.store(weight + n.to(tl.int64)[:, None] * in_features + k[None, :], decoded, mask=inside)


@triton.jit
def _multiply(
    inputs,
    packed,
    levels,
    absmax,
    result,
    tokens,
    out_features,
    in_features,
    block_size,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Write a tile of the product."""
    m = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    n = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    token = m.to(tl.int64)[:, None]
    total = tl.zeros((TOKENS, ROWS), dtype=tl.float32)
    for start in range(0, in_features, COLS):
        k = start + tl.arange(0, COLS)
        shown = (m < tokens)[:, None] & (k < in_features)[None, :]
        x = tl.load(inputs + token * in_features + k[None, :], mask=shown, other=0).to(tl.float32)
        inside = (n < out_features)[:, None] & (k < in_features)[None, :]
        weight = _read(packed, levels, absmax, n, k, inside, in_features, block_size)
        total = tl.dot(x, tl.trans(weight), total, input_precision="ieee")
    written = (m < tokens)[:, None] & (n < out_features)[None, :]
    tl.store(result + token * out_features + n[None, :], total, mask=written)


class CodebookTriton(CheckedKernel):
    """Codes that name a level, times the scale of their block."""

    name: ClassVar[str] = "triton_codebook"

    def _prepare(self, weight: Codebook) -> Codebook:
        tensors = {name: getattr(weight, name).contiguous() for name in ("qweight", "levels", "absmax")}
        return replace(weight, **tensors)

    def _dequantize(self, prepared: Prepared, dtype: torch.dtype) -> Tensor:
        weight: Codebook = prepared.layout
        rows, cols = prepared.shape
        decoded = torch.empty(rows, cols, device=prepared.device)
        launch(
            _decode,
            (triton.cdiv(rows, ROWS), triton.cdiv(cols, COLS)),
            *(weight.qweight, weight.levels, weight.absmax, decoded, rows, cols, weight.block_size),
            ROWS=ROWS,
            COLS=COLS,
        )
        return decoded.to(dtype)

    def _matmul(self, inputs: Tensor, prepared: Prepared, act_bits: int | None) -> Tensor:
        weight: Codebook = prepared.layout
        tokens, (rows, cols), tile = len(inputs), prepared.shape, token_tile(len(inputs))
        result = torch.empty(tokens, rows, device=inputs.device)
        launch(
            _multiply,
            (triton.cdiv(tokens, tile), triton.cdiv(rows, ROWS)),
            *(inputs.contiguous(), weight.qweight, weight.levels, weight.absmax, result),
            *(tokens, rows, cols, weight.block_size),
            TOKENS=tile,
            ROWS=ROWS,
            COLS=COLS,
        )
        return result.to(inputs.dtype)
