"""AWQ's GEMM format, as AutoAWQ writes it: 4 bits, packed along the out-features in an order of its own.

A 32-bit word holds eight out-features of one in-feature; its fields, from the lowest up, are those of columns
0, 2, 4, 6, 1, 3, 5, 7, so that a kernel can widen two neighbours at a time. Out-features a to h::

    bit 31..28 27..24 23..20 19..16 15..12 11..8 7..4 3..0
          h      f      d      b      g      e     c    a

``qweight`` [K, N / 8] holds the codes, ``qzeros`` [G, N / 8] the zero points in the same order and as they
are (GPTQ's version 1 stores one less), ``scales`` [G, N] is float16, and ``w = (code - zero_point) scale``.
There is no ``g_idx``: groups are consecutive in-features, and fill them.

Sizes for K in-features, N out-features and G groups, in bits: ``qweight`` 4 K N, ``qzeros`` 4 G N, ``scales``
16 G N. N must come in multiples of 8.

Source: AutoAWQ's ``WQLinear_GEMM``, which the first llm-awq shares; the newer one is
`quantcheck.codecs.llm_awq`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quantcheck.codecs import bitstream
from quantcheck.codecs.affine import Affine, AffineFormat, consecutive, exactly, in_order, ragged, whole
from quantcheck.codecs.base import Field, Place, Shape, Tensors

BITS = 4
FIELDS = 8
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which out-feature of eight each field holds, from the lowest up."""
PAIRS = tuple(zip(ORDER[0::2], ORDER[1::2], strict=True))
"""The two out-features of each byte of a word."""


@dataclass(frozen=True)
class AwqGemm(AffineFormat):
    """AWQ GEMM.

    Parts: ``codes`` uint8 [rows, cols], ``zero_points`` uint8 [rows, groups], ``scales`` float16
    [rows, groups].

    Attributes:
        bits: 4.
    """

    name: ClassVar[str] = "awq_gemm"
    rows_multiple = FIELDS

    bits: int = BITS

    def refusal(self, shape: Shape) -> str | None:
        """Refuse groups that do not fill the columns, too."""
        return super().refusal(shape) or ragged(shape)

    def parts(self, shape: Shape) -> dict[str, Field]:
        """Declare what `pack` takes."""
        return {
            "codes": Field(torch.uint8, (shape.rows, shape.cols), high=15),
            "zero_points": Field(torch.uint8, (shape.rows, shape.groups), high=15),
            "scales": Field(torch.float16, (shape.rows, shape.groups)),
        }

    def stored(self, shape: Shape) -> dict[str, Field]:
        """Declare the tensors of the checkpoint."""
        return {
            "qweight": Field(torch.int32, (shape.cols, shape.rows // FIELDS)),
            "qzeros": Field(torch.int32, (shape.groups, shape.rows // FIELDS)),
            "scales": Field(torch.float16, (shape.groups, shape.rows)),
        }

    def place(self, part: str, shape: Shape, index: tuple[int, ...]) -> tuple[Place, ...]:
        """Find the word of eight rows, and the field of the row in it."""
        row, other = index
        tensor = {"codes": "qweight", "zero_points": "qzeros"}.get(part)
        if tensor is None:
            return ()
        word, lane = divmod(row, FIELDS)
        return (Place(tensor, other * (shape.rows // FIELDS) + word, BITS * ORDER.index(lane), BITS),)

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        return {
            "qweight": _words(parts["codes"]),
            "qzeros": _words(parts["zero_points"]),
            "scales": parts["scales"].T.contiguous(),
        }

    def _unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        return {
            "codes": _codes(stored["qweight"]),
            "zero_points": _codes(stored["qzeros"]),
            "scales": stored["scales"].T.contiguous(),
        }

    def to_affine(self, parts: Tensors, shape: Shape) -> Affine:
        """Take the parts as they are."""
        codes = parts["codes"]
        return Affine(
            BITS, codes, parts["scales"], parts["zero_points"].float(), consecutive(shape).to(codes.device)
        )

    def from_affine(self, affine: Affine, shape: Shape) -> dict[str, Tensor]:
        """Take groups in order, whole zero points and scales of float16."""
        in_order(affine, shape, self.id)
        return {
            "codes": affine.codes,
            "zero_points": whole(affine.zero_points, BITS, self.id),
            "scales": exactly(affine.scales, torch.float16, f"{self.id}: scales"),
        }


def _words(codes: Tensor) -> Tensor:
    """Pack uint8 [rows, n] into int32 [n, rows / 8]."""
    rows, count = codes.shape
    lanes = codes.reshape(rows // FIELDS, FIELDS, count)
    words = codes.new_empty(rows // FIELDS, count, FIELDS // 2)
    for byte, (low, high) in enumerate(PAIRS):
        words[:, :, byte] = lanes[:, low] | lanes[:, high] << BITS
    return words.view(torch.int32)[:, :, 0].T.contiguous()


def _codes(words: Tensor) -> Tensor:
    """Read uint8 [rows, n] back from int32 [n, rows / 8]."""
    count, groups = words.shape
    fields = bitstream.as_bytes(words.T).view(groups, count, FIELDS // 2)
    lanes = fields.new_empty(groups, FIELDS, count)
    for byte, (low, high) in enumerate(PAIRS):
        pair = fields[:, :, byte].contiguous()
        lanes[:, low] = pair & 15
        lanes[:, high] = pair >> BITS
    return lanes.view(groups * FIELDS, count)
