"""AWQ's newer format, as MIT's llm-awq (TinyChat) writes it since its second version: 4 bits in int16.

A word holds four in-features of one out-feature, eight columns apart: of each 32 columns of a row, word w (0
to 7) holds columns w, w + 8, w + 16 and w + 24, the lowest field first. Four rows are then interleaved, 64
columns (16 words) at a time, so that ``qweight`` [N / 4, K] reads::

    row 0: words 0..15 of row 0, of row 1, of row 2, of row 3, words 16..31 of row 0, ...
    row 1: the same of rows 4 to 7

``scales`` float16 [P, N] holds a row for each group, ``scaled_zeros`` float16 [P, N] what is added:
``w = code scale + scaled_zero``, where llm-awq writes ``-(scale zero_point)`` rounded to float16. P is the
number of groups G, rounded up to a multiple of 8, of 16 at group_size 64 and of 32 at 32; the rows to spare
are zero. There is no ``g_idx``: groups are consecutive in-features, and fill them.

Sizes in bits: ``qweight`` 4 K N, ``scales`` and ``scaled_zeros`` 16 P N each. K must come in multiples of 64,
N of 4 (llm-awq's own module asks for 8).

Source: llm-awq, ``awq/quantize/qmodule.py``. Left out: its group sizes above 128.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from quantcheck.codecs import bitstream
from quantcheck.codecs.affine import Affine, AffineFormat, consecutive, exactly, in_order, ragged, same, whole
from quantcheck.codecs.base import Field, Place, Shape, Tensors

BITS = 4
FIELDS = 4
INTERLEAVE = 4
CHUNK = 64
BLOCK = 32
LANE = BLOCK // FIELDS
LOW_FIELDS = 0x0F0F0F0F0F0F0F0F


@dataclass(frozen=True)
class LlmAwq(AffineFormat):
    """The newer llm-awq.

    Parts: ``codes`` uint8 [rows, cols], ``scales`` and ``scaled_zeros`` float16 [rows, groups].

    Attributes:
        bits: 4.
    """

    name: ClassVar[str] = "llm_awq"
    rows_multiple = INTERLEAVE
    cols_multiple = CHUNK
    group_sizes = (None, 32, 64, 128)

    bits: int = BITS

    def refusal(self, shape: Shape) -> str | None:
        """Refuse groups that do not fill the columns, too."""
        return super().refusal(shape) or ragged(shape)

    def parts(self, shape: Shape) -> dict[str, Field]:
        """Declare what `pack` takes."""
        return {
            "codes": Field(torch.uint8, (shape.rows, shape.cols), high=15),
            "scales": Field(torch.float16, (shape.rows, shape.groups)),
            "scaled_zeros": Field(torch.float16, (shape.rows, shape.groups)),
        }

    def stored(self, shape: Shape) -> dict[str, Field]:
        """Declare the tensors of the checkpoint."""
        padded = shape.groups + _spare(shape)
        return {
            "qweight": Field(torch.int16, (shape.rows // INTERLEAVE, shape.cols)),
            "scales": Field(torch.float16, (padded, shape.rows)),
            "scaled_zeros": Field(torch.float16, (padded, shape.rows)),
        }

    def weights(self, parts: Tensors, shape: Shape) -> Tensor:
        """Add ``scaled_zeros`` to scaled codes; the product is exact, so each weight is rounded once."""
        columns = consecutive(shape).long().to(parts["codes"].device)
        scaled = parts["codes"].float() * parts["scales"].float()[:, columns]
        return scaled + parts["scaled_zeros"].float()[:, columns]

    def place(self, part: str, shape: Shape, index: tuple[int, ...]) -> tuple[Place, ...]:
        """Find the interleaved word of a code, and its field."""
        if part != "codes":
            return ()
        row, column = index
        block, in_block = divmod(column, BLOCK)
        field, in_field = divmod(in_block, BLOCK // FIELDS)
        word = block * (BLOCK // FIELDS) + in_field
        chunk, in_chunk = divmod(word, CHUNK // FIELDS)
        four, lane = divmod(row, INTERLEAVE)
        interleaved = (chunk * INTERLEAVE + lane) * (CHUNK // FIELDS) + in_chunk
        return (Place("qweight", four * shape.cols + interleaved, BITS * field, BITS),)

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        spare = _spare(shape)
        return {
            "qweight": _words(parts["codes"]),
            "scales": F.pad(parts["scales"].T, (0, 0, 0, spare)).contiguous(),
            "scaled_zeros": F.pad(parts["scaled_zeros"].T, (0, 0, 0, spare)).contiguous(),
        }

    def _unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        return {
            "codes": _codes(stored["qweight"]),
            "scales": stored["scales"][: shape.groups].T.contiguous(),
            "scaled_zeros": stored["scaled_zeros"][: shape.groups].T.contiguous(),
        }

    def to_affine(self, parts: Tensors, shape: Shape) -> Affine:
        """Divide the scales out of ``scaled_zeros``, where whole zero points come out."""
        codes, scales = parts["codes"], parts["scales"].float()
        zero_points = torch.where(scales == 0, 0.0, torch.round(-parts["scaled_zeros"].float() / scales))
        whole(zero_points, BITS, f"{self.id} as affine codes")
        affine = Affine(BITS, codes, parts["scales"], zero_points, consecutive(shape).to(codes.device))
        same(affine.weights(), self.weights(parts, shape), f"an affine twin of {self.id}")
        return affine

    def from_affine(self, affine: Affine, shape: Shape) -> dict[str, Tensor]:
        """Take groups in order and whole zero points whose products with the scales are float16."""
        in_order(affine, shape, self.id)
        scales = exactly(affine.scales, torch.float16, f"{self.id}: scales")
        scaled = -scales.float() * whole(affine.zero_points, BITS, self.id)
        parts = {
            "codes": affine.codes,
            "scales": scales,
            "scaled_zeros": exactly(scaled, torch.float16, f"{self.id}: scaled_zeros"),
        }
        same(self.weights(parts, shape), affine.weights(), self.id)
        return parts


def _spare(shape: Shape) -> int:
    """Return how many rows of ``scales`` belong to no group."""
    group_size = shape.group_size or shape.cols
    return -shape.groups % (8 * max(1, 128 // max(group_size, 1)))


def _words(codes: Tensor) -> Tensor:
    """Pack uint8 [rows, cols] into int16 [rows / 4, cols]."""
    rows, cols = codes.shape
    # A lane of eight columns is one 64-bit word: fields are below 16, so that no shift leaves its byte.
    lanes = codes.clone(memory_format=torch.contiguous_format).view(-1, LANE).view(torch.int64)
    lanes = lanes.view(rows * cols // BLOCK, FIELDS)
    pairs = lanes[:, 0::2] | lanes[:, 1::2] << BITS
    words = codes.new_empty(rows * cols // FIELDS, 2)
    for byte in range(2):
        words[:, byte] = bitstream.as_bytes(pairs[:, byte])
    return _swapped(words.view(torch.int16), rows // INTERLEAVE, INTERLEAVE, cols // CHUNK)


def _codes(words: Tensor) -> Tensor:
    """Read uint8 [rows, cols] back from int16 [rows / 4, cols]."""
    fours, cols = words.shape
    halves = bitstream.as_bytes(_swapped(words, fours, cols // CHUNK, INTERLEAVE)).view(-1, 2)
    codes = halves.new_empty(fours * INTERLEAVE, cols)
    lanes = codes.view(-1, LANE).view(torch.int64).view(-1, FIELDS)
    for byte in range(2):
        pairs = bitstream.as_bytes(halves[:, byte]).view(torch.int64)
        lanes[:, 2 * byte] = pairs & LOW_FIELDS
        lanes[:, 2 * byte + 1] = pairs >> BITS & LOW_FIELDS
    return codes


def _swapped(words: Tensor, fours: int, outer: int, inner: int) -> Tensor:
    """Swap rows of four and chunks of columns, where the words of both lie together."""
    chunks = words.contiguous().view(fours, outer, inner, CHUNK // FIELDS)
    return chunks.transpose(1, 2).reshape(fours, outer * inner * CHUNK // FIELDS)
