"""Dequantize and matmul: a plain reference, and fast ones that must agree with it.

``KERNELS`` names them all, with what they support as data, without importing torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantcheck.errors import QuantcheckError
from quantcheck.registry import Registry

if TYPE_CHECKING:
    from quantcheck.kernels.base import Kernel


class KernelError(QuantcheckError):
    """Operands that do not fit together, or that a kernel does not support."""


@dataclass(frozen=True)
class KernelCapabilities:
    """What a kernel supports, as data.

    Attributes:
        weights: the operand that it takes: ``grouped``, ``codebook`` or ``planes``.
        bits: widths of the weight's codes.
        symmetric: whether it takes weights without zero points.
        zero_points: whether it takes integer zero points.
        g_idx: whether the columns of a group may lie anywhere.
        act_bits: widths that it rounds its inputs to, per token; ``None`` stands for inputs as they are.
        dtypes: of inputs and results, by their names in torch.
        accumulates: the dtype that it adds products up in.
        devices: kinds of device that it runs on.
        group_sizes: group sizes that it takes; empty: any, and none.
        in_multiple: what in-features must be a multiple of.
        out_multiple: the same of out-features.
        gradients: whether gradients reach the inputs.
        batch_invariant: whether a row's result is the same bits whatever other rows come with it.
    """

    weights: str
    bits: tuple[int, ...]
    symmetric: bool = True
    zero_points: bool = True
    g_idx: bool = True
    act_bits: tuple[int | None, ...] = (None,)
    dtypes: tuple[str, ...] = ("float32",)
    accumulates: str = "float32"
    devices: tuple[str, ...] = ("cpu",)
    group_sizes: tuple[int | None, ...] = ()
    in_multiple: int = 1
    out_multiple: int = 1
    gradients: bool = False
    batch_invariant: bool = False


KERNELS: Registry[Kernel | type[Kernel], KernelCapabilities] = Registry("kernel")
