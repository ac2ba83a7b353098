"""GPTQ: column by column, each rounding error is made up for by the columns not yet rounded.

Frantar, Ashkboos, Hoefler and Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", ICLR 2023, algorithm 1. With ``U^T U = (H + percdamp mean(diag H) I)^-1``, U upper triangular,
for each column i in order::

    q_i = nearest level to w_i        e_i = (w_i - q_i) / U_ii        w_j <- w_j - e_i U_ij  for j > i

Columns are handled in lazy blocks of ``block_size``: inside a block updates are immediate, later columns
receive the whole block's at its end. What the official code does, and this does too:

- A per-channel grid is fitted to the original row. A group's grid is fitted when its first column is reached,
  to the weights as they are then; since later columns are updated between blocks only, groups smaller than a
  block see what earlier blocks left, not what earlier groups of their own block did (``block_size`` = group
  size: fully compensated columns).
- Dead input columns (zero on all calibration data) become zero; only a 1-bit symmetric grid has no level for
  that.
- ``act_order`` takes the columns by falling diag(H), ties in their old order. Groups are then formed in that
  order, and ``g_idx`` is stored; with ``static_groups`` they are consecutive columns, all fitted to the
  original weights.

Left out: ``true-sequential`` (several passes a block) and the grid search ``mse``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantcheck.errors import SpecError
from quantcheck.methods.base import PackedWeight
from quantcheck.methods.grids import Grid, effective_group_size, fit_groups, group_index
from quantcheck.methods.grouped import GroupedWeight
from quantcheck.methods.hessian import dead_columns, inverse_factor
from quantcheck.methods.layerwise import HessianMethod
from quantcheck.spec import QuantSpec


@dataclass(frozen=True)
class GptqOptions:
    """The options of a ``gptq`` spec.

    Attributes:
        act_order: take the columns by falling diag(H).
        static_groups: fit all groups to the original weights.
        percdamp: what is added to diag(H), as a fraction of its mean.
        block_size: columns between two updates of all later columns.
    """

    act_order: bool = False
    static_groups: bool = False
    percdamp: float = 0.01
    block_size: int = 128

    @classmethod
    def of(cls, spec: QuantSpec) -> GptqOptions:
        """The options that ``spec`` gives.

        Raises:
            SpecError: ``percdamp`` is negative, or ``block_size`` below 1.
        """
        options = cls(**dict(spec.options))  # type: ignore[arg-type]
        if options.percdamp < 0:
            raise SpecError(f"{spec}: percdamp must be 0 or more, got {options.percdamp:g}")
        if options.block_size < 1:
            raise SpecError(f"{spec}: block_size must be 1 or more, got {options.block_size}")
        return options


class Gptq(HessianMethod):
    """GPTQ at 1 to 8 bits, per channel or grouped."""

    version = 1

    def check(self, spec: QuantSpec) -> None:
        """Refuse option values that make no sense."""
        GptqOptions.of(spec)

    def quantize_weight(
        self, weight: Tensor, hessian: Tensor, spec: QuantSpec, scale_dtype: torch.dtype
    ) -> PackedWeight:
        """Quantize one weight, float32 [out, in], given H, float32 [in, in]."""
        options, grid = GptqOptions.of(spec), Grid.of(spec, scale_dtype)
        in_features = weight.shape[1]
        group_size = effective_group_size(spec.group_size, in_features)
        per_channel = group_size == in_features

        dead = dead_columns(hessian)
        alive = weight.masked_fill(dead, 0)
        hessian = hessian + torch.diag(dead.to(hessian.dtype))
        order = torch.arange(in_features, device=weight.device)
        if options.act_order:
            order = hessian.diagonal().argsort(descending=True, stable=True)

        consecutive = group_index(in_features, group_size, weight.device)
        fixed = None
        if per_channel:
            fixed = grid.fit(weight[:, None])
        elif options.static_groups:
            fixed = fit_groups(grid, alive, group_size)
        columns = consecutive[order] if fixed else consecutive

        factor = inverse_factor(hessian[order][:, order], options.percdamp)
        sweep = _Sweep(grid, columns, group_size, fixed, options.block_size)
        codes, scales, zero_points = sweep.run(alive[:, order], factor)

        unordered = order.argsort()
        regrouped = options.act_order and fixed is None
        return GroupedWeight.from_codes(
            codes[:, unordered],
            scales.to(scale_dtype),
            zero_points if grid.kind == "asym" else None,
            bits=grid.bits,
            group_size=group_size,
            g_idx=columns[unordered] if regrouped else None,
        )


@dataclass(frozen=True)
class _Sweep:
    """One pass over the columns in the order they come.

    Attributes:
        grid: what to round to.
        columns: the group of each column [in].
        group_size: columns that share a scale.
        fixed: scales and zero points [out, groups]; ``None``: fit each group when its first column is
            reached.
        block_size: columns between two updates of all later columns.
    """

    grid: Grid
    columns: Tensor
    group_size: int
    fixed: tuple[Tensor, Tensor] | None
    block_size: int

    def run(self, weight: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes uint8 [out, in], scales and zero points float32 [out, groups]."""
        # Transposed, so that a column of the weight is contiguous.
        rest = weight.T.contiguous()
        in_features, out_features = rest.shape
        codes = torch.empty(in_features, out_features, dtype=torch.uint8, device=weight.device)
        groups = self.columns.tolist()
        scales, zero_points = (
            [t.T.contiguous() for t in self.fixed]
            if self.fixed
            else weight.new_empty(2, max(groups) + 1, out_features)
        )
        for start in range(0, in_features, self.block_size):
            stop = min(start + self.block_size, in_features)
            block, block_factor = rest[start:stop].clone(), factor[start:stop, start:stop]
            diagonal = block_factor.diagonal().tolist()
            errors = torch.empty_like(block)
            for i, column in enumerate(block):
                position = start + i
                group = groups[position]
                if self.fixed is None and position % self.group_size == 0:
                    scales[group], zero_points[group] = self.grid.fit(
                        rest[position : position + self.group_size].T
                    )
                code = self.grid.quantize(column, scales[group], zero_points[group])
                rounded = scales[group] * (code - zero_points[group])
                errors[i] = (column - rounded) / diagonal[i]
                block[i:].addr_(block_factor[i, i:], errors[i], alpha=-1)
                codes[position] = code
            rest[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)
        return codes.T.contiguous(), scales.T.contiguous(), zero_points.T.contiguous()
