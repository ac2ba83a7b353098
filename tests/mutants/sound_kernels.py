"""Kernels that are sound and slow, in steps that the mutants of `kernels` break one at a time."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from quantcheck.codecs import bitstream
from quantcheck.kernels import KernelCapabilities, KernelError
from quantcheck.kernels.base import Codebook, Grouped, Kernel, Operand, Planes
from quantcheck.kernels.checked import check_operand

HALVES = ("float32", "float16", "bfloat16")


class Sound(Kernel):
    """Decodes and multiplies in float32, a token at a time; a mutant breaks one of its steps."""

    name: ClassVar[str] = "sound"
    capabilities: ClassVar[KernelCapabilities] = KernelCapabilities(
        "grouped",
        bits=(4,),
        act_bits=(None, 8),
        dtypes=HALVES,
        gradients=True,
        batch_invariant=True,
    )

    def prepare(self, weight: Operand, dtype: torch.dtype) -> Operand:
        self.refuse(weight, dtype)
        return weight

    def refuse(self, weight: Operand, dtype: torch.dtype) -> None:
        if str(dtype).removeprefix("torch.") not in self.capabilities.dtypes:
            raise KernelError(f"{self.name} takes {', '.join(self.capabilities.dtypes)}, not {dtype}")
        check_operand(weight, self.capabilities, self.name)

    def dequantize(self, prepared: Any, dtype: torch.dtype) -> Tensor:
        return self.weights(prepared).to(dtype)

    def matmul(self, inputs: Tensor, prepared: Any, *, act_bits: int | None = None) -> Tensor:
        columns = prepared.shape[1]
        if act_bits not in self.capabilities.act_bits:
            raise KernelError(f"{self.name} takes act_bits {self.capabilities.act_bits}, not {act_bits}")
        if not inputs.is_floating_point():
            raise KernelError(f"{self.name} takes {', '.join(self.capabilities.dtypes)}, not {inputs.dtype}")
        if inputs.ndim != 2 or inputs.shape[1] != columns:
            raise KernelError(f"inputs must be [tokens, {columns}], got {tuple(inputs.shape)}")
        x = inputs.float()
        if act_bits is not None and columns:
            x = self.rounded(x, act_bits)
        return self.answer(self.product(x, self.weights(prepared)), inputs)

    def weights(self, weight: Grouped) -> Tensor:
        return self.scales(weight)[:, self.columns(weight)] * self.levels(weight)

    def levels(self, weight: Grouped) -> Tensor:
        return self.codes(weight) - self.zero_points(weight)[:, self.columns(weight)]

    def codes(self, weight: Grouped) -> Tensor:
        return bitstream.unpack(weight.qweight, weight.bits, weight.in_features).float()

    def columns(self, weight: Grouped) -> Tensor:
        return weight.g_idx.long()

    def scales(self, weight: Grouped) -> Tensor:
        return weight.scales.float()

    def zero_points(self, weight: Grouped) -> Tensor:
        if weight.zero_points is None:
            return torch.full(weight.scales.shape, 2.0 ** (weight.bits - 1))
        return weight.zero_points.float()

    def rounded(self, x: Tensor, act_bits: int) -> Tensor:
        step = self.peak(x).clamp(min=1e-5) / (2 ** (act_bits - 1) - 1)
        return (x / step).round() * step

    def peak(self, x: Tensor) -> Tensor:
        return x.abs().amax(1, keepdim=True)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        # Not `weight @ token`: its bits depend on where in memory the token lies.
        return torch.stack([(weight * token).sum(1) for token in x]) if len(x) else x @ weight.T

    def answer(self, y: Tensor, inputs: Tensor) -> Tensor:
        return y.to(inputs.dtype)


class SoundPlanes(Sound):
    """The same for bit planes."""

    name = "sound_planes"
    capabilities = KernelCapabilities("planes", bits=(1,), dtypes=HALVES)

    def weights(self, weight: Planes) -> Tensor:
        planes = range(len(weight.planes))
        return sum((self.plane(weight, p) for p in planes), torch.zeros(weight.shape))

    def plane(self, weight: Planes, index: int) -> Tensor:
        bits = bitstream.unpack(weight.planes[index], 1, weight.in_features).float()
        columns = weight.g_idx.long()
        values = weight.scales[index].float()[:, columns] * (2 * bits - 1 if weight.signed else bits)
        if weight.offsets is not None:
            values += weight.offsets[index].float()[:, columns]
        return values * self.mask(weight, index)

    def mask(self, weight: Planes, index: int) -> Tensor:
        if weight.masks is None:
            return torch.ones(weight.shape)
        return bitstream.unpack(weight.masks[index], 1, weight.in_features).float()


class SoundCodebook(Sound):
    """The same for a codebook."""

    name = "sound_codebook"
    capabilities = KernelCapabilities("codebook", bits=(4,), dtypes=HALVES)

    def weights(self, weight: Codebook) -> Tensor:
        size = weight.shape[0] * weight.shape[1]
        codes = bitstream.unpack(weight.qweight[None], 4, size)[0].long()
        return (weight.levels[codes] * weight.absmax[self.blocks(weight)]).reshape(weight.shape)

    def blocks(self, weight: Codebook) -> Tensor:
        return torch.arange(weight.shape[0] * weight.shape[1]) // weight.block_size
