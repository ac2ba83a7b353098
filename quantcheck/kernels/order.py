"""Columns in the order of their groups, and cut into runs that share a scale."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Order:
    """The columns of a weight, group by group.

    Attributes:
        columns: which column comes where, int64 [in]; ``None`` where they lie in this order anyway.
        g_idx: the group of each column in this order, int64 [in], ascending.
        group_size: columns of a group where all have as many, but the last one perhaps fewer; else ``None``.
    """

    columns: Tensor | None
    g_idx: Tensor
    group_size: int | None

    @classmethod
    def of(cls, g_idx: Tensor) -> Order:
        """Sort columns by their groups, those of one group staying as they are."""
        groups, columns = g_idx.to(torch.int64).sort(stable=True)
        size = int((groups == 0).sum())
        regular = size and torch.equal(groups, torch.arange(len(groups), device=groups.device) // size)
        ordered = not bool((g_idx.diff() < 0).any())
        return cls(None if ordered else columns, groups, size if regular else None)

    def sort(self, matrix: Tensor) -> Tensor:
        """Bring columns [..., in] into this order."""
        return matrix if self.columns is None else matrix.index_select(-1, self.columns)

    def restore(self, matrix: Tensor) -> Tensor:
        """Undo `sort`."""
        return matrix if self.columns is None else matrix.index_select(-1, self.columns.argsort())

    def spread(self, values: Tensor) -> Tensor:
        """Repeat what holds for groups, [rows, groups], for their columns, [rows, in]."""
        if self.group_size is None:
            return values.index_select(1, self.g_idx)
        return values.repeat_interleave(self.group_size, dim=1)[:, : len(self.g_idx)]

    def runs(self, longest: int) -> Iterator[tuple[int, int, int]]:
        """List runs of at most ``longest`` columns of one group: start, stop and group."""
        stop = 0
        for group, count in enumerate(torch.bincount(self.g_idx).tolist()):
            start, stop = stop, stop + count
            for first in range(start, stop, longest):
                yield first, min(first + longest, stop), group
