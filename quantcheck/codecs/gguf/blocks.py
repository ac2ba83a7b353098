"""What GGUF's types share: a block as a list of sections, each of them bytes or bits of its values.

A type declares for each part how many values a block holds of it and in which sections they lie; packing and
unpacking follow. `place` of each type is written out apart from these declarations, to check them.

Bits lie in planes. A plane of ``width`` bits puts ``run`` values side by side, one a byte; the next run goes
into the next bits of the same bytes until they are full. Two bits, runs of 32::

    bits of byte l    7 6        5 4        3 2        1 0
    value             96 + l     64 + l     32 + l     l           for l in 0..31; 128 to 255 take 32 more

Eight (or four) bytes are worked on as one word.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quantcheck.codecs import CodecError
from quantcheck.codecs.affine import Affine, AffineFormat, consecutive, exactly, in_order
from quantcheck.codecs.base import Field, Format, Place, Shape, Tensors
from quantcheck.codecs.bitstream import STRIP


class Section(ABC):
    """Some bytes of a block; values and blocks are uint8 [rows, blocks, bytes]."""

    @abstractmethod
    def write(self, values: Tensor, blocks: Tensor) -> None:
        """Put the values of one part into ``blocks``, which are zero where nothing is written yet."""

    @abstractmethod
    def read(self, blocks: Tensor, values: Tensor) -> None:
        """Put what `write` wrote back into ``values``, zero where nothing is read yet."""


def view(values: Tensor, dtype: torch.dtype) -> Tensor:
    """View the last axis as another dtype, or a copy where its memory does not fall into whole words.

    Strides count where there is one value or none, too, which ``contiguous`` leaves as they are.
    """
    size = max(1, dtype.itemsize // values.dtype.itemsize)
    *strides, last = values.stride()
    if last != 1 or any(step % size for step in (values.storage_offset(), *strides)):
        values = values.clone(memory_format=torch.contiguous_format)
    return values.view(dtype)


@dataclass(frozen=True)
class Verbatim(Section):
    """Values as they lie in memory.

    Attributes:
        start: the first byte in the block.
    """

    start: int

    def write(self, values: Tensor, blocks: Tensor) -> None:
        """Copy the bytes in."""
        blocks[:, :, self.start : self.start + values.shape[2]] = values

    def read(self, blocks: Tensor, values: Tensor) -> None:
        """Copy the bytes out."""
        values.copy_(blocks[:, :, self.start : self.start + values.shape[2]])


@dataclass(frozen=True)
class Plane(Section):
    """Some bits of each value, as the module's docstring draws them.

    Attributes:
        start: the first byte in the block.
        width: how many bits of each value.
        run: how many values lie side by side; a multiple of 4.
        low: the lowest of these bits in the value.
        shift: the lowest bit taken in a byte.
        first: the first value.
        last: the one behind the last value; ``None``: all that follow.
    """

    start: int
    width: int
    run: int
    low: int = 0
    shift: int = 0
    first: int = 0
    last: int | None = None

    def write(self, values: Tensor, blocks: Tensor) -> None:
        """Gather the bits of each lane of values, one run after the other."""
        lanes = self._lanes(view(values[:, :, self.first : self.last], _word(self.run)))
        packed = torch.zeros_like(lanes[:, :, :, 0])
        for lane in range(lanes.shape[3]):
            packed |= _moved(lanes[:, :, :, lane], self.width, self.low, self.shift + lane * self.width)
        section = packed.flatten(2).view(torch.uint8)
        blocks[:, :, self.start : self.start + section.shape[2]] |= section

    def read(self, blocks: Tensor, values: Tensor) -> None:
        """Spread the bits over the lanes."""
        lanes = self._lanes(values[:, :, self.first : self.last].view(_word(self.run)))
        rows, count, chunks, per_byte, words = lanes.shape
        stop = self.start + chunks * self.run
        packed = view(blocks[:, :, self.start : stop], lanes.dtype).view(rows, count, chunks, words)
        for lane in range(per_byte):
            lanes[:, :, :, lane] |= _moved(packed, self.width, self.shift + lane * self.width, self.low)

    def _lanes(self, words: Tensor) -> Tensor:
        """View [rows, blocks, words] as [rows, blocks, chunks, lanes, words of a run]."""
        rows, count, size = words.shape
        per_run = self.run // words.dtype.itemsize
        lanes = min(8 // self.width, size // per_run)
        return words.view(rows, count, size // (lanes * per_run), lanes, per_run)


def _word(run: int) -> torch.dtype:
    return torch.int32 if run % 8 else torch.int64


def _moved(words: Tensor, width: int, source: int, target: int) -> Tensor:
    """Return ``width`` bits of each byte, moved from bit ``source`` to ``target``, and zeros beside them."""
    moved = words << target - source if target > source else words >> source - target
    # After the shift, so that it clears what came from the neighbours, or from the sign.
    mask = bytes([(1 << width) - 1 << target] * words.dtype.itemsize)
    return moved.bitwise_and_(int.from_bytes(mask, "little", signed=True))


@dataclass(frozen=True)
class Values:
    """The values of one part in a block.

    Attributes:
        name: of the part.
        count: how many.
        sections: where they lie.
        dtype: theirs.
        low: the smallest one, of integers.
        high: the largest one; ``None``: whatever the dtype holds.
    """

    name: str
    count: int
    sections: tuple[Section, ...]
    dtype: torch.dtype = torch.uint8
    low: int = 0
    high: int | None = None

    @property
    def size(self) -> int:
        """Bytes of them in memory."""
        return self.count * self.dtype.itemsize


def half(name: str, start: int) -> Values:
    """Declare the float16 of a block at a byte."""
    return Values(name, 1, (Verbatim(start),), torch.float16)


@dataclass(frozen=True)
class BlockFormat(Format):
    """A GGUF type; ``cols_multiple`` is the number of codes in a block.

    Attributes:
        bits: width of a code: the type's own.
        width: that one width.
        block_bytes: bytes of a block.
        block: the parts in a block.
    """

    bits: int
    width: ClassVar[int]
    block_bytes: ClassVar[int]
    block: ClassVar[tuple[Values, ...]]

    def __post_init__(self) -> None:
        if self.bits != self.width:
            raise CodecError(f"{self.name} has codes of {self.width} bits, not {self.bits}")

    def parts(self, shape: Shape) -> dict[str, Field]:
        """Declare the values of all blocks of a row, part by part."""
        return {
            each.name: Field(each.dtype, (shape.rows, self._blocks(shape) * each.count), each.low, each.high)
            for each in self.block
        }

    def stored(self, shape: Shape) -> dict[str, Field]:
        """Declare the one tensor ``blocks``."""
        return {"blocks": Field(torch.uint8, (shape.rows, self._blocks(shape) * self.block_bytes))}

    def place(self, part: str, shape: Shape, index: tuple[int, ...]) -> tuple[Place, ...]:
        """Find the block, and in it what `bits_of` says."""
        row, column = index
        block, value = divmod(column, next(each.count for each in self.block if each.name == part))
        start = (row * self._blocks(shape) + block) * self.block_bytes
        return tuple(
            Place("blocks", start + byte, shift, width) for byte, shift, width in self.bits_of(part, value)
        )

    @abstractmethod
    def bits_of(self, part: str, value: int) -> tuple[tuple[int, int, int], ...]:
        """Say where the n-th integer of a part lies in its block: (byte, shift, width), low bits first."""

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        count = self._blocks(shape)
        blocks = parts["codes"].new_zeros(shape.rows, count, self.block_bytes)
        for rows in _strips(shape):
            for each in self.block:
                values = view(parts[each.name][rows], torch.uint8)
                for section in each.sections:
                    section.write(values.view(len(values), count, each.size), blocks[rows])
        return {"blocks": blocks.flatten(1)}

    def _unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        count = self._blocks(shape)
        blocks = stored["blocks"].contiguous().view(shape.rows, count, self.block_bytes)
        parts = {
            name: blocks.new_zeros(field.shape, dtype=field.dtype)
            for name, field in self.parts(shape).items()
        }
        for rows in _strips(shape):
            for each in self.block:
                values = parts[each.name][rows].view(torch.uint8)
                for section in each.sections:
                    section.read(blocks[rows], values.view(len(values), count, each.size))
        return parts

    def _blocks(self, shape: Shape) -> int:
        return shape.cols // self.cols_multiple


class AffineBlocks(BlockFormat, AffineFormat):
    """A type whose blocks have one scale, ``d``, and no minimum: w = d (code - zero_point).

    Attributes:
        zero_point: of every block.
    """

    zero_point: ClassVar[int]

    def to_affine(self, parts: Tensors, shape: Shape) -> Affine:
        """Take ``d`` as the scales, and one zero point for all."""
        scales = parts["d"]
        zero_points = torch.full_like(scales, self.zero_point, dtype=torch.float32)
        return Affine(self.bits, parts["codes"], scales, zero_points, consecutive(shape).to(scales.device))

    def weights(self, parts: Tensors, shape: Shape) -> Tensor:
        """Return the weights that the parts stand for, float32 [rows, cols]."""
        levels = _grouped(parts["codes"].float().sub_(self.zero_point), parts["d"])
        return levels.mul_(parts["d"].float().unsqueeze(2)).flatten(1)

    def from_affine(self, affine: Affine, shape: Shape) -> dict[str, Tensor]:
        """Take scales of float16, and codes that stay in range once their zero point is the type's."""
        in_order(affine, shape, self.id)
        levels = affine.codes.float() - affine.zero_points.float()[:, affine.g_idx.long()]
        codes = levels + self.zero_point
        high = self.parts(shape)["codes"].high
        top = 255 if high is None else high
        if not bool(((codes == codes.round()) & (codes >= 0) & (codes <= top)).all()):
            raise CodecError(
                f"{self.id} holds whole levels in {-self.zero_point}..{top - self.zero_point} alone, "
                f"not codes of shape {tuple(codes.shape)} less zero points of {affine.zero_points.dtype}"
            )
        return {
            "codes": codes.to(torch.uint8),
            "d": exactly(affine.scales, torch.float16, f"{self.id}: scales"),
        }


class SuperBlocks(BlockFormat):
    """A K type: 256 codes, whose groups have integer scales in units of ``d`` and, in some types, minima.

    w = (d (scale - zero_scale)) (code - zero_code) - dmin minimum, in float32, where the products are exact:
    the difference alone is rounded.

    Attributes:
        zero_code: the code of 0.
        zero_scale: the scale of 0.
    """

    cols_multiple = 256
    zero_code: ClassVar[int] = 0
    zero_scale: ClassVar[int] = 0

    def weights(self, parts: Tensors, shape: Shape) -> Tensor:
        """Return the weights that the parts stand for, float32 [rows, cols]."""
        scales = _in_units(parts["d"], parts["scales"].float().sub_(self.zero_scale))
        weights = _grouped(parts["codes"].float().sub_(self.zero_code), scales).mul_(scales.unsqueeze(2))
        if "minima" in parts:
            weights -= _in_units(parts["dmin"], parts["minima"].float()).unsqueeze(2)
        return weights.flatten(1)


def _strips(shape: Shape) -> list[slice]:
    """Cut the rows into strips that stay in the cache."""
    rows = max(1, STRIP // max(shape.cols, 1))
    return [slice(first, first + rows) for first in range(0, shape.rows, rows)]


def _grouped(levels: Tensor, scales: Tensor) -> Tensor:
    """View [rows, cols] as [rows, groups, columns of a group]."""
    rows, groups = scales.shape
    return levels.view(rows, groups, levels.shape[1] // max(groups, 1))


def _in_units(unit: Tensor, values: Tensor) -> Tensor:
    """Multiply the values of each block by the block's unit."""
    return (_grouped(values, unit) * unit.float().unsqueeze(2)).flatten(1)
