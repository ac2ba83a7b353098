"""Triton's kernels for integer codes: the bitstream is decoded as it is read, and never written out.

A program handles a tile of tokens by out-features, and goes through the columns a run at a time; the columns
of a run share a scale. ``code - zero_point`` is a whole number of at most 255 in magnitude, which float16 and
bfloat16 hold exactly, so tensor cores multiply the inputs, as they are, by exact levels; scales are applied
to each run's float32 sums. That rounds less than decoded weights in half precision would, and no scale can
overflow it.

Codes stay in the dense bitstream of 1 to 8 bits: a code is cut out of the byte where it starts and, if it
straddles, the next. Columns out of order are brought into the order of their groups once.
"""
# mypy: disable-error-code="import-not-found,import-untyped,no-untyped-def,untyped-decorator"
# ruff: noqa: PLR0913, PLR0917

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantcheck.codecs import bitstream
from quantcheck.kernels.base import Grouped
from quantcheck.kernels.checked import CheckedKernel, Prepared
from quantcheck.kernels.triton_launch import ROWS, Runs, launch, tile_dtype, token_tile


@triton.jit
def read_levels(
    packed,
    zero_points,
    n,
    k,
    group,
    inside,
    out_features,
    in_features,
    groups,
    BITS: tl.constexpr,
    ZEROS: tl.constexpr,
):
    """Read ``code - zero_point`` of out-features ``n`` and columns ``k``, int32, 0 where not ``inside``."""
    row = n.to(tl.int64)[:, None] * ((in_features * BITS + 7) // 8)
    bit = k * BITS
    shift = bit % 8
    levels = tl.load(packed + row + (bit // 8)[None, :], mask=inside, other=0).to(tl.int32)
    if 8 % BITS != 0:
        straddling = inside & (shift + BITS > 8)[None, :]
        levels |= tl.load(packed + row + (bit // 8 + 1)[None, :], mask=straddling, other=0).to(tl.int32) << 8
    levels = (levels >> shift[None, :]) & ((1 << BITS) - 1)
    if ZEROS:
        zeros = tl.load(zero_points + n.to(tl.int64) * groups + group, mask=n < out_features, other=0)
        levels -= zeros.to(tl.int32)[:, None]
    else:
        levels -= 1 << (BITS - 1)
    return tl.where(inside, levels, 0)


@triton.jit
def _decode(
    packed,
    scales,
    zero_points,
    columns,
    table,
    weight,
    out_features,
    in_features,
    groups,
    BITS: tl.constexpr,
    ZEROS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Write the weights of a tile of rows and of one run."""
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    run = table + 3 * tl.program_id(1)
    k, group = tl.load(run) + tl.arange(0, COLS), tl.load(run + 2)
    there = k < tl.load(run + 1)
    inside = (n < out_features)[:, None] & there[None, :]
    levels = read_levels(
        packed, zero_points, n, k, group, inside, out_features, in_features, groups, BITS, ZEROS
    )
    rows = n.to(tl.int64)
    scale = tl.load(scales + rows * groups + group, mask=n < out_features, other=0)
    column = tl.load(columns + k, mask=there, other=0)
    place = rows[:, None] * in_features + column[None, :]
    tl.store(weight + place, levels.to(tl.float32) * scale[:, None], mask=inside)


@triton.jit
def _multiply(
    inputs,
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
    DTYPE: tl.constexpr,
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
        x = tl.load(inputs + token * in_features + column[None, :], mask=shown, other=0).to(DTYPE)
        inside = (n < out_features)[:, None] & there[None, :]
        levels = read_levels(
            packed, zero_points, n, k, group, inside, out_features, in_features, groups, BITS, ZEROS
        )
        sums = tl.dot(x, tl.trans(levels.to(tl.float32).to(DTYPE)), input_precision="ieee")
        scale = tl.load(scales + n.to(tl.int64) * groups + group, mask=n < out_features, other=0)
        total += sums * scale[None, :]
    written = (m < tokens)[:, None] & (n < out_features)[None, :]
    tl.store(result + token * out_features + n[None, :], total, mask=written)


@dataclass(frozen=True, eq=False)
class Layout:
    """A weight whose columns lie group by group.

    Attributes:
        bits: width of a code.
        runs: of the columns.
        packed: uint8 [out, ceil(in * bits / 8)].
        scales: float32 [out, groups].
        zero_points: uint8 [out, groups], or ``None``.
    """

    bits: int
    runs: Runs
    packed: Tensor
    scales: Tensor
    zero_points: Tensor | None

    @classmethod
    def of(cls, weight: Grouped) -> Layout:
        """Pack the codes anew where their columns must be put in order."""
        runs, packed = Runs.of(weight.g_idx), weight.qweight.contiguous()
        if runs.order.columns is not None:
            codes = bitstream.unpack(packed, weight.bits, weight.in_features)
            packed = bitstream.pack(runs.order.sort(codes), weight.bits)
        scales = weight.scales.to(torch.float32).contiguous()
        zeros = None if weight.zero_points is None else weight.zero_points.contiguous()
        return cls(weight.bits, runs, packed, scales, zeros)

    def decode(self, shape: tuple[int, int]) -> Tensor:
        """Decode all of it, float32 [out, in]."""
        weight = torch.empty(shape, device=self.packed.device)
        launch(
            _decode,
            (triton.cdiv(shape[0], ROWS), len(self.runs.table)),
            *(*self.operands, weight),
            *(*shape, self.scales.shape[1]),
            **self.constants,
        )
        return weight

    @property
    def constants(self) -> dict[str, Any]:
        """What a kernel is compiled for."""
        zeros = self.zero_points is not None
        return {"BITS": self.bits, "ZEROS": zeros, "ROWS": ROWS, "COLS": self.runs.width}

    @property
    def operands(self) -> tuple[Tensor, ...]:
        """What a kernel reads, beside the inputs; where there are no zero points, something else in place."""
        zeros = self.packed if self.zero_points is None else self.zero_points
        return self.packed, self.scales, zeros, self.runs.columns, self.runs.table


class GroupedTriton(CheckedKernel):
    """Integer codes with scales and zero points."""

    name: ClassVar[str] = "triton_grouped"

    def _prepare(self, weight: Grouped) -> Layout:
        return Layout.of(weight)

    def _dequantize(self, prepared: Prepared, dtype: torch.dtype) -> Tensor:
        layout: Layout = prepared.layout
        return layout.decode(prepared.shape).to(dtype)

    def _matmul(self, inputs: Tensor, prepared: Prepared, act_bits: int | None) -> Tensor:
        layout: Layout = prepared.layout
        tokens, (rows, cols), tile = len(inputs), prepared.shape, token_tile(len(inputs))
        result = torch.empty(tokens, rows, device=inputs.device)
        launch(
            _multiply,
            (triton.cdiv(tokens, tile), triton.cdiv(rows, ROWS)),
            *(inputs.contiguous(), *layout.operands, result),
            *(tokens, rows, cols, layout.scales.shape[1], len(layout.runs.table)),
            DTYPE=tile_dtype(inputs.dtype),
            TOKENS=tile,
            **layout.constants,
        )
        return result.to(inputs.dtype)
