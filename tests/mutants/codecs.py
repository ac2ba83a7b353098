"""Codecs broken in one way each, as codecs have been broken; many read back whatever they wrote."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from quantcheck.codecs import CodecError
from quantcheck.codecs.affine import Affine, consecutive
from quantcheck.codecs.awq_gemm import ORDER, AwqGemm
from quantcheck.codecs.base import Shape, Tensors
from quantcheck.codecs.bitstream import Bitstream
from quantcheck.codecs.compressed_tensors import PackQuantized
from quantcheck.codecs.gptq import Gptq
from quantcheck.codecs.gptq_planar import GptqPlanar
from quantcheck.codecs.hqq import Hqq

NIBBLES = range(0, 32, 4)


class V1(Gptq):
    """GPTQ's first version at 4 bits, as it is."""

    def __init__(self, version: int = 1, bits: int = 4) -> None:
        super().__init__(version, bits)


class V2(V1):
    """GPTQ's second version, as it is."""

    def __init__(self, version: int = 2, bits: int = 4) -> None:
        super().__init__(version, bits)


class Stream3(Bitstream):
    """The dense bitstream at 3 bits, as it is."""

    def __init__(self, bits: int = 3) -> None:
        super().__init__(bits)


class Stream4(Stream3):
    def __init__(self, bits: int = 4) -> None:
        super().__init__(bits)


class Hqq4(Hqq):
    def __init__(self, bits: int = 4) -> None:
        super().__init__(bits)


class Planar5(GptqPlanar):
    def __init__(self, bits: int = 5) -> None:
        super().__init__(bits)


class Dense(PackQuantized):
    """compressed-tensors' dense packing at 3 bits, as it is."""

    def __init__(self, bits: int = 3, dense: bool = True) -> None:
        super().__init__(bits, dense)


class NibblesSwapped(Stream4):
    """The even code takes the high nibble, in both directions."""

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        packed = super()._pack(parts, shape)["packed"]
        return {"packed": packed << 4 | packed >> 4}

    def _unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        packed = stored["packed"]
        return super()._unpack({"packed": packed << 4 | packed >> 4}, shape)


class MaskForgotten(V2):
    """The last field of a word is shifted down and not masked, and the shift brings the sign along."""

    def _unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        fields = [stored["qweight"] >> shift & 15 for shift in NIBBLES[:-1]]
        fields.append(stored["qweight"] >> NIBBLES[-1])
        codes = torch.stack(fields, dim=1).reshape(shape.cols, shape.rows).T
        return super()._unpack(stored, shape) | {"codes": codes.to(torch.uint8)}


class ZerosBorrow(V1):
    """One is taken off the zero points word by word, so that a zero point of 0 borrows from the next."""

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        return super()._pack(parts, shape) | {"qzeros": self._words(parts["zero_points"].T) - 0x11111111}

    def _unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        zero_points = self._codes(stored["qzeros"] + 0x11111111, shape.rows)
        return super()._unpack(stored, shape) | {"zero_points": zero_points.T.contiguous()}


class ZerosLessTwo(V1):
    """One is taken off the zero points twice, and added twice."""

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        less = parts["zero_points"] - 1 & 15
        return super()._pack({**parts, "zero_points": less}, shape)

    def _unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        parts = super()._unpack(stored, shape)
        return parts | {"zero_points": parts["zero_points"] + 1 & 15}


class TailDropped(Stream3):
    """Codes are packed eight at a time, and those that make no eight are not."""

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        codes = parts["codes"].clone()
        codes[:, shape.cols // 8 * 8 :] = 0
        return super()._pack({"codes": codes}, shape)


class TailUninitialized(Stream3):
    """The codes that make no eight are left as their memory was."""

    def _unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        codes, whole = torch.empty(shape.rows, shape.cols, dtype=torch.uint8), shape.cols // 8 * 8
        codes[:, :whole] = super()._unpack(stored, shape)["codes"][:, :whole]
        return {"codes": codes}


class PaddingNotZero(Stream3):
    """The bits that are left of a row's last byte are ones."""

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        packed, used = super()._pack(parts, shape)["packed"], shape.cols * self.bits % 8
        packed[:, -1:] |= 0xFF & ~((1 << used) - 1) if used else 0
        return {"packed": packed}


class FirstBlockLow(Hqq4):
    """The first block takes the low bits, as quanto has it, and not the high ones."""

    @property
    def _shifts(self) -> list[int]:
        return super()._shifts[::-1]


class TenCodesAWord(V2):
    """At 3 bits, rows for ten codes a word are set aside, where 32 codes take three words."""

    def __init__(self, version: int = 2, bits: int = 3) -> None:
        super().__init__(version, bits)

    def pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        stored = super().pack(parts, shape)
        words = stored["qweight"]
        spare = words.new_zeros(-(-shape.cols // 10) - len(words), shape.rows)
        return stored | {"qweight": torch.cat((words, spare))}

    def unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        return super().unpack({**stored, "qweight": stored["qweight"][: shape.cols * 3 // 32]}, shape)


class PaddedForDense(Dense):
    """Where both layouts take as many words, the older, padded one is written."""

    def _words(self, codes: Tensor) -> Tensor:
        other = PackQuantized(self.bits, dense=False)
        return (other if self._alike(codes.shape[1]) else super())._words(codes)

    def _codes(self, words: Tensor, count: int) -> Tensor:
        other = PackQuantized(self.bits, dense=False)
        return (other if self._alike(count) else super())._codes(words, count)

    def _alike(self, count: int) -> bool:
        return self._width(count) == -(-count // (32 // self.bits))


class SignOffsetForgotten(Dense):
    """Signed codes are stored as they are, without the offset that makes them start at 0."""

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        return super()._pack({**parts, "codes": parts["codes"] ^ 1 << self.bits - 1}, shape)

    def _unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        parts = super()._unpack(stored, shape)
        return parts | {"codes": parts["codes"] ^ 1 << self.bits - 1}


class Transposed(Stream4):
    """A square weight is stored the other way round, in both directions."""

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        return super()._pack({"codes": self._turned(parts["codes"])}, shape)

    def _unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        return {"codes": self._turned(super()._unpack(stored, shape)["codes"])}

    def _turned(self, codes: Tensor) -> Tensor:
        return codes.T.contiguous() if codes.shape[0] == codes.shape[1] else codes


class ZerosInPlainOrder(AwqGemm):
    """The weight's fields are interleaved as AWQ has it, those of the zero points are not."""

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        rows = torch.arange(shape.rows).view(-1, 8)[:, torch.tensor(ORDER).argsort()].flatten()
        return super()._pack({**parts, "zero_points": parts["zero_points"][rows]}, shape)

    def _unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        parts = super()._unpack(stored, shape)
        rows = torch.arange(shape.rows).view(-1, 8)[:, list(ORDER)].flatten()
        return parts | {"zero_points": parts["zero_points"][rows]}


class HighPlaneDropped(Planar5):
    """The plane of the fifth bit is written and not read."""

    def _unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        parts = super()._unpack(stored, shape)
        return parts | {"codes": parts["codes"] & 15}


class Wrapped(Stream4):
    """What does not fit is masked, and nobody is told."""

    def pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        return super().pack({name: part & 15 for name, part in parts.items()}, shape)


class Cast(V2):
    """Any dtype is cast to the right one."""

    def pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        fields = self.parts(shape)
        return super().pack({name: part.to(fields[name].dtype) for name, part in parts.items()}, shape)


class Broadcast(V2):
    """A part of another shape is stretched, or looked at as the right one, where it can be."""

    def pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        fields = self.parts(shape)
        return super().pack({name: part.reshape(fields[name].shape) for name, part in parts.items()}, shape)


class NamesIgnored(V2):
    """Takes what it needs by name, whatever else there is."""

    def pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        return super().pack({name: parts[name] for name in self.parts(shape)}, shape)


class EveryShape(V2):
    """No shape is refused; rows that fill no word are lost."""

    def refusal(self, shape: Shape) -> str | None:
        return None


class StorageRead(Stream4):
    """The memory behind a tensor is read in its order, whatever the strides are."""

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        codes = parts["codes"]
        start, size = codes.storage_offset(), codes.numel()
        memory = codes.as_strided((codes.untyped_storage().nbytes(),), (1,), 0)
        read = torch.cat((memory[start : start + size], memory.new_zeros(size)))[:size]
        return super()._pack({"codes": read.view(codes.shape)}, shape)


class ZerosOverwritten(V1):
    """One is taken off the caller's own zero points."""

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        stored = super()._pack(parts, shape)
        parts["zero_points"].sub_(1).bitwise_and_(15)
        return stored


class StoredOverwritten(V1):
    """Reading turns the checkpoint's zero points into those of version 2, in place."""

    def _unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        parts = super()._unpack(stored, shape)
        stored["qzeros"].copy_(self._words(parts["zero_points"].T))
        return parts


class ScalesInFloat32(V2):
    """Scales are stored twice as wide as declared."""

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        stored = super()._pack(parts, shape)
        return stored | {"scales": stored["scales"].float()}

    def unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        return super().unpack({**stored, "scales": stored["scales"].half()}, shape)


class Strided(V2):
    """Scales are stored as a transposed view, which a file does not keep."""

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        return super()._pack(parts, shape) | {"scales": parts["scales"].T}


class OrderForgotten(V2):
    """``g_idx`` is written as if groups lay in the order of their columns."""

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        return super()._pack({**parts, "g_idx": consecutive(shape)}, shape)


class OrderNotRead(V2):
    """``g_idx`` is stored, and decoding does without it."""

    def to_affine(self, parts: Tensors, shape: Shape) -> Affine:
        return replace(super().to_affine(parts, shape), g_idx=consecutive(shape))


class GroupsOffByOne(V2):
    """The last column of a group takes the scale of the next one."""

    def to_affine(self, parts: Tensors, shape: Shape) -> Affine:
        affine = super().to_affine(parts, shape)
        following = affine.g_idx.roll(-1)
        following[-1:] = affine.g_idx[-1:]
        return replace(affine, g_idx=following)


class HalfProducts(V2):
    """Codes are multiplied by their scales in float16, which ends at 65504."""

    def weights(self, parts: Tensors, shape: Shape) -> Tensor:
        affine = self.to_affine(parts, shape)
        columns = affine.g_idx.long()
        levels = affine.codes.half() - affine.zero_points.half()[:, columns]
        return (levels * affine.scales[:, columns]).float()


class HalfWeights(V2):
    """Weights come in the dtype of their scales."""

    def weights(self, parts: Tensors, shape: Shape) -> Tensor:
        return super().weights(parts, shape).half()


class NaNSwallowed(V2):
    """A scale that is not finite becomes one that is."""

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        return super()._pack({**parts, "scales": parts["scales"].nan_to_num()}, shape)


class SaturationForgotten(V2):
    """Weights beyond the range wrap to the other end."""

    def encode(self, weights: Tensor, parts: Tensors, shape: Shape) -> Tensor:
        affine = self.to_affine(parts, shape)
        columns = affine.g_idx.long()
        levels = (weights / affine.scales.float()[:, columns]).nan_to_num(posinf=15, neginf=0)
        return (
            (levels + affine.zero_points[:, columns]).round().to(torch.int64).bitwise_and(15).to(torch.uint8)
        )


class ZerosLessOneAgain(V2):
    """Zero points from another format have one taken off, as if they were to be stored as version 1."""

    def from_affine(self, affine: Affine, shape: Shape) -> dict[str, Tensor]:
        parts = super().from_affine(affine, shape)
        return parts | {"zero_points": parts["zero_points"] - 1 & 15}


class NeverConverted(V2):
    """Every conversion is refused, one way and the other."""

    def weights(self, parts: Tensors, shape: Shape) -> Tensor:
        return V2().weights(parts, shape)

    def to_affine(self, parts: Tensors, shape: Shape) -> Affine:
        raise CodecError("not now")

    def from_affine(self, affine: Affine, shape: Shape) -> dict[str, Tensor]:
        raise CodecError("not now")
