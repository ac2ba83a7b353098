"""What the contract of codecs stands on: its recipes, the expected words, views, poison, whom it asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch

from quantcheck.codecs.base import Codec, Field, Place, Shape
from quantcheck.codecs.bitstream import Bitstream
from quantcheck.codecs.gptq import Gptq, v1, v2
from quantcheck.codecs.hqq import Hqq
from quantcheck.contracts import CodecContract
from quantcheck.contracts.bits import VIEWS, Layout, difference, poisoned, same_weights, viewed, words
from quantcheck.strategies.codecs import FLOATS, INTEGERS, ORDERS, Fill, Parts, bounds, shapes_of, smallest


class TestMine(CodecContract):
    """The contract as an author writes it."""

    codecs = (v1(4), v2(3), Bitstream(5))
    examples = 4


class TestChosen(CodecContract):
    """The contract of what a run chooses: whom a promise is not about is not asked."""

    @classmethod
    def source(cls, config: pytest.Config) -> Sequence[Codec]:
        return (Bitstream(1),)

    test_conversions_decode_to_the_same_weights = None  # type: ignore[assignment]
    examples = 2


@pytest.mark.parametrize("codec", [v1(3), Bitstream(8), Hqq(2)], ids=lambda codec: codec.id)
def test_shapes_are_held_and_start_with_the_simplest(codec: Codec) -> None:
    shapes = shapes_of(codec)
    assert all(codec.refusal(shape) is None for shape in shapes)
    assert {shape.rows for shape in shapes} >= {0, codec.rows_multiple}
    assert {shape.cols for shape in shapes} >= {0, codec.cols_multiple}
    sizes = [shape.rows * shape.cols for shape in shapes]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 1000


def test_shapes_of_two_codecs_are_held_by_both() -> None:
    both = shapes_of(v1(3), Hqq(4))
    assert both
    assert all(v1(3).refusal(shape) is None and Hqq(4).refusal(shape) is None for shape in both)


def test_tails_odd_sizes_and_groups_of_one_are_among_the_shapes() -> None:
    shapes = shapes_of(Bitstream(3))
    assert any(shape.group_size and shape.cols % shape.group_size for shape in shapes)
    assert {shape.cols % 8 for shape in shapes} == set(range(8)) - {4, 6}
    assert {shape.group_size for shape in shapes} >= {None, 1}


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("field", [Field(torch.uint8, (3, 5), high=6), Field(torch.int8, (2, 0), -8, 7)])
def test_every_kind_of_integers_lies_in_its_range(kind: str, field: Field) -> None:
    tensor = Fill("codes", kind, 5).build(field, v1(3), Shape(3, 5))
    assert (tensor.dtype, tuple(tensor.shape)) == (field.dtype, field.shape)
    assert all(field.low <= value <= bounds(field)[1] for value in tensor.flatten().tolist())


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn])
def test_every_kind_of_floats_has_its_dtype(kind: str, dtype: torch.dtype) -> None:
    tensor = Fill("scales", kind, 5).build(Field(dtype, (3, 5)), v1(3), Shape(3, 5))
    assert (tensor.dtype, tuple(tensor.shape)) == (dtype, (3, 5))


@pytest.mark.parametrize("kind", ORDERS)
def test_every_order_names_groups_that_are_there(kind: str) -> None:
    shape = Shape(8, 24, 16)
    tensor = Fill("g_idx", kind, 5).build(v1(4).parts(shape)["g_idx"], v1(4), shape)
    assert set(tensor.tolist()) <= {0, 1}


def test_a_recipe_prints_as_what_makes_it_again() -> None:
    recipe = Parts(Shape(8, 8, None), (Fill("codes", "one", 9), Fill("scales", "ones")))
    assert eval(repr(recipe)) == recipe
    assert recipe.build(v1(4))["codes"].nonzero().tolist() == [[1, 1]]


@dataclass(frozen=True)
class Misplaced(Gptq):
    """GPTQ whose definition, not its packer, has a mistake in the place of each code."""

    at: tuple[Place, ...] = ()

    def place(self, part: str, shape: Shape, index: tuple[int, ...]) -> tuple[Place, ...]:
        return self.at if part == "codes" else ()


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ((Place("qweight", 0, 0, 4),), "shares bits with another value"),
        ((Place("qweight", 8, 0, 4),), "lies in word 8 of 8"),
        ((Place("qweight", 0, 30, 4),), "lies beyond its word"),
        ((Place("weight", 0, 0, 4),), "lies in weight, which is not stored"),
        ((Place("qweight", 0, 0, 3),), "its places hold 3 bits"),
    ],
)
def test_places_that_cannot_be_are_told(places: tuple[Place, ...], message: str) -> None:
    codec = Misplaced(2, 4, places)
    shape = smallest(codec)
    codes = torch.full((shape.rows, shape.cols), 15, dtype=torch.uint8)
    with pytest.raises(AssertionError, match=message):
        Layout(codec, {"codes": codes}, shape)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.float16])
def test_words_have_no_sign(dtype: torch.dtype) -> None:
    ones = torch.full((8,), 0xFF, dtype=torch.uint8).view(dtype)
    assert set(words(ones)) == {(1 << 8 * dtype.itemsize) - 1}


@pytest.mark.parametrize("view", VIEWS)
def test_views_hold_the_same_values(view: str) -> None:
    tensors = {
        "matrix": torch.ones(4, 6),
        "row": torch.arange(5),
        "one": torch.ones(1),
        "none": torch.ones(0, 3),
    }
    assert not difference(tensors, viewed(tensors, view))
    assert viewed(tensors, view)["matrix"].stride() != (6, 1) or view == "offset"
    assert viewed(tensors, "offset")["matrix"].storage_offset() == 1


def test_bits_are_compared_and_not_values() -> None:
    zero, minus = torch.tensor([1.0, 0.0]), torch.tensor([1.0, -0.0])
    assert difference({"w": zero}, {"w": minus}) == "w[1] is -0.0, not 0.0"
    assert difference({"w": zero}, {}) == "there are none, not w"
    assert difference({"w": zero}, {"w": zero.half()}).startswith("w is torch.float16 of shape (2,), not")
    assert not same_weights(zero, minus)
    quiet, loud = (
        torch.tensor([bits], dtype=torch.int32).view(torch.float32) for bits in (0x7FC00000, 0x7FC00001)
    )
    assert same_weights(quiet, loud)
    assert difference({"w": quiet}, {"w": loud})


def test_poison_is_in_new_memory_and_gone_afterwards() -> None:
    before = torch.are_deterministic_algorithms_enabled()
    with poisoned():
        assert torch.empty(3).isnan().all()
        assert (torch.empty(3, dtype=torch.uint8) == 255).all()
    assert torch.are_deterministic_algorithms_enabled() == before
