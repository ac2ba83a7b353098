"""Bitsandbytes' NF4 and FP4 weights, as its 0.50.2 saves them, with and without double quantization.

The weight is flattened row by row; a byte holds two codes, the first one high::

    byte j   bit  7 .. 4       3 .. 0
                  weight 2j    weight 2j+1

Each block of 64 weights, across rows where 64 does not divide the columns, has a scale ``absmax``; the last
block may be shorter. ``w = level(code) absmax``, with the levels of `normal_float`. With double quantization
(``nested``), ``absmax`` is 8-bit floats, relative to ``nested_absmax`` of each 256 and with
``nested_offset`` added.

Where the weights are odd in number nothing reads the last byte's low half. It is zero here; bitsandbytes
writes its code of zero there, which is 7 in NF4.

Sizes for n weights in B = ceil(n / 64) blocks, in bits: ``weight`` 8 ceil(n / 2),
``weight.absmax`` 32 B; nested, the scales take 8 B + 32 ceil(B / 256) + 32.

Left out of what ``Linear4bit`` saves: ``weight.quant_map`` and ``weight.nested_quant_map``, which are the
tables of the format, and ``weight.quant_state.bitsandbytes__nf4`` (or ``fp4``), bytes of JSON with the
dtype, the shape, the block sizes and, as decimals, the offset, which is a tensor here. Other block sizes are
left out, too. `Shape.group_size` is the block size, 64, wherever rows end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from quantcheck.codecs.base import Field, Format, Place, Shape, Tensors
from quantcheck.codecs.lanes import fresh, join, part
from quantcheck.codecs.normal_float import (
    BLOCK_SIZE,
    NESTED_BLOCK_SIZE,
    NestedFloats,
    codebook,
    in_blocks,
)

CODES, ABSMAX = "weight", "weight.absmax"
NESTED_ABSMAX, OFFSET = "weight.nested_absmax", "weight.nested_offset"


@dataclass(frozen=True)
class BitsAndBytes(Format):
    """Four bits in blocks of 64.

    Parts: ``codes`` uint8 [rows, cols] and ``absmax`` float32 [blocks]; nested: ``absmax`` uint8 [blocks],
    ``nested_absmax`` float32 [ceil(blocks / 256)] and ``nested_offset`` float32 [1].

    Attributes:
        data_type: ``nf4`` or ``fp4``.
        nested: whether scales are quantized, too.
        bits: width of a code, 4.
    """

    data_type: str
    nested: bool
    bits: int = 4

    @property
    def name(self) -> str:  # type: ignore[override]
        """``bnb_nf4``, ``bnb_fp4``, ``bnb_nf4_nested`` or ``bnb_fp4_nested``."""
        return f"bnb_{self.data_type}{'_nested' if self.nested else ''}"

    @property
    def group_sizes(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """The block size."""
        return (BLOCK_SIZE,)

    def parts(self, shape: Shape) -> dict[str, Field]:
        """Declare what `pack` takes."""
        codes = Field(torch.uint8, (shape.rows, shape.cols), high=15)
        return {"codes": codes, **self._scales(shape)}

    def stored(self, shape: Shape) -> dict[str, Field]:
        """Declare the tensors of a ``Linear4bit``."""
        codes = Field(torch.uint8, (-(-shape.rows * shape.cols // 2), 1))
        return {CODES: codes, **{f"weight.{name}": field for name, field in self._scales(shape).items()}}

    def _scales(self, shape: Shape) -> dict[str, Field]:
        blocks = -(-shape.rows * shape.cols // BLOCK_SIZE)
        if not self.nested:
            return {"absmax": Field(torch.float32, (blocks,))}
        return {
            "absmax": Field(torch.uint8, (blocks,)),
            "nested_absmax": Field(torch.float32, (-(-blocks // NESTED_BLOCK_SIZE),)),
            "nested_offset": Field(torch.float32, (1,)),
        }

    def place(self, part: str, shape: Shape, index: tuple[int, ...]) -> tuple[Place, ...]:
        """Find a code in its byte, and a quantized scale as its own."""
        if part == "absmax":
            return (Place(ABSMAX, index[0], 0, 8),)
        byte, odd = divmod(index[0] * shape.cols + index[1], 2)
        return (Place(CODES, byte, 0 if odd else 4, 4),)

    def weights(self, parts: Tensors, shape: Shape) -> Tensor:
        """Return the weights, float32 [rows, cols], as bitsandbytes computes them."""
        codes = parts["codes"]
        # Half the time of indexing with a matrix of codes.
        levels = codebook(self.data_type, codes.device).index_select(0, codes.flatten().int())
        blocks = in_blocks(levels, BLOCK_SIZE).mul_(self._absmax(parts)[:, None])
        return blocks.flatten()[: codes.numel()].view(codes.shape)

    def _absmax(self, parts: Tensors) -> Tensor:
        if not self.nested:
            return parts["absmax"]
        return NestedFloats(parts["absmax"], parts["nested_absmax"]).decode() + parts["nested_offset"]

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        flat = parts["codes"].flatten()
        flat = F.pad(flat, (0, flat.numel() % 2))
        packed = join((flat[0::2], flat[1::2]), (4, 0))[:, None]
        return {CODES: packed, **{f"weight.{name}": fresh(parts[name], -1) for name in self._scales(shape)}}

    def _unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        packed = stored[CODES].flatten()
        flat = packed.new_empty(2 * packed.numel())
        part(packed, (4, 0), 4, (flat[0::2], flat[1::2]))
        codes = flat[: shape.rows * shape.cols].view(shape.rows, shape.cols)
        return {"codes": codes, **{name: fresh(stored[f"weight.{name}"], -1) for name in self._scales(shape)}}


def nf4(bits: int) -> BitsAndBytes:
    """Make NF4."""
    return BitsAndBytes("nf4", False, bits)


def nf4_nested(bits: int) -> BitsAndBytes:
    """Make NF4 with double quantization."""
    return BitsAndBytes("nf4", True, bits)


def fp4(bits: int) -> BitsAndBytes:
    """Make FP4."""
    return BitsAndBytes("fp4", False, bits)


def fp4_nested(bits: int) -> BitsAndBytes:
    """Make FP4 with double quantization."""
    return BitsAndBytes("fp4", True, bits)
