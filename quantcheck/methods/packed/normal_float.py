"""NF4 and FP4 weights with their scales, double quantization, and ICQ's shift of a block.

The data types, their blocks and the 8-bit floats are those of `quantcheck.codecs.normal_float`.

- Double quantization (QLoRA, section 3, eq. 6) codes ``absmax - mean(absmax)`` in nested floats.
- A shift a block (``icq``) is coded as nested floats, too, without an offset.

Codes lie in one bitstream over the flat weight. Scales are float32, as bitsandbytes stores them, whatever
scale dtype is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quantcheck.codecs import bitstream
from quantcheck.codecs.normal_float import (
    BITS,
    BLOCK_SIZE,
    NESTED_BLOCK_SIZE,
    NestedFloats,
    codebook,
    encode,
    in_blocks,
)
from quantcheck.errors import QuantizationError
from quantcheck.kernels import KernelError
from quantcheck.kernels.base import Codebook
from quantcheck.methods.base import MetaValue, PackedWeight
from quantcheck.methods.packed.checks import UINT8, require


@dataclass(frozen=True, eq=False)
class NormalFloatWeight(PackedWeight):
    """Codes of four bits with one scale a block of 64, and perhaps one shift.

    Attributes:
        data_type: ``nf4`` or ``fp4``.
        out_features: rows of the decoded weight.
        in_features: columns of the decoded weight.
        qweight: uint8 [ceil(out * in / 2)], one bitstream over the flat weight.
        absmax: float32 [blocks]; with double quantization uint8 [blocks].
        nested_absmax: float32 [ceil(blocks / 256)] of double quantization.
        offset: float32 [1] of double quantization, the mean of the scales.
        shifts: uint8 [blocks] of ICQ.
        shift_absmax: float32 [ceil(blocks / 256)] of ICQ.
    """

    format: ClassVar[str] = "normal_float"

    data_type: str
    out_features: int
    in_features: int
    qweight: Tensor
    absmax: Tensor
    nested_absmax: Tensor | None = None
    offset: Tensor | None = None
    shifts: Tensor | None = None
    shift_absmax: Tensor | None = None

    def __post_init__(self) -> None:
        codebook(self.data_type, "cpu")
        weights = self.out_features * self.in_features
        blocks = -(-weights // BLOCK_SIZE)
        nested = -(-blocks // NESTED_BLOCK_SIZE)
        coded, real = UINT8, (torch.float32,)
        require("qweight", self.qweight, coded, (bitstream.packed_width(weights, BITS),))
        require("absmax", self.absmax, real if self.offset is None else coded, (blocks,))
        if self.offset is not None:
            require("nested_absmax", self.nested_absmax, real, (nested,))
            require("offset", self.offset, real, (1,))
        if self.shifts is not None:
            require("shifts", self.shifts, coded, (blocks,))
            require("shift_absmax", self.shift_absmax, real, (nested,))

    @classmethod
    def quantize(
        cls, weight: Tensor, data_type: str = "nf4", *, double_quant: bool, shifts: Tensor | None = None
    ) -> NormalFloatWeight:
        """Round ``weight``, float32 [out, in].

        Args:
            weight: the weight.
            data_type: ``nf4`` or ``fp4``.
            double_quant: whether the scales are quantized, too.
            shifts: float32 [blocks], taken off the blocks before rounding. Codes are chosen with the exact
                shifts, and what is added back are the coded ones, as IR-QLoRA's code has it.

        Raises:
            QuantizationError: a weight is NaN or Inf, or the data type is unknown.
        """
        if not torch.isfinite(weight).all():
            raise QuantizationError("the weight holds NaN or Inf; repair the checkpoint")
        blocks = in_blocks(weight, BLOCK_SIZE)
        if shifts is not None:
            # What fills up a last block must stay zero: it takes no part in the block's scale.
            blocks = in_blocks((blocks - shifts[:, None]).flatten()[: weight.numel()], BLOCK_SIZE)
        absmax = blocks.abs().amax(dim=1)
        codes = encode(blocks, absmax, data_type).flatten()[: weight.numel()]
        offset = absmax.mean()
        scales = NestedFloats.of(absmax - offset) if double_quant else None
        coded = None if shifts is None else NestedFloats.of(shifts)
        return cls(
            data_type,
            weight.shape[0],
            weight.shape[1],
            bitstream.pack(codes[None], BITS)[0],
            absmax if scales is None else scales.codes,
            None if scales is None else scales.absmax,
            None if scales is None else offset[None],
            None if coded is None else coded.codes,
            None if coded is None else coded.absmax,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """``(out_features, in_features)`` of the decoded weight."""
        return self.out_features, self.in_features

    @property
    def nominal_bits(self) -> float:
        """The width of a code."""
        return float(BITS)

    @property
    def notes(self) -> tuple[str, ...]:
        """Say where double quantization lost the scale of a block."""
        lost = int((self.scales() <= 0).sum()) if self.offset is not None else 0
        if not lost or not torch.count_nonzero(self.absmax):
            return ()
        return (
            f"double quantization left {lost} of {self.absmax.numel()} scales at zero or below, beside far "
            "larger ones; double_quant=false keeps them",
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return ``qweight``, ``absmax`` and what double quantization and ICQ store beside them."""
        stored = {
            "qweight": self.qweight,
            "absmax": self.absmax,
            "nested_absmax": self.nested_absmax,
            "offset": self.offset,
            "shifts": self.shifts,
            "shift_absmax": self.shift_absmax,
        }
        return {name: tensor for name, tensor in stored.items() if tensor is not None}

    def meta(self) -> dict[str, MetaValue]:
        """Return ``data_type``, ``out_features`` and ``in_features``."""
        return {
            "data_type": self.data_type,
            "out_features": self.out_features,
            "in_features": self.in_features,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], meta: Mapping[str, MetaValue]) -> NormalFloatWeight:
        """Put back together what `tensors` and `meta` gave."""
        return cls(
            str(meta["data_type"]), int(meta["out_features"]), int(meta["in_features"]), **dict(tensors)
        )

    def codes(self) -> Tensor:
        """Unpack the codes in the order of the flat weight, uint8 [out * in]."""
        return bitstream.unpack(self.qweight[None], BITS, math.prod(self.shape))[0]

    def scales(self) -> Tensor:
        """Return each block's scale, float32 [blocks]."""
        if self.nested_absmax is None or self.offset is None:
            return self.absmax
        return NestedFloats(self.absmax, self.nested_absmax).decode() + self.offset

    def decoded_shifts(self) -> Tensor | None:
        """Return each block's shift, float32 [blocks]; ``None`` without ICQ."""
        if self.shifts is None or self.shift_absmax is None:
            return None
        return NestedFloats(self.shifts, self.shift_absmax).decode()

    def decode(self) -> Tensor:
        """Return the weight that the stored tensors stand for, float32 [out, in]."""
        levels = codebook(self.data_type, self.qweight.device)[self.codes().to(torch.int64)]
        blocks = in_blocks(levels, BLOCK_SIZE) * self.scales()[:, None]
        shifts = self.decoded_shifts()
        if shifts is not None:
            blocks = blocks + shifts[:, None]
        return blocks.flatten()[: math.prod(self.shape)].view(self.shape)

    def operand(self) -> Codebook:
        """Return what kernels take; scales that are coded are decoded.

        Raises:
            KernelError: blocks are shifted, which levels that all blocks share cannot say.
        """
        if self.shifts is not None:
            raise KernelError("a weight with a shift a block is no codebook; kernels take it without ICQ")
        levels = codebook(self.data_type, self.qweight.device)
        return Codebook(self.shape, self.qweight, levels, self.scales(), BLOCK_SIZE)

    def levels_respected(self, weight: Tensor) -> bool:
        """Tell whether each block of ``weight`` takes at most 16 values."""
        short = -weight.numel() % BLOCK_SIZE
        # The last block is filled up with its own last value, which adds no level.
        flat = torch.cat([weight.flatten(), weight.flatten()[-1:].expand(short)])
        ordered = flat.view(-1, BLOCK_SIZE).sort(dim=1).values
        return bool(((ordered[:, 1:] != ordered[:, :-1]).sum(dim=1) < 1 << BITS).all())
