"""Dequantize and matmul: a plain reference, and fast ones that must agree with it.

``KERNELS`` names them all, with what they support as data, without importing torch; `build` makes one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

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
        requires: modules that it cannot do without, beside torch.
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
    requires: tuple[str, ...] = ()
    group_sizes: tuple[int | None, ...] = ()
    in_multiple: int = 1
    out_multiple: int = 1
    gradients: bool = False
    batch_invariant: bool = False


KERNELS: Registry[Kernel | type[Kernel], KernelCapabilities] = Registry("kernel")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton's kernels run in its interpreter, on the CPU; to be set before Triton is imported."""

_WIDTHS, _DTYPES = (1, 2, 3, 4, 5, 6, 7, 8), ("float32", "float16", "bfloat16")
_FAMILIES: dict[str, dict[str, Any]] = {
    "grouped": {"weights": "grouped", "bits": _WIDTHS, "gradients": True},
    "codebook": {"weights": "codebook", "bits": (4,), "gradients": True},
    "planes": {"weights": "planes", "bits": (1,), "gradients": True},
    "integer": {"weights": "grouped", "bits": (4, 6, 8), "act_bits": (4, 6, 8)},
}
_TRITON = {"devices": ("cpu",) if INTERPRETED else ("cuda",), "requires": ("triton",)}
_BUILT_IN: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("reference_grouped", "reference:GroupedReference", {}),
    ("reference_codebook", "reference:CodebookReference", {}),
    ("reference_planes", "reference:PlanesReference", {}),
    ("reference_integer", "reference:IntegerReference", {"accumulates": "float64"}),
    ("cpu_grouped", "cpu:GroupedCpu", {}),
    ("cpu_codebook", "cpu:CodebookCpu", {}),
    ("cpu_planes", "cpu:PlanesCpu", {}),
    ("cpu_integer", "cpu_integer:IntegerCpu", {"batch_invariant": True}),
    ("triton_grouped", "triton_grouped:GroupedTriton", _TRITON),
    ("triton_codebook", "triton_codebook:CodebookTriton", _TRITON),
    ("triton_planes", "triton_planes:PlanesTriton", _TRITON),
    ("triton_integer", "triton_integer:IntegerTriton", {**_TRITON, "batch_invariant": True}),
)

for _name, _target, _own in _BUILT_IN:
    _family = _FAMILIES[_name.partition("_")[2]]
    _capabilities = KernelCapabilities(dtypes=_DTYPES, **_family, **_own)
    KERNELS.register(_name, f"quantcheck.kernels.{_target}", _capabilities, origin="quantcheck")


def build(name: str) -> Kernel:
    """Make the kernel ``name``.

    Raises:
        SpecError: the name is unknown.
        KernelError: a module that it requires is not installed.
    """
    missing = [module for module in KERNELS.entry(name).capabilities.requires if find_spec(module) is None]
    if missing:
        raise KernelError(f"{name} requires {', '.join(missing)}, which is not installed")
    kernel = KERNELS.resolve(name)
    return kernel() if isinstance(kernel, type) else kernel
