"""compressed-tensors' own packer as a codec, with what it checks and does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from torch import Tensor

from quantcheck.codecs import CodecError
from quantcheck.codecs.base import Codec, Field, Place, Shape, Tensors

WORD = 32


@dataclass(frozen=True)
class Library(Codec):
    """``pack_to_int32`` and ``unpack_from_int32`` of the dense form, on the codes alone.

    Parts: ``codes`` int8 [rows, cols], signed.

    Attributes:
        bits: width of a code, 1 to 8.
    """

    name: ClassVar[str] = "ct_library"

    bits: int

    @property
    def middle(self) -> int:
        """What a field holds beyond its code."""
        return 1 << (self.bits - 1)

    def parts(self, shape: Shape) -> dict[str, Field]:
        """Declare what the packer takes."""
        return {"codes": Field(torch.int8, (shape.rows, shape.cols), low=-self.middle, high=self.middle - 1)}

    def stored(self, shape: Shape) -> dict[str, Field]:
        """Declare what it returns: dense words, row by row."""
        return {"weight_packed": Field(torch.int32, (shape.rows, -(-shape.cols * self.bits // WORD)))}

    def pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        """Call ``pack_to_int32``; the names and the shape are checked here, dtype and range are not."""
        self._require(parts, "codes", shape)
        codes = parts["codes"]
        if tuple(codes.shape) != (shape.rows, shape.cols):
            raise CodecError(
                f"{self.id}: codes must be torch.int8 of shape {(shape.rows, shape.cols)}, got {codes.dtype} "
                f"of shape {tuple(codes.shape)}"
            )
        try:
            return {"weight_packed": pack_to_int32(codes, self.bits)}
        except ValueError as error:
            raise self._told(error, codes) from error

    def unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        """Call ``unpack_from_int32``; the names are checked here, dtype and shape are not."""
        self._require(stored, "weight_packed", shape)
        words = stored["weight_packed"]
        try:
            return {"codes": unpack_from_int32(words, self.bits, torch.Size((shape.rows, shape.cols)))}
        except ValueError as error:
            raise self._told(error, words) from error

    def _require(self, tensors: Tensors, name: str, shape: Shape) -> None:
        if refused := self.refusal(shape):
            raise CodecError(f"{self.id} cannot hold {shape}: {refused}")
        if list(tensors) != [name]:
            raise CodecError(f"{self.id} takes {name}; got {', '.join(tensors) or 'nothing'}")

    def _told(self, error: ValueError, tensor: Tensor) -> CodecError:
        """Add to what the library says what it does not."""
        return CodecError(f"{self.id}: {error} Got {tensor.dtype} of shape {tuple(tensor.shape)}")

    def weights(self, parts: Tensors, shape: Shape) -> Tensor:
        """Return the codes."""
        return parts["codes"].float()

    def place(self, part: str, shape: Shape, index: tuple[int, ...]) -> tuple[Place, ...]:
        """Follow the bits of a code along its row."""
        row, column = index
        first = row * -(-shape.cols * self.bits // WORD)
        positions = range(column * self.bits, (column + 1) * self.bits)
        return tuple(Place("weight_packed", first + bit // WORD, bit % WORD, 1) for bit in positions)

    def raw(self, part: str, value: int) -> int:
        """Return the field of a code."""
        return value + self.middle
