"""Tensors bit for bit: what two of them differ in, what `Codec.place` says a word is, views, poison."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any, cast

import torch
from torch import Tensor

from quantcheck.codecs.base import Codec, Field, Shape, Tensors

_SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def pattern(tensor: Tensor) -> Tensor:
    """Return the bytes of a tensor."""
    # A clone: `contiguous` leaves a tensor of one element whatever stride it has, and then it has no view.
    flat = tensor.detach().cpu().clone(memory_format=torch.contiguous_format).reshape(-1)
    return flat.view(torch.uint8)


def difference(expected: Tensors, got: Tensors) -> str:
    """Say where two sets of tensors differ, the first place of each; empty where they are bit-equal."""
    if expected.keys() != got.keys():
        return f"there are {', '.join(got) or 'none'}, not {', '.join(expected)}"
    return "; ".join(filter(None, (_difference(name, expected[name], got[name]) for name in expected)))


def copies(tensors: Tensors) -> dict[str, Tensor]:
    """Copy every tensor, contiguously."""
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


def same_weights(one: Tensor, other: Tensor) -> bool:
    """Whether two weights are bit-equal; a NaN is one whatever its bits."""
    ones, others = (torch.where(weights.isnan(), torch.nan, weights) for weights in (one, other))
    return (
        one.dtype == other.dtype and one.shape == other.shape and torch.equal(pattern(ones), pattern(others))
    )


def words(tensor: Tensor) -> list[int]:
    """Return the words of a tensor as numbers without sign, in their order."""
    size = tensor.dtype.itemsize
    signed = pattern(tensor).view(_SIGNED[size]).tolist()
    return [word & ((1 << 8 * size) - 1) for word in signed]


class Layout:
    """The stored words as `Codec.place` and `Codec.raw` say they are, value by value.

    Attributes:
        words: of each stored tensor that a place names; bits that no value takes are zero.

    Raises:
        AssertionError: two values share a bit, or a place lies nowhere.
    """

    def __init__(self, codec: Codec, parts: Tensors, shape: Shape) -> None:
        self._codec, self._shape, self._fields = codec, shape, codec.stored(shape)
        self.words: dict[str, list[int]] = {}
        self._taken: dict[str, list[int]] = {}
        for part, tensor in parts.items():
            if not tensor.dtype.is_floating_point:
                for index, value in zip(_indices(tensor.shape), tensor.flatten().tolist(), strict=True):
                    self._put(part, index, value)

    def _put(self, part: str, index: tuple[int, ...], value: int) -> None:
        places = self._codec.place(part, self._shape, index)
        if not places:
            return
        what = f"{self._codec.id}: {part}{list(index)} of {self._shape}"
        raw = self._codec.raw(part, value)
        total = sum(place.width for place in places)
        assert 0 <= raw < 1 << total, f"{what} = {value} is stored as {raw}, its places hold {total} bits"
        for place in places:
            field = self._fields.get(place.tensor)
            assert field, f"{what} lies in {place.tensor}, which is not stored"
            self._start(place.tensor, field)
            stored, taken = self.words[place.tensor], self._taken[place.tensor]
            mask = ((1 << place.width) - 1) << place.shift
            assert 0 <= place.index < len(stored), f"{what} lies in word {place.index} of {len(stored)}"
            assert mask < 1 << 8 * field.dtype.itemsize, f"{what} lies beyond its word: {place}"
            assert not taken[place.index] & mask, f"{what} shares bits with another value: {place}"
            taken[place.index] |= mask
            stored[place.index] |= (raw << place.shift) & mask
            raw >>= place.width

    def _start(self, name: str, field: Field) -> None:
        if name not in self.words:
            size = field.stored_bits // (8 * field.dtype.itemsize)
            self.words[name], self._taken[name] = [0] * size, [0] * size


def _transposed(tensor: Tensor) -> Tensor:
    axes = tuple(reversed(range(tensor.ndim)))
    return tensor.permute(axes).contiguous().permute(axes)


def _strided(tensor: Tensor) -> Tensor:
    return torch.stack((tensor, torch.zeros_like(tensor)), dim=-1)[..., 0]


def _offset(tensor: Tensor) -> Tensor:
    flat = tensor.flatten()
    return torch.cat((torch.zeros_like(flat[:1]), flat))[flat[:1].numel() :].reshape(tensor.shape)


def _expanded(tensor: Tensor) -> Tensor:
    return tensor[:1].expand_as(tensor)


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": _transposed,
    "strided": _strided,
    "offset": _offset,
    "expanded": _expanded,
}
"""Ways to lay a tensor out in memory; the last one can do so where all rows are alike."""


def viewed(tensors: Tensors, view: str) -> dict[str, Tensor]:
    """Lay the same values out otherwise, where the view can."""
    seen = {name: VIEWS[view](tensor) for name, tensor in tensors.items()}
    return {
        name: seen[name] if torch.equal(pattern(seen[name]), pattern(tensor)) else tensor
        for name, tensor in tensors.items()
    }


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill memory that is not written to with NaN, or the largest integers, instead of what lay there."""
    settings = cast("Any", torch.utils.deterministic)
    enabled = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warned)
        settings.fill_uninitialized_memory = filled


def _indices(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return product(*map(range, shape))


def _difference(name: str, expected: Tensor, got: Tensor) -> str:
    if expected.dtype != got.dtype or expected.shape != got.shape:
        return (
            f"{name} is {got.dtype} of shape {tuple(got.shape)}, not {expected.dtype} of shape "
            f"{tuple(expected.shape)}"
        )
    unequal = (pattern(expected) != pattern(got)).nonzero()
    if not len(unequal):
        return ""
    flat = int(unequal[0]) // expected.dtype.itemsize
    index = [int(each) for each in torch.unravel_index(torch.tensor(flat), expected.shape)]
    values = (tensor.flatten()[flat].item() for tensor in (got, expected))
    return f"{name}{index} is {next(values)}, not {next(values)}"
