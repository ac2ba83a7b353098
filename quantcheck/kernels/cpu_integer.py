"""The fast kernel for inputs rounded to integers: int8 times int8, added up exactly in int32, then scaled.

``x = s_x q`` and ``w = s (code - zero_point)`` give, with ``c = 2^(bits-1)``, which brings codes into int8 ::

    y = s_x sum_g s_g (sum_k q_k (code_k - c)  -  (zero_point_g - c) sum_k q_k)

Both sums over the columns of a group are integers (`torch._int_mm`, that is oneDNN's int8 product), and so is
their difference: each of the three is below ``2^(act_bits-1) 2^bits`` times the columns in magnitude. At 8
and 8 bits int32 holds those of 65536 columns less one; a group of more is cut into runs. What is added up in
float32 are the groups, in their order, so a row is the same whatever rows come with it.

On processors without instructions for it (VNNI), oneDNN may add pairs of products in int16, which saturates.
`exact_product` tries the largest ones first, once, and leaves the sums to float64 there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from quantcheck.codecs import bitstream
from quantcheck.kernels.base import Grouped
from quantcheck.kernels.checked import CheckedKernel, Prepared
from quantcheck.kernels.order import Order
from quantcheck.kernels.reference import GroupedReference
from quantcheck.kernels.tokens import round_tokens

ACT_BITS = 8
"""The widest inputs: runs are cut for them."""


@dataclass(frozen=True, eq=False)
class Run:
    """Columns that share a scale.

    Attributes:
        start: the first of them.
        stop: the one after the last.
        codes: less ``2^(bits-1)``, int8 [out, columns].
        scales: float32 [out].
        shifts: the zero points less ``2^(bits-1)``, int32 [out]; ``None``: zeros.
    """

    start: int
    stop: int
    codes: Tensor
    scales: Tensor
    shifts: Tensor | None

    def sums(self, steps: Tensor) -> Tensor:
        """Add up the run's products with ``steps``, int8 [tokens, in]; float32 [tokens, out]."""
        own = steps[:, self.start : self.stop].contiguous()
        total = exact_product(own, self.codes)
        if self.shifts is not None:
            total -= own.sum(dim=1, keepdim=True, dtype=torch.int32) * self.shifts
        return total * self.scales


@dataclass(frozen=True, eq=False)
class Layout:
    """A weight in runs.

    Attributes:
        weight: the operand.
        order: of the columns.
        runs: all of them.
    """

    weight: Grouped
    order: Order
    runs: list[Run]


class IntegerCpu(CheckedKernel):
    """Integer codes times inputs that are rounded to integers, token by token."""

    name: ClassVar[str] = "cpu_integer"

    def _prepare(self, weight: Grouped) -> Layout:
        order, middle = Order.of(weight.g_idx), 1 << (weight.bits - 1)
        codes = order.sort(bitstream.unpack(weight.qweight, weight.bits, weight.in_features))
        centred = (codes - middle).view(torch.int8)
        shifts = None if weight.zero_points is None else weight.zero_points.to(torch.int32) - middle
        runs = [
            Run(
                start,
                stop,
                centred[:, start:stop].contiguous(),
                weight.scales[:, group].to(torch.float32),
                None if shifts is None else shifts[:, group],
            )
            for start, stop, group in order.runs(longest_run(weight.bits))
        ]
        return Layout(weight, order, runs)

    def _dequantize(self, prepared: Prepared, dtype: torch.dtype) -> Tensor:
        reference = GroupedReference()
        return reference.dequantize(reference.prepare(prepared.layout.weight, dtype), dtype)

    def _matmul(self, inputs: Tensor, prepared: Prepared, act_bits: int | None) -> Tensor:
        assert act_bits is not None
        layout: Layout = prepared.layout
        steps, scales = round_tokens(inputs, act_bits)
        steps = layout.order.sort(steps)
        result = torch.zeros(len(inputs), prepared.shape[0])
        for run in layout.runs:
            result += run.sums(steps)
        return result.mul_(scales).to(inputs.dtype)


def longest_run(bits: int) -> int:
    """Count the columns whose products int32 surely holds the sum of."""
    return ((1 << 31) - 1) // (1 << (ACT_BITS - 1) << bits)


def exact_product(steps: Tensor, codes: Tensor) -> Tensor:
    """Multiply int8 ``steps`` [tokens, in] by transposed int8 ``codes`` [out, in]: int32 [tokens, out]."""
    # Of one column, with strides of (1, 1), torch 2.13 leaves the result as it finds it.
    if steps.shape[1] > 1 and _int8_is_exact():
        return torch._int_mm(steps, codes.T)
    return (steps.to(torch.float64) @ codes.T.to(torch.float64)).to(torch.int32)


@cache
def _int8_is_exact() -> bool:
    steps = torch.full((16, 64), 127, dtype=torch.int8)
    products = {code: torch._int_mm(steps, torch.full_like(steps, code).T) for code in (-128, 127)}
    return all(bool((found == 64 * 127 * code).all()) for code, found in products.items())
