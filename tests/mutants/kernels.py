"""Kernels that are sound and slow, and broken ones, each with a bug that a kernel has been shipped with."""

from __future__ import annotations

from dataclasses import replace
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
        return torch.stack([weight @ token for token in x]) if len(x) else x @ weight.T

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


class HalfSums(Sound):
    """Keeps sums in float16, and says float32."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        total = torch.zeros(len(x), len(weight), dtype=torch.float16)
        for column in range(x.shape[1]):
            total = total + (x[:, column, None] * weight[:, column]).half()
        return total.float()


class HalfWeights(Sound):
    """Decodes to bfloat16 for float32 inputs, too."""

    def weights(self, weight: Grouped) -> Tensor:
        return super().weights(weight).bfloat16().float()


class TailOfColumnsDropped(Sound):
    """Multiplies whole blocks of 16 columns."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        whole = x.shape[1] // 16 * 16
        return super().product(x[:, :whole], weight[:, :whole])


class LastRowMissed(Sound):
    """Stops a row of the weight early where they are odd."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        whole = len(weight) // 2 * 2
        return torch.nn.functional.pad(super().product(x, weight[:whole]), (0, len(weight) - whole))


class TailNotWritten(Sound):
    """Writes whole blocks of 8 rows of the weight into memory that it did not clear."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        whole = len(weight) // 8 * 8
        y = torch.empty(len(x), len(weight))
        y[:, :whole] = super().product(x, weight[:whole])
        return y


class GroupsOffByOne(Sound):
    """Takes the group of the next column."""

    def columns(self, weight: Grouped) -> Tensor:
        following = (torch.arange(weight.in_features) + 1).clamp(max=max(weight.in_features - 1, 0))
        return super().columns(weight)[following]


class OrderIgnored(Sound):
    """Takes groups for consecutive columns, whatever g_idx says."""

    def columns(self, weight: Grouped) -> Tensor:
        return super().columns(weight).sort().values


class ScalesTransposed(Sound):
    """Reads scales [out, groups] as [groups, out]."""

    def scales(self, weight: Grouped) -> Tensor:
        scales = super().scales(weight)
        return scales.T.reshape(scales.shape)


class ScalesInHalf(Sound):
    """Keeps scales in float16, where they overflow."""

    def scales(self, weight: Grouped) -> Tensor:
        return super().scales(weight).half().float()


class ScalesNormalized(Sound):
    """Divides the scales by their largest one, and multiplies by it at the end."""

    def scales(self, weight: Grouped) -> Tensor:
        scales = super().scales(weight)
        largest = scales.abs().max() if scales.numel() else 1
        return scales / largest * largest


class ZeroPointTwice(Sound):
    """Subtracts the scaled zero point from weights that are without it already."""

    def weights(self, weight: Grouped) -> Tensor:
        shift = (self.scales(weight) * self.zero_points(weight))[:, self.columns(weight)]
        return super().weights(weight) - shift


class ZeroPointWrapped(Sound):
    """Stores a zero point less one in four bits and reads it plus one: 0 comes back as 16."""

    def zero_points(self, weight: Grouped) -> Tensor:
        stored = (super().zero_points(weight).int() - 1) & 15
        return (stored + 1).float()


class SignedCodes(Sound):
    """Takes the top bit of a code for a sign."""

    def codes(self, weight: Grouped) -> Tensor:
        codes = super().codes(weight)
        return torch.where(codes >= 8, codes - 16, codes)


class NaNSwallowed(Sound):
    """Clears NaN and Inf from its results."""

    def answer(self, y: Tensor, inputs: Tensor) -> Tensor:
        return super().answer(y.nan_to_num(), inputs)


class NaNSpread(Sound):
    """Masks by multiplying with zero, and lets the tokens of a block share the sum."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        return super().product(x, weight) + 0 * x.sum()


class PeakOfTensor(Sound):
    """Rounds all tokens to the grid of the largest."""

    def peak(self, x: Tensor) -> Tensor:
        return x.abs().max() if x.numel() else x


class FloorForgotten(Sound):
    """Divides a token of zeros by its peak."""

    def rounded(self, x: Tensor, act_bits: int) -> Tensor:
        step = self.peak(x) / (2 ** (act_bits - 1) - 1)
        return (x / step).round() * step


class ActivationsWrapped(Sound):
    """Scales the peak to 128, which int8 wraps to -128, as nothing clamps it."""

    def rounded(self, x: Tensor, act_bits: int) -> Tensor:
        step = self.peak(x).clamp(min=1e-5) / 128
        return ((x / step).round().int() + 128).remainder(256).sub(128) * step


class InputsOverwritten(Sound):
    """Rounds the caller's activations in place."""

    def rounded(self, x: Tensor, act_bits: int) -> Tensor:
        return x.copy_(super().rounded(x, act_bits))


class CodesOverwritten(Sound):
    """Clears the caller's codes after use."""

    def codes(self, weight: Grouped) -> Tensor:
        codes = super().codes(weight)
        weight.qweight.zero_()
        return codes


class StridesIgnored(Sound):
    """Reads inputs as if they were contiguous."""

    def matmul(self, inputs: Tensor, prepared: Any, *, act_bits: int | None = None) -> Tensor:
        flat = inputs.as_strided(inputs.shape, (inputs.shape[-1], 1)) if inputs.ndim == 2 else inputs
        return super().matmul(flat, prepared, act_bits=act_bits)


class AnswersInFloat32(Sound):
    """Leaves results in the dtype that it adds up in."""

    def answer(self, y: Tensor, inputs: Tensor) -> Tensor:
        return y


class Dice(Sound):
    """Adds up in an order that another call changes."""

    calls: ClassVar[int] = 0

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        type(self).calls += 1
        return super().product(*((x, weight) if self.calls % 2 else (x.flip(1), weight.flip(1))))


class BatchDependent(Sound):
    """Splits sums another way where more than one token comes."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        half = x.shape[1] // 2 if len(x) > 1 else 0
        return super().product(x[:, :half], weight[:, :half]) + super().product(x[:, half:], weight[:, half:])


class FirstTokenAlone(Sound):
    """Takes a batch of one for a vector, and its weight for one of whole blocks; declares no invariance."""

    capabilities = replace(Sound.capabilities, batch_invariant=False)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        whole = x.shape[1] // 8 * 8 if len(x) == 1 else x.shape[1]
        return super().product(x[:, :whole], weight[:, :whole])


class NothingCrashes(Sound):
    """Reshapes to blocks of columns, also where there is none."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        return super().product(x.reshape(len(x), -1), weight.reshape(len(weight), -1))


class GradientTransposed(Sound):
    """Multiplies gradients by rows of the weight in their reverse order."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        passed = x - x.detach()
        return super().product(x.detach(), weight) + super().product(passed, weight.flip(0))


class GradientLost(Sound):
    """Promises gradients, and works on detached inputs."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        return super().product(x.detach(), weight)


class Obliging(Sound):
    """Takes what it does not support for what it does."""

    def refuse(self, weight: Operand, dtype: torch.dtype) -> None:
        pass


class Curt(Sound):
    """Refuses, and does not say what it would take."""

    def refuse(self, weight: Operand, dtype: torch.dtype) -> None:
        try:
            super().refuse(weight, dtype)
        except KernelError:
            raise KernelError("unsupported") from None


class InputsFlattened(Sound):
    """Takes the leading dimensions of inputs for tokens."""

    def matmul(self, inputs: Tensor, prepared: Any, *, act_bits: int | None = None) -> Tensor:
        flat = inputs.reshape(-1, inputs.shape[-1])
        return super().matmul(flat, prepared, act_bits=act_bits)


class SecondPlaneDropped(SoundPlanes):
    """Decodes the first plane alone."""

    def plane(self, weight: Planes, index: int) -> Tensor:
        return super().plane(weight, index) if index == 0 else torch.zeros(weight.shape)


class MasksIgnored(SoundPlanes):
    """Lets every plane hold everywhere."""

    def mask(self, weight: Planes, index: int) -> Tensor:
        return torch.ones(weight.shape)


class BlocksOfRows(SoundCodebook):
    """Starts a block at every row, where the format's run across."""

    def blocks(self, weight: Codebook) -> Tensor:
        rows, cols = weight.shape
        each = -(-cols // weight.block_size)
        index = torch.arange(rows)[:, None] * each + torch.arange(cols) // weight.block_size
        return index.reshape(-1).clamp(max=max(len(weight.absmax) - 1, 0))
