"""What a codec is: parts in, stored tensors out, and the other way round, with its shapes declared as data.

A `Codec` declares which ``parts`` it takes for a `Shape` (codes, scales, zero points, ...), which tensors it
stores, and where each code lies in them; `quantcheck.contracts.CodecContract` holds it to that. A built-in
format derives from `Format`, which checks everything that goes in and leaves it the two directions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from quantcheck.codecs import CodecError

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """A weight to be packed.

    Attributes:
        rows: out-features.
        cols: in-features.
        group_size: columns of a row that share a scale; the last group may be shorter. ``None``: all.
    """

    rows: int
    cols: int
    group_size: int | None = None

    @property
    def groups(self) -> int:
        """Groups of a row."""
        return 1 if self.group_size is None else -(-self.cols // self.group_size)


@dataclass(frozen=True)
class Field:
    """One tensor, of parts or stored.

    Attributes:
        dtype: its dtype.
        shape: its shape.
        low: the smallest value of an integer part.
        high: the largest one; ``None``: whatever the dtype holds.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    low: int = 0
    high: int | None = None

    @property
    def stored_bits(self) -> int:
        """Bits that it takes in memory."""
        return 8 * self.dtype.itemsize * prod(self.shape)


@dataclass(frozen=True)
class Place:
    """Where some bits of a value lie.

    Attributes:
        tensor: name of the stored tensor.
        index: of the word or byte in the flattened tensor.
        shift: of the lowest of these bits in that word.
        width: how many bits; a value's places are listed from its low bits to its high ones.
    """

    tensor: str
    index: int
    shift: int
    width: int


class Codec(ABC):
    """One pack format at one width.

    Attributes:
        name: of the format, as registered.
        bits: width of a code.
        rows_multiple: what the number of rows must be a multiple of.
        cols_multiple: the same of columns.
        group_sizes: group sizes that the format has; empty: any, and none.
    """

    name: ClassVar[str]
    bits: int
    rows_multiple: int = 1
    cols_multiple: int = 1
    group_sizes: tuple[int | None, ...] = ()

    @property
    def id(self) -> str:
        """``name-wBITS``."""
        return f"{self.name}-w{self.bits}"

    @abstractmethod
    def parts(self, shape: Shape) -> dict[str, Field]:
        """Declare what `pack` takes and `unpack` returns; ``codes`` is among them."""

    @abstractmethod
    def stored(self, shape: Shape) -> dict[str, Field]:
        """Declare what `pack` returns and `unpack` takes: the size formula."""

    @abstractmethod
    def pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        """Pack ``parts``, which stay as they are, into the stored tensors.

        Raises:
            CodecError: the format cannot hold the shape, or a part has another dtype or shape, or a value
                out of range.
        """

    @abstractmethod
    def unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        """Read the parts back from what `pack` wrote, bit for bit.

        Raises:
            CodecError: the tensors are not those of the shape.
        """

    @abstractmethod
    def weights(self, parts: Tensors, shape: Shape) -> Tensor:
        """Return the weights that the parts stand for, float32 [rows, cols]."""

    def refusal(self, shape: Shape) -> str | None:
        """Say why the format cannot hold ``shape``, or ``None`` where it can."""
        for what, size, multiple in (
            ("rows", shape.rows, self.rows_multiple),
            ("columns", shape.cols, self.cols_multiple),
        ):
            if size < 0 or size % multiple:
                return f"{what} must come in multiples of {multiple}, got {size}"
        if self.group_sizes and shape.group_size not in self.group_sizes:
            known = ", ".join("none" if size is None else str(size) for size in self.group_sizes)
            return f"group_size must be one of {known}, got {shape.group_size}"
        if shape.group_size is not None and shape.group_size < 1:
            return f"group_size must be at least 1, got {shape.group_size}"
        return None

    def place(self, part: str, shape: Shape, index: tuple[int, ...]) -> tuple[Place, ...]:
        """Say where a value of an integer part lies; nothing where the layout is no matter of bits.

        Written from the format's definition, value by value, and not from `pack`: it is what `pack` is
        checked against.
        """
        return ()

    def raw(self, part: str, value: int) -> int:
        """Return the bits that stand for a value of an integer part at its place."""
        return value

    def stored_bits(self, shape: Shape) -> int:
        """Bits of all stored tensors."""
        return sum(field.stored_bits for field in self.stored(shape).values())


class Format(Codec):
    """A codec that checks what it is given; formats implement `_pack` and `_unpack`."""

    def pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        """Check the parts and pack them; see `Codec.pack`."""
        self._check(parts, self.parts(self._supported(shape)))
        return self._pack(parts, shape)

    def unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        """Check the stored tensors and read them; see `Codec.unpack`."""
        self._check(stored, self.stored(self._supported(shape)))
        return self._unpack(stored, shape)

    @abstractmethod
    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]: ...

    @abstractmethod
    def _unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]: ...

    def _supported(self, shape: Shape) -> Shape:
        if refused := self.refusal(shape):
            raise CodecError(f"{self.id} cannot hold {shape}: {refused}")
        return shape

    def _check(self, tensors: Tensors, fields: Mapping[str, Field]) -> None:
        if tensors.keys() != fields.keys():
            raise CodecError(f"{self.id} takes {', '.join(fields)}; got {', '.join(tensors) or 'nothing'}")
        for name, field in fields.items():
            check_field(tensors[name], field, f"{self.id}: {name}")


def check_field(tensor: Tensor, field: Field, what: str) -> None:
    """Refuse a tensor of another dtype or shape, or an integer out of range.

    Raises:
        CodecError: it says what was expected and what came.
    """
    if tensor.dtype != field.dtype or tuple(tensor.shape) != field.shape:
        raise CodecError(
            f"{what} must be {field.dtype} of shape {field.shape}, got {tensor.dtype} of shape "
            f"{tuple(tensor.shape)}"
        )
    if field.high is None or not tensor.numel():
        return
    smallest, largest = (int(value) for value in tensor.aminmax())
    if smallest < field.low or largest > field.high:
        raise CodecError(
            f"{what} must lie in {field.low}..{field.high}, got {smallest}..{largest} in {tensor.dtype} of "
            f"shape {tuple(tensor.shape)}"
        )
