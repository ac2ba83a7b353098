"""What a kernel computes, and on which operands: a quantized weight in one of three families.

Every kernel of a family takes the same operand, so that the same properties are asked of all of them
(`quantcheck.contracts.KernelContract`); one that wants another layout makes it once, in `Kernel.prepare`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from quantcheck.kernels import KernelCapabilities


@dataclass(frozen=True, eq=False)
class Grouped:
    """Integer codes with a scale a group: ``w[n, k] = scale[n, g] (code[n, k] - zero_point[n, g])``.

    Attributes:
        bits: width of a code, 1 to 8.
        in_features: columns.
        qweight: uint8 [out, ceil(in * bits / 8)], the dense bitstream.
        scales: floating point [out, groups].
        zero_points: uint8 [out, groups], 0 to ``2**bits - 1``; ``None``: ``2**(bits - 1)`` for all.
        g_idx: int32 [in], the group ``g`` of each column.
    """

    bits: int
    in_features: int
    qweight: Tensor
    scales: Tensor
    zero_points: Tensor | None
    g_idx: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """``(out_features, in_features)``."""
        return self.qweight.shape[0], self.in_features


@dataclass(frozen=True, eq=False)
class Codebook:
    """Codes of 4 bits that name a level, with a scale a block of the flat weight.

    Attributes:
        shape: ``(out_features, in_features)``.
        qweight: uint8 [ceil(out * in / 2)], one dense bitstream over the weight's rows.
        levels: float32 [16].
        absmax: float32 [ceil(out * in / block_size)].
        block_size: weights that share a scale, across rows where it does not divide the in-features.
    """

    shape: tuple[int, int]
    qweight: Tensor
    levels: Tensor
    absmax: Tensor
    block_size: int = 64


@dataclass(frozen=True, eq=False)
class Planes:
    """Bit planes: ``w[n, k] = sum_p mask_p[n, k] (offset_p[n, g] + scale_p[n, g] s_p[n, k])``.

    ``s`` is -1 or 1 where ``signed``, as in residual binarization (the planes of its sets of weights are told
    apart by masks), else 0 or 1, as in dual binarization.

    Attributes:
        in_features: columns.
        planes: uint8 [planes, out, ceil(in / 8)], dense bitstreams of one bit a code.
        scales: floating point [planes, out, groups].
        offsets: floating point [planes, out, groups]; ``None``: no offsets.
        masks: uint8 like ``planes``; ``None``: every plane holds everywhere.
        g_idx: int32 [in], the group of each column.
        signed: whether a bit is a sign.
    """

    in_features: int
    planes: Tensor
    scales: Tensor
    offsets: Tensor | None
    masks: Tensor | None
    g_idx: Tensor
    signed: bool

    @property
    def shape(self) -> tuple[int, int]:
        """``(out_features, in_features)``."""
        return self.planes.shape[1], self.in_features


Operand = Grouped | Codebook | Planes
FAMILIES: dict[str, type[Operand]] = {"grouped": Grouped, "codebook": Codebook, "planes": Planes}


class Kernel(ABC):
    """Decodes quantized weights and multiplies by them.

    Attributes:
        name: as registered.
        capabilities: what it supports.
    """

    name: ClassVar[str]
    capabilities: ClassVar[KernelCapabilities]

    def prepare(self, weight: Operand, dtype: torch.dtype) -> Any:
        """Bring a weight into the kernel's own layout, once; the other methods take what this returns.

        Args:
            weight: of the family that the capabilities name; it is not written to.
            dtype: of the inputs to come.

        Raises:
            KernelError: the kernel does not support it; the message says what it does support.
        """
        return weight

    @abstractmethod
    def dequantize(self, prepared: Any, dtype: torch.dtype) -> Tensor:
        """Return the weight, [out, in] in ``dtype``, each computed in float32 and rounded once."""

    @abstractmethod
    def matmul(self, inputs: Tensor, prepared: Any, *, act_bits: int | None = None) -> Tensor:
        """Multiply ``inputs`` [tokens, in] by the transposed weight: [tokens, out] in their dtype.

        Args:
            inputs: rows of any number, also none; NaN and Inf reach the results of their row.
            prepared: what `prepare` made of the weight.
            act_bits: round each row of the inputs to a symmetric grid of this many bits first, with scale
                ``max|x| / (2**(act_bits - 1) - 1)``, at least 1e-5 over that; ``None``: leave them.
        """
