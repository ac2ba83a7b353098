"""GPTQ: column by column, each rounding error is made up for by the columns not yet rounded.

Frantar, Ashkboos, Hoefler and Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", ICLR 2023, algorithm 1; the feedback itself is in ``feedback``, with ``U^T U = (H + percdamp
mean(diag H) I)^-1``. What the official code does, and this does too:

- A per-channel grid is fitted to the original row. A group's grid is fitted when its first column is reached,
  to the weights as they are then; since later columns are updated between blocks only, groups smaller than a
  block see what earlier blocks left, not what earlier groups of their own block did (``block_size`` = group
  size: fully compensated columns).
- Dead input columns (zero on all calibration data) become zero; only a 1-bit symmetric grid has no level for
  that.
- ``act_order`` takes the columns by falling diag(H), ties in their old order. Groups are then formed in that
  order, and ``g_idx`` is stored; with ``static_groups`` they are consecutive columns, all fitted to the
  original weights.
- ``true_sequential`` calibrates each stage of a block on what the quantized stages before it put out
  (``walk``); the authors turn it on with ``act_order`` for LLaMA.
- ``mse`` (and ``icq``, which is IR-QLoRA's) search for the range wherever a grid is fitted (``grids``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from quantcheck.errors import SpecError
from quantcheck.methods.base import PackedWeight
from quantcheck.methods.layerwise import HessianMethod
from quantcheck.methods.packed.grouped import GroupedWeight
from quantcheck.methods.parts.feedback import column_by_column, sweep
from quantcheck.methods.parts.grids import Grid, Search, effective_group_size, fit_groups, group_index
from quantcheck.methods.parts.hessian import dead_columns, inverse_factor, live_diagonal
from quantcheck.spec import QuantSpec


@dataclass(frozen=True)
class GptqOptions:
    """The options of a ``gptq`` spec.

    Attributes:
        act_order: take the columns by falling diag(H).
        static_groups: fit all groups to the original weights.
        true_sequential: calibrate stage by stage.
        mse: search for the range by the error.
        icq: search for the range by the entropy of the codes.
        percdamp: what is added to diag(H), as a fraction of its mean.
        block_size: columns between two updates of all later columns.
        vision: quantize the vision tower of a LLaVA, too, which is calibrated on pictures.
    """

    act_order: bool = False
    static_groups: bool = False
    true_sequential: bool = False
    mse: bool = False
    icq: bool = False
    percdamp: float = 0.01
    block_size: int = 128
    vision: bool = False

    @classmethod
    def of(cls, spec: QuantSpec) -> GptqOptions:
        """Read the options that ``spec`` gives.

        Raises:
            SpecError: ``percdamp`` is negative or not finite, or ``block_size`` below 1.
        """
        options = cls(**dict(spec.options))  # type: ignore[arg-type]
        if not 0 <= options.percdamp < math.inf:
            raise SpecError(f"{spec}: percdamp must be a number of 0 or more, got {options.percdamp:g}")
        if options.block_size < 1:
            raise SpecError(f"{spec}: block_size must be 1 or more, got {options.block_size}")
        return options


class Gptq(HessianMethod):
    """GPTQ at 1 to 8 bits, per channel or grouped."""

    version = 1

    def check(self, spec: QuantSpec) -> None:
        """Refuse option values that make no sense."""
        GptqOptions.of(spec)
        Search.of(spec)

    def quantize_weight(
        self, weight: Tensor, hessian: Tensor, spec: QuantSpec, scale_dtype: torch.dtype
    ) -> PackedWeight:
        """Quantize one weight, float32 [out, in], given H, float32 [in, in]."""
        options, grid = GptqOptions.of(spec), Grid.of(spec, scale_dtype)
        in_features = weight.shape[1]
        group_size = effective_group_size(spec.group_size, in_features)
        dead = dead_columns(hessian)
        order = torch.arange(in_features, device=weight.device)
        if options.act_order:
            order = live_diagonal(hessian).argsort(descending=True, stable=True)

        columns, fixed = group_index(in_features, group_size, weight.device), None
        if group_size == in_features:
            fixed = fit_groups(grid, weight, group_size)
        elif options.static_groups:
            columns, fixed = columns[order], fit_groups(grid, weight.masked_fill(dead, 0), group_size)
        rounding = _Rounding(grid, columns, group_size, fixed, options.block_size)
        codes, scales, zero_points = rounding.run(
            weight.T[order].masked_fill_(dead[order, None], 0),
            inverse_factor(hessian, options.percdamp, order),
        )

        restore = order.argsort()
        return GroupedWeight.from_codes(
            codes.T[:, restore],
            scales.T.to(scale_dtype),
            zero_points.T if grid.kind == "asym" else None,
            bits=grid.bits,
            group_size=group_size,
            g_idx=columns[restore] if options.act_order and fixed is None else None,
        )


@dataclass(frozen=True)
class _Rounding:
    """One pass over the columns in the order they come; matrices are transposed as in ``feedback``.

    Attributes:
        grid: what to round to.
        columns: the group of each column [in].
        group_size: columns that share a scale.
        fixed: scales and zero points [out, groups]; ``None``: fit each group when its first column comes.
        block_size: columns between two updates of all later columns.
    """

    grid: Grid
    columns: Tensor
    group_size: int
    fixed: tuple[Tensor, Tensor] | None
    block_size: int

    def run(self, rest: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize ``rest`` [in, out], which is overwritten.

        Returns:
            Codes [in, out], and scales and zero points [groups, out].
        """
        codes = torch.empty_like(rest, dtype=torch.uint8)
        groups = self.columns.tolist()
        scales, zero_points = self._grids(groups, rest)

        def round_block(start: int, block: Tensor, within: Tensor) -> Tensor:
            def round_column(i: int, column: Tensor) -> Tensor:
                position, group = start + i, groups[start + i]
                if self.fixed is None and position % self.group_size == 0:
                    scales[group], zero_points[group] = self.grid.fit(
                        rest[position : position + self.group_size].T
                    )
                codes[position] = self.grid.quantize(column, scales[group], zero_points[group])
                return scales[group] * (codes[position] - zero_points[group])

            return column_by_column(block, within, round_column)

        sweep(rest, factor, self.block_size, round_block)
        return codes, scales, zero_points

    def _grids(self, groups: list[int], rest: Tensor) -> tuple[Tensor, Tensor]:
        if self.fixed is not None:
            return self.fixed[0].T.contiguous(), self.fixed[1].T.contiguous()
        shape = (max(groups) + 1, rest.shape[1])
        return rest.new_empty(shape), rest.new_empty(shape)
