"""The packed weight of BiLLM: one sign a weight, a second one in salient columns, and the maps of three sets.

Columns come in blocks. In a block, columns are salient (a bitmap over columns) or not, and a weight of the
others belongs to the tail (a bitmap over these weights) or is dense. With a share ``r`` of salient columns
the bits a weight are ``1 + r`` for the signs, ``1 - r`` for the tail's bitmap and ``1 / out`` for the
columns', and four means and scales for each row and block: dense, tail, salient, and what salient weights
leave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from quantcheck.codecs import bitstream
from quantcheck.kernels.base import Planes
from quantcheck.methods.base import MetaValue, PackedWeight
from quantcheck.methods.packed.checks import SCALE_DTYPES, UINT8, most_levels, require
from quantcheck.methods.parts.binarize import Binary, levels, ones

DENSE, TAIL, SALIENT, RESIDUAL = range(4)
TENSORS = ("salient", "tail", "signs", "residual_signs", "mean", "scale")


@dataclass(frozen=True, eq=False)
class BinaryBlock:
    """A block of columns, binarized; transposed, a column being a row here.

    Attributes:
        salient: which columns are salient, bool [n].
        tail: which weights of the other columns belong to the tail, bool [others, out].
        positive: signs, bool [n, out]; in salient columns those of the first step.
        residual: signs of the second step, bool [salient, out].
        mean: of the dense, tail and salient weights and of what is left of the last, [4, out].
        scale: likewise.
    """

    salient: Tensor
    tail: Tensor
    positive: Tensor
    residual: Tensor
    mean: Tensor
    scale: Tensor

    @classmethod
    def of(
        cls, salient: Tensor, tail: Tensor, *, dense: Binary, tails: Binary, salients: Sequence[Binary]
    ) -> BinaryBlock:
        """Put together the sets: dense and tail of the columns that are not salient, two steps of those."""
        first, second = salients
        positive = torch.empty(len(salient), tail.shape[1], dtype=torch.bool, device=tail.device)
        positive[salient] = first.positive
        positive[~salient] = torch.where(tail, tails.positive, dense.positive)
        sets = (dense, tails, first, second)
        mean, scale = torch.stack([each.mean for each in sets]), torch.stack([each.scale for each in sets])
        return cls(salient, tail, positive, second.positive, mean, scale)

    @classmethod
    def joined(cls, parts: Sequence[BinaryBlock]) -> BinaryBlock:
        """Put together blocks of the same columns, each of some rows of the weight."""
        names = ("tail", "positive", "residual", "mean", "scale")
        rows = (torch.cat([getattr(part, name) for part in parts], dim=1) for name in names)
        return cls(parts[0].salient, *rows)

    def decode(self) -> Tensor:
        """Return the weights, float32 [n, out]."""
        mean, scale = self.mean.to(torch.float32), self.scale.to(torch.float32)
        weight = torch.empty_like(self.positive, dtype=torch.float32)
        weight[self.salient] = levels(self.positive[self.salient], mean[SALIENT], scale[SALIENT]) + levels(
            self.residual, mean[RESIDUAL], scale[RESIDUAL]
        )
        positive = self.positive[~self.salient]
        dense = levels(positive, mean[DENSE], scale[DENSE])
        weight[~self.salient] = torch.where(self.tail, levels(positive, mean[TAIL], scale[TAIL]), dense)
        return weight


@dataclass(frozen=True, eq=False)
class ResidualBinaryWeight(PackedWeight):
    """Binarized blocks of columns; all bitstreams run column by column.

    Attributes:
        group_size: columns of a block; the last block may be narrower.
        out_features: rows of the decoded weight.
        in_features: columns of the decoded weight.
        salient: uint8 [ceil(in / 8)], 1 for a salient column.
        tail: uint8 [ceil(out * others / 8)], 1 for a tail weight of the columns that are not salient.
        signs: uint8 [ceil(out * in / 8)], 1 for mean plus scale.
        residual_signs: uint8 [ceil(out * salient / 8)], the second signs of the salient columns.
        mean: float16 or float32 [blocks, 4, out]: dense, tail, salient, residual.
        scale: float16 or float32 [blocks, 4, out].
        fallbacks: see `PackedWeight.notes`; not stored.
    """

    format: ClassVar[str] = "residual_binary"

    group_size: int
    out_features: int
    in_features: int
    salient: Tensor
    tail: Tensor
    signs: Tensor
    residual_signs: Tensor
    mean: Tensor
    scale: Tensor
    fallbacks: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        blocks = -(-self.in_features // self.group_size)
        require("salient", self.salient, UINT8, (bitstream.packed_width(self.in_features, 1),))
        count = ones(self.salient)
        for name, stream, columns in (
            ("tail", self.tail, self.in_features - count),
            ("signs", self.signs, self.in_features),
            ("residual_signs", self.residual_signs, count),
        ):
            require(name, stream, UINT8, (bitstream.packed_width(self.out_features * columns, 1),))
        require("mean", self.mean, SCALE_DTYPES, (blocks, 4, self.out_features))
        require("scale", self.scale, (self.mean.dtype,), (blocks, 4, self.out_features))

    @classmethod
    def from_blocks(
        cls,
        blocks: Sequence[BinaryBlock],
        *,
        group_size: int,
        scale_dtype: torch.dtype,
        fallbacks: tuple[str, ...] = (),
    ) -> ResidualBinaryWeight:
        """Pack ``blocks`` of ``group_size`` columns each, the last one perhaps of fewer.

        Raises:
            QuantizationError: the blocks do not fit together.
        """
        salient = torch.cat([block.salient for block in blocks])
        return cls(
            group_size,
            blocks[0].positive.shape[1],
            len(salient),
            _stream(salient),
            _stream(torch.cat([block.tail for block in blocks])),
            _stream(torch.cat([block.positive for block in blocks])),
            _stream(torch.cat([block.residual for block in blocks])),
            torch.stack([block.mean for block in blocks]).to(scale_dtype),
            torch.stack([block.scale for block in blocks]).to(scale_dtype),
            fallbacks=fallbacks,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """``(out_features, in_features)`` of the decoded weight."""
        return self.out_features, self.in_features

    @property
    def salient_share(self) -> float:
        """The share of salient columns."""
        return ones(self.salient) / self.in_features

    @property
    def nominal_bits(self) -> float:
        """One bit a weight and a second one in salient columns: the paper's figure."""
        return 1 + self.salient_share

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done otherwise than asked for."""
        return self.fallbacks

    def tensors(self) -> dict[str, Tensor]:
        """Return all six tensors."""
        return {name: getattr(self, name) for name in TENSORS}

    def meta(self) -> dict[str, MetaValue]:
        """Return ``group_size``, ``out_features`` and ``in_features``."""
        names = ("group_size", "out_features", "in_features")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], meta: Mapping[str, MetaValue]
    ) -> ResidualBinaryWeight:
        """Put back together what `tensors` and `meta` gave."""
        return cls(
            int(meta["group_size"]),
            int(meta["out_features"]),
            int(meta["in_features"]),
            *(tensors[name] for name in TENSORS),
        )

    def blocks(self) -> list[BinaryBlock]:
        """Unpack the blocks."""
        salient = torch.split(_bits(self.salient, self.in_features), self.group_size)
        counts = [int(mark.sum()) for mark in salient]
        others = [len(mark) - count for mark, count in zip(salient, counts, strict=True)]
        tail = _bits(self.tail, sum(others), self.out_features)
        signs = _bits(self.signs, self.in_features, self.out_features)
        residual = _bits(self.residual_signs, sum(counts), self.out_features)
        streams = (
            salient,
            torch.split(tail, others),
            torch.split(signs, self.group_size),
            torch.split(residual, counts),
        )
        return [BinaryBlock(*parts) for parts in zip(*streams, self.mean, self.scale, strict=True)]

    def decode(self) -> Tensor:
        """Return the weight that the stored tensors stand for, float32 [out, in]."""
        return torch.cat([block.decode() for block in self.blocks()]).T.contiguous()

    def operand(self) -> Planes:
        """Return what kernels take: a plane for each of the four sets, and a mask of where it holds."""
        blocks = self.blocks()
        salient = torch.cat([block.salient for block in blocks])[:, None].expand(-1, self.out_features)
        tail, residual = torch.zeros_like(salient), torch.zeros_like(salient)
        tail[~salient[:, 0]] = torch.cat([block.tail for block in blocks])
        residual[salient[:, 0]] = torch.cat([block.residual for block in blocks])
        signs = torch.cat([block.positive for block in blocks])
        columns = torch.arange(self.in_features, device=salient.device) // self.group_size
        return Planes(
            self.in_features,
            _planes(signs, signs, signs, residual),
            self.scale.permute(1, 2, 0),
            self.mean.permute(1, 2, 0),
            _planes(~salient & ~tail, tail, salient, salient),
            columns.to(torch.int32),
            signed=True,
        )

    def levels_respected(self, weight: Tensor) -> bool:
        """Tell whether the sets take at most 2, 2 and 4 values a row and block."""
        return all(
            _within(values, block)
            for values, block in zip(torch.split(weight, self.group_size, dim=1), self.blocks(), strict=True)
        )


def _within(weight: Tensor, block: BinaryBlock) -> bool:
    salient, others, tail = weight[:, block.salient], weight[:, ~block.salient], block.tail.T
    everything = torch.ones_like(salient, dtype=torch.bool)
    return (
        most_levels(others, ~tail) <= 2
        and most_levels(others, tail) <= 2
        and most_levels(salient, everything) <= 4
    )


def _planes(*sets: Tensor) -> Tensor:
    """Pack the rows of matrices [in, out], transposed."""
    return torch.stack([bitstream.pack(bits.T.to(torch.uint8), 1) for bits in sets])


def _stream(bits: Tensor) -> Tensor:
    return bitstream.pack(bits.reshape(1, -1).to(torch.uint8), 1)[0]


def _bits(stream: Tensor, *shape: int) -> Tensor:
    return bitstream.unpack(stream[None], 1, prod(shape))[0].view(shape).to(torch.bool)
