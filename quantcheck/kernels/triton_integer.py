"""Triton's kernel for inputs rounded to integers: int8 times int8, added up in int32, then scaled.

As in `quantcheck.kernels.cpu_integer`, codes are brought into int8 by taking off ``2^(bits-1)``, and what
zero points differ from that is taken off the sums. A run has at most 64 columns here, whose sums are below
``2^21`` in magnitude: int32 holds them, and so does float32, in which the runs are scaled and added up. A
row is the same whatever rows come with it.
"""
# mypy: disable-error-code="import-not-found,import-untyped,no-untyped-def,untyped-decorator"
# ruff: noqa: PLR0913, PLR0917

from __future__ import annotations

from typing import ClassVar

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantcheck.kernels.base import Grouped
from quantcheck.kernels.checked import CheckedKernel, Prepared
from quantcheck.kernels.tokens import round_tokens
from quantcheck.kernels.triton_grouped import Layout, read_levels
from quantcheck.kernels.triton_launch import ROWS, launch, token_tile


@triton.jit
def _multiply(
    steps,
    token_scales,
    packed,
    scales,
    zero_points,
    columns,
    table,
    result,
    tokens,
    out_features,
    in_features,
    groups,
    runs,
    BITS: tl.constexpr,
    ZEROS: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Write a tile of the product."""
    m = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    n = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    token = m.to(tl.int64)[:, None]
    total = tl.zeros((TOKENS, ROWS), dtype=tl.float32)
    for i in range(runs):
        run = table + 3 * i
        k, group = tl.load(run) + tl.arange(0, COLS), tl.load(run + 2)
        there = k < tl.load(run + 1)
        column = tl.load(columns + k, mask=there, other=0)
        shown = (m < tokens)[:, None] & there[None, :]
        x = tl.load(steps + token * in_features + column[None, :], mask=shown, other=0)
        inside = (n < out_features)[:, None] & there[None, :]
        centred = read_levels(
            packed, packed, n, k, group, inside, out_features, in_features, groups, BITS, False
        )
        sums = tl.dot(x, tl.trans(centred.to(tl.int8)), out_dtype=tl.int32)
        if ZEROS:
            place = n.to(tl.int64) * groups + group
            zeros = tl.load(zero_points + place, mask=n < out_features, other=0).to(tl.int32)
            sums -= tl.sum(x.to(tl.int32), axis=1)[:, None] * (zeros - (1 << (BITS - 1)))[None, :]
        scale = tl.load(scales + n.to(tl.int64) * groups + group, mask=n < out_features, other=0)
        total += sums.to(tl.float32) * scale[None, :]
    total *= tl.load(token_scales + m, mask=m < tokens, other=0)[:, None]
    written = (m < tokens)[:, None] & (n < out_features)[None, :]
    tl.store(result + token * out_features + n[None, :], total, mask=written)


class IntegerTriton(CheckedKernel):
    """Integer codes times inputs that are rounded to integers, token by token."""

    name: ClassVar[str] = "triton_integer"

    def _prepare(self, weight: Grouped) -> Layout:
        return Layout.of(weight)

    def _dequantize(self, prepared: Prepared, dtype: torch.dtype) -> Tensor:
        layout: Layout = prepared.layout
        return layout.decode(prepared.shape).to(dtype)

    def _matmul(self, inputs: Tensor, prepared: Prepared, act_bits: int | None) -> Tensor:
        assert act_bits is not None
        layout: Layout = prepared.layout
        tokens, (rows, cols), tile = len(inputs), prepared.shape, token_tile(len(inputs))
        steps, token_scales = round_tokens(inputs, act_bits)
        result = torch.empty(tokens, rows, device=inputs.device)
        launch(
            _multiply,
            (triton.cdiv(tokens, tile), triton.cdiv(rows, ROWS)),
            *(steps.contiguous(), token_scales, *layout.operands, result),
            *(tokens, rows, cols, layout.scales.shape[1], len(layout.runs.table)),
            TOKENS=tile,
            **layout.constants,
        )
        return result.to(inputs.dtype)
