"""Triton's kernels for bit planes: bits become signs, scaled, shifted, masked and added up as they are read.

Offsets and scales may cancel, so weights are decoded, in float32, before they are multiplied, in float32,
too, whatever the inputs' dtype is. Each column's group is looked up, so groups may lie in any order.
"""
# mypy: disable-error-code="import-not-found,import-untyped,no-untyped-def,untyped-decorator"
# ruff: noqa: PLR0913, PLR0917

from __future__ import annotations

from typing import Any, ClassVar

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantcheck.kernels.base import Planes
from quantcheck.kernels.checked import CheckedKernel, Prepared
from quantcheck.kernels.triton_launch import ROWS, launch, token_tile

COLS = 32


@triton.jit
def _bits(stream, row, k, inside):
    """Read bits of rows that start at ``row``, float32; those not ``inside`` are 0."""
    packed = tl.load(stream + row + (k // 8)[None, :], mask=inside, other=0).to(tl.int32)
    return ((packed >> (k % 8)[None, :]) & 1).to(tl.float32)


@triton.jit
def _read(
    planes,
    scales,
    offsets,
    masks,
    g_idx,
    n,
    k,
    inside,
    count,
    out_features,
    in_features,
    groups,
    SIGNED: tl.constexpr,
    OFFSETS: tl.constexpr,
    MASKS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Decode the weights of out-features ``n`` and columns ``k``, float32; those not ``inside`` are 0."""
    total = tl.zeros((ROWS, COLS), dtype=tl.float32)
    group = tl.load(g_idx + k, mask=k < in_features, other=0)
    for plane in range(count):
        row = (plane * out_features + n).to(tl.int64)[:, None]
        weight = _bits(planes, row * ((in_features + 7) // 8), k, inside)
        if SIGNED:
            weight = 2.0 * weight - 1.0
        place = row * groups + group[None, :]
        weight *= tl.load(scales + place, mask=inside, other=0)
        if OFFSETS:
            weight += tl.load(offsets + place, mask=inside, other=0)
        if MASKS:
            weight *= _bits(masks, row * ((in_features + 7) // 8), k, inside)
        total += weight
    return tl.where(inside, total, 0.0)


@triton.jit
def _decode(
    planes,
    scales,
    offsets,
    masks,
    g_idx,
    weight,
    count,
    out_features,
    in_features,
    groups,
    SIGNED: tl.constexpr,
    OFFSETS: tl.constexpr,
    MASKS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Write a tile of weights."""
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = (n < out_features)[:, None] & (k < in_features)[None, :]
    decoded = _read(
        planes,
        scales,
        offsets,
        masks,
        g_idx,
        n,
        k,
        inside,
        count,
        out_features,
        in_features,
        groups,
        SIGNED,
        OFFSETS,
        MASKS,
        ROWS,
        COLS,
    )
    tl.store(weight + n.to(tl.int64)[:, None] * in_features + k[None, :], decoded, mask=inside)


@triton.jit
def _multiply(
    inputs,
    planes,
    scales,
    offsets,
    masks,
    g_idx,
    result,
    tokens,
    count,
    out_features,
    in_features,
    groups,
    SIGNED: tl.constexpr,
    OFFSETS: tl.constexpr,
    MASKS: tl.constexpr,
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
        weight = _read(
            planes,
            scales,
            offsets,
            masks,
            g_idx,
            n,
            k,
            inside,
            count,
            out_features,
            in_features,
            groups,
            SIGNED,
            OFFSETS,
            MASKS,
            ROWS,
            COLS,
        )
        total = tl.dot(x, tl.trans(weight), total, input_precision="ieee")
    written = (m < tokens)[:, None] & (n < out_features)[None, :]
    tl.store(result + token * out_features + n[None, :], total, mask=written)


class PlanesTriton(CheckedKernel):
    """Bit planes, added up from the first one on."""

    name: ClassVar[str] = "triton_planes"

    def _prepare(self, weight: Planes) -> Planes:
        return Planes(
            weight.in_features,
            weight.planes.contiguous(),
            weight.scales.to(torch.float32).contiguous(),
            None if weight.offsets is None else weight.offsets.to(torch.float32).contiguous(),
            None if weight.masks is None else weight.masks.contiguous(),
            weight.g_idx.contiguous(),
            weight.signed,
        )

    def _dequantize(self, prepared: Prepared, dtype: torch.dtype) -> Tensor:
        weight: Planes = prepared.layout
        rows, cols = prepared.shape
        decoded = torch.empty(rows, cols, device=prepared.device)
        launch(
            _decode,
            (triton.cdiv(rows, ROWS), triton.cdiv(cols, COLS)),
            *(*_operands(weight), decoded, len(weight.planes), rows, cols, weight.scales.shape[2]),
            enable_fp_fusion=False,  # the same bits as the reference's
            **_constants(weight),
        )
        return decoded.to(dtype)

    def _matmul(self, inputs: Tensor, prepared: Prepared, act_bits: int | None) -> Tensor:
        weight: Planes = prepared.layout
        tokens, (rows, cols), tile = len(inputs), prepared.shape, token_tile(len(inputs))
        result = torch.empty(tokens, rows, device=inputs.device)
        launch(
            _multiply,
            (triton.cdiv(tokens, tile), triton.cdiv(rows, ROWS)),
            *(inputs.contiguous(), *_operands(weight), result),
            *(tokens, len(weight.planes), rows, cols, weight.scales.shape[2]),
            TOKENS=tile,
            **_constants(weight),
        )
        return result.to(inputs.dtype)


def _operands(weight: Planes) -> tuple[Tensor, ...]:
    """What a kernel reads, beside the inputs; where something is not there, something else in its place."""
    offsets = weight.scales if weight.offsets is None else weight.offsets
    masks = weight.planes if weight.masks is None else weight.masks
    return weight.planes, weight.scales, offsets, masks, weight.g_idx


def _constants(weight: Planes) -> dict[str, Any]:
    """What a kernel is compiled for."""
    return {
        "SIGNED": weight.signed,
        "OFFSETS": weight.offsets is not None,
        "MASKS": weight.masks is not None,
        "ROWS": ROWS,
        "COLS": COLS,
    }
