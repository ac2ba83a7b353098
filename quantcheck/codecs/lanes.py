"""Lanes: equal runs of codes laid over each other in the words of one tensor, each run at its own shift.

A matrix in blocks of rows, four to a byte, two bits a code, the first block high::

    rows 0 .. n/4-1         bits 7 6
    rows n/4 .. n/2-1       bits     5 4
    rows n/2 .. 3n/4-1      bits         3 2
    rows 3n/4 .. n-1        bits             1 0

Whole runs are shifted and joined as they lie in memory, whatever they are: blocks of rows, blocks of columns,
every other code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from quantcheck.codecs.base import Shape


def join(lanes: Sequence[Tensor], shifts: Sequence[int], dtype: torch.dtype = torch.uint8) -> Tensor:
    """Lay lanes of one shape over each other, each at its shift."""
    words = torch.zeros(lanes[0].shape, dtype=dtype, device=lanes[0].device)
    # Every other code is copied several times faster than it is shifted.
    shifted = torch.empty_like(words)
    for lane, shift in zip(lanes, shifts, strict=True):
        words |= shifted.copy_(lane).bitwise_left_shift_(shift)
    return words


def part(words: Tensor, shifts: Sequence[int], bits: int, lanes: Sequence[Tensor]) -> None:
    """Write what lies at each shift, ``bits`` wide, to the uint8 tensors ``lanes``."""
    shifted = torch.empty_like(words, memory_format=torch.contiguous_format)
    for shift, lane in zip(shifts, lanes, strict=True):
        torch.bitwise_right_shift(words, shift, out=shifted)
        lane.copy_(shifted.bitwise_and_((1 << bits) - 1))


def join_blocks(matrix: Tensor, shifts: Sequence[int], dtype: torch.dtype = torch.uint8) -> Tensor:
    """Lay as many blocks of rows over each other as there are shifts, filled up with rows of zeros.

    Returns:
        [ceil(rows / blocks), columns] for a matrix uint8 [rows, columns].
    """
    short = -matrix.shape[0] % len(shifts)
    blocks = F.pad(matrix, (0, 0, 0, short)) if short else matrix
    height = blocks.shape[0] // len(shifts)
    return join(blocks.reshape(len(shifts), height, matrix.shape[1]).unbind(), shifts, dtype)


def part_blocks(words: Tensor, shifts: Sequence[int], bits: int, rows: int) -> Tensor:
    """Read the matrix of ``rows`` rows back, uint8 [rows, columns]."""
    blocks = words.new_empty((len(shifts), *words.shape), dtype=torch.uint8)
    part(words, shifts, bits, blocks.unbind())
    return blocks.view(len(shifts) * words.shape[0], words.shape[1])[:rows]


def fresh(tensor: Tensor, *shape: int) -> Tensor:
    """Copy a tensor in another shape; its strides are those of that shape, whatever they were."""
    return tensor.reshape(shape).clone(memory_format=torch.contiguous_format)


def grouped(shape: Shape) -> tuple[int, int]:
    """Return the shape of ``weight.view(-1, group_size)``, the matrix with a row for each group."""
    return shape.rows * shape.groups, shape.group_size or shape.cols


def broken_groups(shape: Shape) -> str | None:
    """Say that the last group of a row would be shorter, for a format that has none such."""
    if shape.group_size and shape.cols % shape.group_size:
        return f"columns must come in multiples of group_size {shape.group_size}, got {shape.cols}"
    return None
