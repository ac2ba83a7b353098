"""Which kernels a quantized model computes by; without any, it multiplies by its decoded weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from quantcheck.errors import QuantizationError, SpecError
from quantcheck.kernels import KERNELS, KernelError, build
from quantcheck.kernels.base import Kernel
from quantcheck.methods.linear import QuantizedLinear


def kernels_by_name(names: Sequence[str]) -> dict[str, Kernel]:
    """Make the kernels of these names.

    Raises:
        SpecError: a name is unknown, or its kernel rounds its inputs, which the spec of a gate decides.
        KernelError: a module that a kernel requires is not installed.
    """
    made = {name: build(name) for name in names}
    for name in made:
        if None not in KERNELS.entry(name).capabilities.act_bits:
            raise SpecError(f"kernel {name} rounds its inputs; whether they are rounded is up to the spec")
    return made


@torch.no_grad()
def compute_by(model: nn.Module, kernels: dict[str, Kernel]) -> None:
    """Let every quantized Linear of ``model`` compute by the first of ``kernels`` that takes its weight.

    Raises:
        QuantizationError: none takes it; the message says why.
    """
    for path, module in model.named_modules():
        if isinstance(module, QuantizedLinear) and kernels:
            _compute_by(path, module, kernels)


def _compute_by(path: str, linear: QuantizedLinear, kernels: dict[str, Kernel]) -> None:
    refusals = []
    for name, kernel in kernels.items():
        try:
            linear.compute_by(name, kernel)
        except KernelError as error:
            refusals.append(f"{name}: {error}")
        else:
            return
    raise QuantizationError(f"no kernel takes the weight of {path} ({'; '.join(refusals)}); name another one")
