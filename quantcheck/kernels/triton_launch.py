"""What Triton's kernels share: tiles, runs of columns, and how one is launched.

Sums are float32, in float32 arithmetic where the inputs are (`input_precision="ieee"`, not TF32), and results
leave the kernels in float32, to be rounded once by torch.

Triton's interpreter runs the kernels on the CPU, with numpy in place of the compiler, where
``TRITON_INTERPRET=1`` is set before Triton is imported; that is how they have been checked, with Triton 3.9,
whose compiler also takes them for compute capabilities 8.0 and 9.0; on a GPU they have not been run yet. The
interpreter multiplies bfloat16 as if it were uint16, so tiles are float32 there, whatever the inputs are.
"""
# mypy: disable-error-code="import-not-found,import-untyped"

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantcheck.kernels import INTERPRETED
from quantcheck.kernels.order import Order

LONGEST_RUN = 64
SHORTEST_TILE = 32
"""Columns: tensor cores take int8 by 32 at least."""
ROWS = 64


@dataclass(frozen=True, eq=False)
class Runs:
    """Columns in the order of their groups, cut into runs that share a scale.

    Attributes:
        order: of the columns.
        columns: int64 [in], which column comes where.
        table: int32 [runs, 3]: where each run starts and stops, and its group.
        width: columns of a tile; no run has more.
    """

    order: Order
    columns: Tensor
    table: Tensor
    width: int

    @classmethod
    def of(cls, g_idx: Tensor) -> Runs:
        """Cut columns where the group changes, and where a tile is full."""
        order = Order.of(g_idx)
        runs = list(order.runs(LONGEST_RUN))
        columns = torch.arange(len(g_idx), device=g_idx.device) if order.columns is None else order.columns
        table = torch.tensor(runs, dtype=torch.int32, device=g_idx.device)
        widest = max((stop - start for start, stop, _ in runs), default=1)
        return cls(order, columns, table, max(SHORTEST_TILE, triton.next_power_of_2(widest)))


def token_tile(tokens: int) -> int:
    """Choose how many tokens a program handles."""
    return 16 if tokens <= 16 else 64


def tile_dtype(dtype: torch.dtype) -> Any:
    """Choose what tiles of inputs and levels are multiplied in."""
    half = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
    return tl.float32 if INTERPRETED else half.get(dtype, tl.float32)


def launch(
    kernel: Any, grid: tuple[int, ...], *arguments: Any, enable_fp_fusion: bool = True, **constants: Any
) -> None:
    """Run ``kernel`` once for each place of ``grid``; products and sums may be fused by default."""
    constants["enable_fp_fusion"] = enable_fp_fusion
    if not INTERPRETED:
        kernel[grid](*arguments, **constants)
        return
    with warnings.catch_warnings():
        # Numpy warns of NaN and Inf, which are to pass here as they do on a GPU.
        warnings.simplefilter("ignore", RuntimeWarning)
        kernel[grid](*arguments, **constants)
