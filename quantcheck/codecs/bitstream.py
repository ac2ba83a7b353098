"""The dense bitstream: every code takes exactly ``bits`` bits, least significant bit first, row by row.

Code ``c`` of a row lies at the row's bits ``c * bits`` to ``(c + 1) * bits - 1``; bit ``n`` of a row is bit
``n % 8`` of its byte ``n // 8``. Codes straddle bytes where ``bits`` does not divide 8. Three bits a code,
codes a to h::

    byte        0               1               2
    bit   7 6 5 4 3 2 1 0 7 6 5 4 3 2 1 0 7 6 5 4 3 2 1 0
    code  c c b b b a a a f e e e d d d c h h h g g g f f

Rows start on a byte; what is left of a row's last byte is zero: ``ceil(cols * bits / 8)`` bytes a row. Many
checkpoint formats hold rows of this stream as little-endian 32-bit words (`pack_words`).

Both directions work on words of eight codes, a byte each, and move all codes of a row at once: neighbours
are folded together, then pairs of them, then fours, until whole bytes are full::

    .....ddd.....ccc.....bbb.....aaa
    ..........dddccc..........bbbaaa
    ....................dddcccbbbaaa

A machine must be little-endian for that, as PyTorch's own platforms are.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from quantcheck.codecs import CodecError
from quantcheck.codecs.base import Field, Format, Place, Shape, Tensors

MAX_BITS = 8
CODES_PER_WORD = 8
BYTES_PER_INT32 = 4
STRIP = 1 << 20
"""Codes that are worked on at a time: they stay in the cache."""


@dataclass(frozen=True)
class Bitstream(Format):
    """Codes alone, as the project's own planes and masks store them.

    Parts: ``codes`` uint8 [rows, cols]. Stored: ``packed`` uint8 [rows, ceil(cols * bits / 8)].

    Attributes:
        bits: width of a code, 1 to 8.
    """

    name: ClassVar[str] = "bitstream"

    bits: int

    def parts(self, shape: Shape) -> dict[str, Field]:
        """Declare what `pack` takes."""
        return {"codes": Field(torch.uint8, (shape.rows, shape.cols), high=(1 << self.bits) - 1)}

    def stored(self, shape: Shape) -> dict[str, Field]:
        """Declare the one tensor."""
        return {"packed": Field(torch.uint8, (shape.rows, packed_width(shape.cols, self.bits)))}

    def weights(self, parts: Tensors, shape: Shape) -> Tensor:
        """Return the codes as numbers."""
        return parts["codes"].float()

    def place(self, part: str, shape: Shape, index: tuple[int, ...]) -> tuple[Place, ...]:
        """Follow the bits of one code along its row of bytes."""
        row, column = index
        first = row * packed_width(shape.cols, self.bits)
        return tuple(
            Place("packed", first + bit // 8, bit % 8, 1)
            for bit in range(column * self.bits, (column + 1) * self.bits)
        )

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        return {"packed": pack(parts["codes"], self.bits)}

    def _unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        return {"codes": unpack(stored["packed"], self.bits, shape.cols)}


def packed_width(cols: int, bits: int) -> int:
    """Bytes that a row of ``cols`` codes takes."""
    return -(-cols * bits // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack ``codes`` (uint8, [rows, cols], each below ``2**bits``) into uint8 [rows, `packed_width`].

    Raises:
        CodecError: ``bits`` lies outside 1 to 8, the tensor is no uint8 matrix, or a code needs more than
            ``bits`` bits.
    """
    _check(codes, "codes", bits)
    if codes.numel() and int(codes.max()) >> bits:
        raise CodecError(
            f"codes of {bits} bits must lie in 0..{(1 << bits) - 1}, "
            f"got {int(codes.max())} in a matrix of shape {tuple(codes.shape)}"
        )
    rows, cols = codes.shape
    packed = codes.new_empty(rows, packed_width(cols, bits))
    if not codes.numel():
        return packed
    spread, full = _unit(bits)
    for strip, target in strips(codes, packed, cols):
        folded = _padded(strip, cols)
        words = folded.view(torch.int64)
        for fields, distance in _folds(bits):
            upper = words & fields
            words ^= upper
            words |= upper.bitwise_right_shift_(distance)
        for byte in range(full):
            lane = target[:, byte::full]
            lane.copy_(folded[:, byte::spread][:, : lane.shape[1]])
    return packed


def unpack(packed: Tensor, bits: int, cols: int) -> Tensor:
    """Read uint8 codes [rows, cols] back from what `pack` wrote.

    Raises:
        CodecError: ``bits`` lies outside 1 to 8, the tensor is no uint8 matrix, or its rows do not hold
            ``cols`` codes.
    """
    _check(packed, "packed codes", bits)
    rows, width = packed.shape
    if cols < 0 or width != packed_width(cols, bits):
        raise CodecError(
            f"{cols} codes of {bits} bits take {packed_width(cols, bits)} bytes a row, "
            f"got packed codes of shape {tuple(packed.shape)}"
        )
    codes = packed.new_empty(rows, cols)
    if not codes.numel():
        return codes
    spread, full = _unit(bits)
    for target, strip in strips(codes, packed, cols):
        folded = _padded(strip[:, :0], cols)
        for byte in range(full):
            lane = strip[:, byte::full]
            folded[:, byte::spread][:, : lane.shape[1]].copy_(lane)
        words = folded.view(torch.int64)
        for fields, distance in reversed(_folds(bits)):
            upper = words & fields >> distance
            words ^= upper
            words |= upper.bitwise_left_shift_(distance)
        target.copy_(folded[:, :cols])
    return codes


def pack_words(codes: Tensor, bits: int) -> Tensor:
    """Pack like `pack`, into little-endian words, int32 [rows, ceil(cols * bits / 32)]."""
    stream = pack(codes, bits)
    rows, width = stream.shape
    words = -(-width // BYTES_PER_INT32)
    if not stream.numel():
        return stream.new_empty(rows, words, dtype=torch.int32)
    return F.pad(stream, (0, BYTES_PER_INT32 * words - width)).view(torch.int32)


def unpack_words(words: Tensor, bits: int, cols: int) -> Tensor:
    """Read codes [rows, cols] back from what `pack_words` wrote."""
    rows, width = words.shape
    stream = as_bytes(words).view(rows, BYTES_PER_INT32 * width)
    return unpack(stream[:, : packed_width(cols, bits)], bits, cols)


def as_bytes(words: Tensor) -> Tensor:
    """Return a copy of a tensor's bytes, flat."""
    # A clone has the strides of its shape; of a single column, `contiguous` keeps any others.
    return words.clone(memory_format=torch.contiguous_format).view(-1).view(torch.uint8)


def _unit(bits: int) -> tuple[int, int]:
    """Return the fewest codes that fill whole bytes, and how many bytes they fill."""
    codes = 8 // gcd(8, bits)
    return codes, codes * bits // 8


def _folds(bits: int) -> list[tuple[int, int]]:
    """Return each fold: the upper one of each two neighbouring fields, as a mask, and how far it moves."""
    codes, _ = _unit(bits)
    folds = []
    for joined in (size for size in (1, 2, 4) if size < codes):
        field = (1 << bits * joined) - 1
        mask = sum(field << 8 * upper for upper in range(joined, CODES_PER_WORD, 2 * joined))
        folds.append((mask, (8 - bits) * joined))
    return folds


def strips(codes: Tensor, packed: Tensor, cols: int) -> zip[tuple[Tensor, Tensor]]:
    """Cut codes of ``cols`` columns, and what they are packed into, into strips of rows."""
    rows = max(1, STRIP // max(cols, 1))
    return zip(torch.split(codes, rows), torch.split(packed, rows), strict=True)


def _padded(matrix: Tensor, cols: int) -> Tensor:
    """Return a copy with zeros up to ``cols`` columns and from there to a whole word."""
    copy = matrix.new_zeros(matrix.shape[0], cols + -cols % CODES_PER_WORD)
    copy[:, : matrix.shape[1]] = matrix
    return copy


def _check(matrix: Tensor, what: str, bits: int) -> None:
    if not 1 <= bits <= MAX_BITS:
        raise CodecError(f"the bitstream holds codes of 1 to {MAX_BITS} bits, not {bits}")
    if matrix.dtype != torch.uint8 or matrix.ndim != 2:
        raise CodecError(
            f"{what} must be a uint8 matrix [rows, cols], got {matrix.dtype} of shape {tuple(matrix.shape)}"
        )
