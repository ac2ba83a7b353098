"""The Linear of a quantized model: it owns packed tensors and computes with what they decode to.

Its inputs are rounded first where activations are quantized, and a low-rank adapter adds to its output where
the model was fine-tuned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantcheck.artifact_facts import DECODE
from quantcheck.kernels import KernelError
from quantcheck.kernels.base import Kernel, Operand
from quantcheck.methods.activations import ActivationQuantizer
from quantcheck.methods.adapter import LowRankAdapter
from quantcheck.methods.base import PackedWeight

ADAPTER = ("lora_a", "lora_b")


class QuantizedLinear(nn.Module):
    """A Linear whose weight exists only as packed tensors.

    They are buffers, so they move and save with the module; casting the module changes the dtype it computes
    in, never what is stored. The weight is decoded at first use, on the buffers' device, and kept until they
    move or change dtype.

    Attributes:
        kernel: what multiplies, `DECODE` or the name of a kernel (`compute_by`).
    """

    kernel = DECODE

    def __init__(
        self,
        packed: PackedWeight,
        bias: Tensor | None,
        dtype: torch.dtype,
        *,
        activation: ActivationQuantizer | None = None,
        output_activation: ActivationQuantizer | None = None,
        adapter: LowRankAdapter | None = None,
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = packed.shape
        self.dtype = dtype
        self.activation = activation
        self.output_activation = output_activation
        self._format, self._meta = type(packed), packed.meta()
        self._weight_names = tuple(packed.tensors())
        self._scaling = None if adapter is None else adapter.scaling
        self._decoded: Tensor | None = None
        self._kernel: Kernel | None = None
        self._prepared: Any = None
        stored = dict(packed.tensors())
        if adapter is not None:
            stored |= dict(zip(ADAPTER, (adapter.lora_a, adapter.lora_b), strict=True))
        self._stored_names = tuple(stored)
        for name, tensor in stored.items():
            self.register_buffer(name, tensor)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    @property
    def packed(self) -> PackedWeight:
        """The packed weight, made of this module's buffers."""
        return self._format.from_tensors(
            {name: self.get_buffer(name) for name in self._weight_names}, self._meta
        )

    @property
    def adapter(self) -> LowRankAdapter | None:
        """The low-rank adapter, made of this module's buffers."""
        if self._scaling is None:
            return None
        lora_a, lora_b = (self.get_buffer(name) for name in ADAPTER)
        return LowRankAdapter(lora_a, lora_b, self._scaling)

    @property
    def weight(self) -> Tensor:
        """The weight that the packed tensors decode to, [out, in] in the module's dtype."""
        if self._decoded is None:
            with torch.no_grad():
                self._decoded = self.packed.decode().to(self.dtype)
        return self._decoded

    def compute_by(self, name: str, kernel: Kernel) -> None:
        """Multiply by ``kernel``, registered as ``name``, from now on.

        Raises:
            KernelError: it does not take this weight.
        """
        self._prepared = kernel.prepare(_operand(self.packed), self.dtype)
        self.kernel, self._kernel = name, kernel

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply ``inputs`` [..., in] by the weight, add bias and adapter: [..., out]."""
        if self.activation is not None:
            inputs = self.activation(inputs)
        outputs = self._product(inputs)
        adapter = self.adapter
        if adapter is not None:
            outputs = outputs + adapter.to(inputs)(inputs)
        return outputs if self.output_activation is None else self.output_activation(outputs)

    def _product(self, inputs: Tensor) -> Tensor:
        if self._kernel is None:
            return F.linear(inputs, self.weight, self.bias)
        if self._prepared is None:
            self._prepared = self._kernel.prepare(_operand(self.packed), self.dtype)
        rows = self._kernel.matmul(inputs.reshape(-1, self.in_features), self._prepared)
        outputs = rows.reshape(*inputs.shape[:-1], self.out_features)
        return outputs if self.bias is None else outputs + self.bias

    def extra_repr(self) -> str:
        """Show shape and format in ``print(model)``."""
        shape = f"in_features={self.in_features}, out_features={self.out_features}"
        inputs = "" if self.activation is None else f", {self.activation}"
        return f"{shape}, format={self._format.format}, {self._meta}{inputs}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedLinear:
        stored = {name: self.get_buffer(name) for name in self._stored_names}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, tensor in stored.items():
            self._buffers[name] = tensor.to(self.get_buffer(name).device)
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        self._decoded = self._prepared = None
        return self

    def _load_from_state_dict(self, *args: object) -> None:
        super()._load_from_state_dict(*args)
        self._decoded = self._prepared = None


def _operand(packed: PackedWeight) -> Operand:
    make = getattr(packed, "operand", None)
    if make is None:
        raise KernelError(f"a weight of the format {packed.format} is no operand of any kernel")
    return cast("Operand", make())
