"""What a codec promises about the weights that its parts stand for, and about other formats of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any, cast

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from quantcheck.codecs import CodecError
from quantcheck.codecs.affine import AffineFormat, consecutive, convert
from quantcheck.codecs.base import Codec, Field, Shape, Tensors
from quantcheck.contracts.bits import difference, same_weights
from quantcheck.contracts.codec_subjects import FEW, CodecTests, is_affine, where
from quantcheck.strategies.codecs import SEEDS, Parts, bounds, filled, packed, shapes_of, smallest

EXACT = ("ones", "powers", "whole")
"""Scales and zero points that every floating-point format holds, and whose products round nowhere."""


def ordered(codec: Codec) -> bool:
    """Whether the columns of a group may lie anywhere."""
    return "g_idx" in codec.parts(smallest(codec))


def encoding(codec: Codec) -> bool:
    """Whether a codec rounds weights to codes."""
    return hasattr(codec, "encode")


class WeightPromises(CodecTests):
    """The tests on decoded weights and conversions; see `quantcheck.contracts.CodecContract`."""

    def test_weights_are_float32_and_come_out_the_same_twice(self, codec: Codec) -> None:
        """Of the parts, and of what was packed and unpacked; NaN, Inf and subnormal scales included."""

        def promise(parts: Parts) -> None:
            tensors, shape, case = parts.build(codec), parts.shape, f"{codec.id}: {parts}"
            weights = codec.weights(tensors, shape)
            assert weights.dtype == torch.float32, f"{case} decodes to {weights.dtype}"
            expected = shape.rows, shape.cols
            assert tuple(weights.shape) == expected, f"{case} decodes to {tuple(weights.shape)}"
            unpacked = codec.unpack(codec.pack(tensors, shape), shape)
            for again in (tensors, unpacked):
                assert same_weights(weights, codec.weights(again, shape)), f"{case} decodes to two things"

        self.hold(promise, packed(codec))

    def test_a_value_reaches_the_weights_of_its_own_group_alone(self, codec: Codec) -> None:
        """A code its own weight; a scale or zero point the columns of its group in its row."""

        def promise(parts: Parts, part: str, place: int) -> None:
            tensors, shape = parts.build(codec), parts.shape
            if not tensors[part].numel():
                return
            row, other = divmod(place % tensors[part].numel(), tensors[part].shape[1])
            reached = torch.zeros(shape.rows, shape.cols, dtype=torch.bool)
            reached[row, other if part == "codes" else groups(tensors, shape) == other] = True
            field = codec.parts(shape)[part]
            changed = {**tensors, part: nudged(tensors[part], field, (row, other))}
            weights = codec.weights(tensors, shape)
            moved = codec.weights(changed, shape) != weights
            case = f"{codec.id}: {parts}: another value at {part}[{row}, {other}] changes"
            wrong = (moved & ~reached).nonzero().tolist()
            assert not wrong, f"{case} the weight at {wrong[0]}"
            assert moved.any() or not weights[reached].any(), f"{case} no weight"

        shapes = [shape for shape in shapes_of(codec) if shape.rows * shape.cols]
        drawn = packed(codec, shapes, integers=("top",), floats=("random",), kinds={"codes": ("ramp",)})
        self.hold(promise, drawn, st.sampled_from(["codes", *grouped(codec)]), st.integers(0, SEEDS))

    @where(is_affine)
    def test_affine_weights_are_rounded_once(self, codec: Codec) -> None:
        """Scale times code less zero point, in float64, is the float32 weight to the last bit."""

        def promise(parts: Parts) -> None:
            tensors, shape = parts.build(codec), parts.shape
            weights = codec.weights(tensors, shape)
            try:
                read = cast("AffineFormat", codec).to_affine(tensors, shape)
            except CodecError:
                return
            columns = read.g_idx.long()
            levels = read.codes.double() - read.zero_points.double()[:, columns]
            exact = (levels * read.scales.double()[:, columns]).float()
            wrong = difference({"the weight": exact}, {"the weight": weights})
            assert same_weights(exact, weights), f"{codec.id}: {parts}: {wrong}"

        self.hold(promise, packed(codec, floats=EXACT, kinds={"scales": (*EXACT, "extremes")}))

    @where(ordered)
    def test_columns_and_their_groups_move_together(self, codec: Codec) -> None:
        """Codes and ``g_idx`` in another order of columns stand for the weights in that order."""

        def promise(parts: Parts, seed: int) -> None:
            tensors, shape = parts.build(codec), parts.shape
            order = torch.randperm(shape.cols, generator=torch.Generator().manual_seed(seed))
            moved = {**tensors, "codes": tensors["codes"][:, order], "g_idx": tensors["g_idx"][order]}
            weights = codec.weights(codec.unpack(codec.pack(moved, shape), shape), shape)
            assert same_weights(codec.weights(tensors, shape)[:, order], weights), (
                f"{codec.id}: {parts}: columns in the order {order.tolist()} are other weights"
            )

        self.hold(promise, packed(codec, floats=EXACT), st.integers(0, SEEDS))

    @where(encoding)
    def test_weights_beyond_the_range_saturate(self, codec: Codec) -> None:
        """At both ends, Inf included; in between codes are the nearest, and the even one half-way."""
        encoded = []

        def promise(parts: Parts) -> None:
            tensors, shape = parts.build(codec), parts.shape
            for what, weights, expected in _around(codec, tensors, shape):
                try:
                    codes = cast("Any", codec).encode(weights, tensors, shape)
                except CodecError:
                    return
                wrong = difference({"the code": expected}, {"the code": codes})
                assert not wrong, f"{codec.id}: {parts}: of weights that are {what}, {wrong}"
                encoded.append(parts)

        self.hold(promise, packed(codec, floats=("ones", "zeros", "powers")))
        assert encoded, f"{codec.id}: encode refuses every example"

    @where(is_affine)
    def test_conversions_decode_to_the_same_weights(self, codec: Codec, others: tuple[Codec, ...]) -> None:
        """To every other codec, bit for bit, or they are refused with a cause."""
        for other in others:
            self._hold_conversions(codec, other)

    @where(is_affine)
    def test_some_conversion_succeeds(self, codec: Codec, others: tuple[Codec, ...]) -> None:
        """With plain scales and zero points at either end or in the middle, from or to another codec."""
        reasons = []
        for other, zero_points in product(others, ("low", "middle", "top")):
            for source, target in ((codec, other), (other, codec)):
                if not shapes_of(source, target):
                    continue
                shape = smallest(source, target)
                reason = assert_converts(source, target, filled(source, shape, zero_points, "ones"))
                if not reason:
                    return
                reasons.append(f"{source.id} to {target.id} at {shape}: {reason}")
        pytest.fail(f"{codec.id}: no conversion succeeds: {'; '.join(dict.fromkeys(reasons))}")

    def _hold_conversions(self, source: Codec, target: Codec) -> None:
        def promise(parts: Parts) -> None:
            assert_converts(source, target, parts)

        if shapes := shapes_of(source, target):
            self.hold(promise, packed(source, shapes, orders=("order", "random")), cost=FEW)


def grouped(codec: Codec) -> list[str]:
    """Name the parts that hold one value for each group of each row."""
    return [
        name
        for name in codec.parts(smallest(codec))
        if name != "codes"
        and all(codec.parts(shape)[name].shape == (shape.rows, shape.groups) for shape in shapes_of(codec))
    ]


def groups(tensors: Tensors, shape: Shape) -> Tensor:
    """Return the group of each column."""
    return tensors["g_idx"] if "g_idx" in tensors else consecutive(shape)


def nudged(tensor: Tensor, field: Field, index: tuple[int, ...]) -> Tensor:
    """Return a copy with another value at one place: the other end of its range, or one more."""
    changed = tensor.clone()
    if field.dtype.is_floating_point:
        changed[index] = (tensor[index].float() + 1).to(field.dtype)
    else:
        low, high = bounds(field)
        changed[index] = high if int(tensor[index]) == low else low
    return changed


def assert_converts(source: Codec, target: Codec, parts: Parts) -> str:
    """Fail where a conversion changes weights; return why it was refused, or nothing."""
    tensors, case = parts.build(source), f"{source.id} to {target.id}: {parts}"
    stored = source.pack(tensors, parts.shape)
    try:
        converted = convert(stored, source, target, parts.shape)
    except CodecError as error:
        assert str(error), f"{case} is refused without a cause"
        return str(error)
    weights = source.weights(tensors, parts.shape)
    decoded = target.weights(target.unpack(converted, parts.shape), parts.shape)
    wrong = difference({"the weight": weights}, {"the weight": decoded})
    assert same_weights(weights, decoded), f"{case} decodes to other weights: {wrong}"
    return ""


def _around(codec: Codec, tensors: Tensors, shape: Shape) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield weights in and beyond the range of their scales: what they are, and the codes they round to."""
    low, high = bounds(codec.parts(shape)["codes"])
    codes = tensors["codes"].clamp(max=high - 1)
    least, most = (torch.full_like(codes, code) for code in (low, high))
    first, last, weights = (codec.weights({**tensors, "codes": each}, shape) for each in (least, most, codes))
    step = (last - first) / (high - low)
    if not bool(step.all()):
        return  # A scale of 0 tells no codes apart.
    yield "Inf", torch.full_like(last, math.inf), most
    yield "-Inf", torch.full_like(last, -math.inf), least
    yield "one step above the range", last + step, most
    yield "one step below the range", first - step, least
    yield "what the codes stand for", weights, codes
    yield "a quarter of a step above it", weights + step / 4, codes
    yield "half a step above it", weights + step / 2, codes + codes % 2
