"""Torchao's ``tile_packed_to_4d``: int4 in the order in which tinygemm's tensor-core tiles read it.

``qdata`` is int32 [rows / 8, cols / (16 inner_k_tiles), 32, inner_k_tiles / 2]. A tile is 8 rows by 16
columns and belongs to the 32 lanes of a warp; lane t has row t // 4 and the columns 2 (t % 4) + {0, 1, 8, 9}.
A word holds a lane's codes of two tiles that are neighbours, v0 to v7 in the order of their columns::

    bit   31 .. 28   27 .. 24   23 .. 20   19 .. 16   15 .. 12   11 .. 8   7 .. 4   3 .. 0
          v7         v5         v3         v1         v6         v4        v2       v0

The last index runs over the pairs among ``inner_k_tiles`` tiles, the one before over lanes. The weights and
``scale_and_zero`` are those of plain int4. Sizes for K in-features, N out-features and G groups, in bits:
``qdata`` 4 N K, ``scale_and_zero`` 32 N G.

The layout is that of ``aten/native/cuda/int4mm.cu``, NVIDIA's branch, read there (torch's
``_convert_weight_to_int4pack`` takes CUDA tensors alone); AMD's has other tiles. Torchao writes it with
``inner_k_tiles=8`` and fills weights up to multiples of 8 rows and 1024 columns first: `Shape` is that of the
filled-up weight. Its kernels have groups of 32, 64, 128 and 256.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quantcheck.codecs.base import Field, Place, Shape, Tensors
from quantcheck.codecs.lanes import fresh, join, part
from quantcheck.codecs.torchao_int4 import Tinygemm

TILE_ROWS, TILE_COLS, LANES = 8, 16, 32
_INNER_BYTES, _SECOND_BYTE, _THIRD_BYTE = 0xFFFF00, 0xFF00, 0xFF0000


@dataclass(frozen=True)
class TilePacked(Tinygemm):
    """Tile-packed int4.

    Attributes:
        bits: width of a code, 4.
        inner_k_tiles: tiles along the columns that lie together, 2, 4 or 8.
    """

    name: ClassVar[str] = "torchao_tile_packed"
    rows_multiple: ClassVar[int] = TILE_ROWS  # type: ignore[misc]
    group_sizes: ClassVar[tuple[int | None, ...]] = (32, 64, 128, 256)  # type: ignore[misc]

    bits: int = 4
    inner_k_tiles: int = 8

    @property
    def cols_multiple(self) -> int:  # type: ignore[override]
        """Columns of the tiles that lie together."""
        return TILE_COLS * self.inner_k_tiles

    def data(self, shape: Shape) -> Field:
        """Declare the packed codes: half a byte each."""
        size = (shape.rows // TILE_ROWS, shape.cols // self.cols_multiple, LANES, self.inner_k_tiles // 2)
        return Field(torch.int32, size)

    def place(self, part: str, shape: Shape, index: tuple[int, ...]) -> tuple[Place, ...]:
        """Find the lane, the word and the nibble of a code."""
        if part != "codes":
            return ()
        row, col = index
        outer, inner = divmod(col, self.cols_multiple)
        pair, column = divmod(inner, 2 * TILE_COLS)
        lane = row % TILE_ROWS * 4 + column % 8 // 2
        value = column // 8 * 2 + column % 2
        nibble = (0, 4, 1, 5, 2, 6, 3, 7)[value]
        outers = shape.cols // self.cols_multiple
        tile = row // TILE_ROWS * outers + outer
        word = (tile * LANES + lane) * (self.inner_k_tiles // 2) + pair
        return (Place("qdata", word, 4 * nibble, 4),)

    def _pack(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        # Halves of a tile lie over each other: column c low and c + 8 high, in pairs of columns.
        halves = parts["codes"].reshape(-1, 2, 8)
        pairs = join(halves.unbind(1), (0, 4)).view(torch.int16)
        words = fresh(pairs.view(self._tiles(shape)).permute(0, 2, 1, 5, 3, 4), -1).view(torch.int32)
        return {
            "qdata": _swapped(words).view(self.data(shape).shape),
            "scale_and_zero": self._pack_scales(parts),
        }

    def _unpack(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        down, rows, outer, inner, tiles, lanes = self._tiles(shape)
        pairs = _swapped(fresh(stored["qdata"], -1)).view(torch.int16)
        pairs = pairs.view(down, outer, rows, lanes, inner, tiles).permute(0, 2, 1, 4, 5, 3)
        joined = fresh(pairs, -1).view(torch.uint8).view(-1, 8)
        codes = joined.new_empty((joined.shape[0], 2, 8))
        part(joined, (0, 4), 4, codes.unbind(1))
        return {
            "codes": codes.view(shape.rows, shape.cols),
            **self._unpack_scales(stored["scale_and_zero"]),
        }

    def _tiles(self, shape: Shape) -> tuple[int, ...]:
        """Return [tiles down, rows, words across, words of a lane, tiles of a word, lanes of a row]."""
        outer = shape.cols // self.cols_multiple
        return shape.rows // TILE_ROWS, TILE_ROWS, outer, self.inner_k_tiles // 2, 2, LANES // TILE_ROWS


def _swapped(words: Tensor) -> Tensor:
    """Exchange the two bytes in the middle of each int32."""
    inner = words & _INNER_BYTES
    words = words ^ inner
    words |= inner >> 8 & _SECOND_BYTE
    words |= inner.bitwise_left_shift_(8).bitwise_and_(_THIRD_BYTE)
    return words
