"""The contract itself: what its bounds allow, and that its recipes are what their operands hold."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quantcheck.contracts import KernelContract
from quantcheck.contracts.bounds import Expected, dequantized, gamma, multiplied, rounded
from quantcheck.contracts.kernel_subjects import subjects
from quantcheck.kernels import KernelCapabilities
from quantcheck.strategies.kernels import plain_weight, products, weights
from quantcheck.strategies.operands import (
    CodebookRecipe,
    GroupedRecipe,
    PlanesRecipe,
    Product,
    WeightRecipe,
)

FLOAT32, FLOAT16 = torch.float32, torch.float16
GROUPED = KernelCapabilities("grouped", bits=(3,), dtypes=("float32", "float16", "bfloat16"))
PLANES, CODEBOOK = KernelCapabilities("planes", bits=(1,)), KernelCapabilities("codebook", bits=(4,))


class TestReference(KernelContract):
    """One kernel of each family; the suite asks all of them."""

    kernels = ("reference_codebook", "reference_planes")
    examples = 4


def bit(stream: Tensor, index: int) -> int:
    """A bit of a dense bitstream, least significant first."""
    return int(stream[index // 8]) >> index % 8 & 1


def code(stream: Tensor, index: int, bits: int) -> int:
    return sum(bit(stream, index * bits + b) << b for b in range(bits))


def decoded(recipe: WeightRecipe, row: int, column: int) -> float:
    """One weight, read from the operand's bytes by its definition, in Python's floats."""
    operand: Any = recipe.operand()
    if isinstance(recipe, CodebookRecipe):
        flat = row * recipe.in_features + column
        level = operand.levels[code(operand.qweight, flat, 4)]
        return float(level) * float(operand.absmax[flat // recipe.block_size])
    group = int(operand.g_idx[column])
    if isinstance(recipe, GroupedRecipe):
        zeros = operand.zero_points
        zero = 2 ** (recipe.bits - 1) if zeros is None else int(zeros[row, group])
        scale = float(operand.scales[row, group])
        return scale * (code(operand.qweight[row], column, recipe.bits) - zero)
    total = 0.0
    for plane in range(recipe.planes):
        if operand.masks is not None and not bit(operand.masks[plane, row], column):
            continue
        value = bit(operand.planes[plane, row], column)
        total += float(operand.scales[plane, row, group]) * (2 * value - 1 if recipe.signed else value)
        total += 0.0 if operand.offsets is None else float(operand.offsets[plane, row, group])
    return total


@settings(max_examples=60)
@given(data=st.data())
def test_recipes_say_what_their_operands_hold(data: st.DataObject) -> None:
    can = data.draw(st.sampled_from([GROUPED, PLANES, CODEBOOK]))
    recipe = data.draw(weights(can, can.bits[0], least=1, most=40))
    row = data.draw(st.integers(0, recipe.out_features - 1))
    column = data.draw(st.integers(0, recipe.in_features - 1))

    expected = float(recipe.terms().sum(0)[row, column])

    assert decoded(recipe, row, column) == pytest.approx(expected, rel=1e-14, abs=1e-300)


@given(product=products(GROUPED, 3))
@settings(max_examples=25)
def test_a_recipe_that_is_pasted_makes_the_same_tensors(product: Product) -> None:
    pasted = eval(repr(product))
    assert pasted == product
    assert torch.equal(pasted.x(), product.x())
    assert torch.equal(pasted.weight.operand().qweight, product.weight.operand().qweight)


@pytest.mark.parametrize("recipe", [GroupedRecipe(3, 21, group_size=5), PlanesRecipe(3, 21, group_size=5)])
def test_columns_in_another_order_are_the_same_columns(recipe: GroupedRecipe | PlanesRecipe) -> None:
    shuffled = replace(recipe, shuffled=True)
    order = shuffled.g_idx().argsort(stable=True)
    assert shuffled.g_idx().tolist() != sorted(shuffled.g_idx().tolist())
    assert shuffled.operand(order).g_idx.tolist() == recipe.g_idx().tolist()


def test_gamma_is_highams_and_says_nothing_from_nu_of_one_on() -> None:
    u = 2.0**-11
    assert float(gamma(3, u)) == 3 * u / (1 - 3 * u)
    assert float(gamma(2048, u)) == math.inf


def slips(expected: Expected, by: float) -> str:
    """What is said of the first element, off by so much, in float64."""
    wide = replace(expected, dtype=torch.float64)
    got = expected.values.clone()
    got.view(-1)[0] += by
    return wide.wrong(got)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_weight_may_be_off_by_two_roundings_and_no_more(dtype: str) -> None:
    expected = dequantized(GroupedRecipe(1, 1, scales="ones"), getattr(torch, dtype))
    u = torch.finfo(getattr(torch, dtype)).eps / 2
    allowed = float(expected.values.abs()) * (2.0**-24 + (u if u > 2.0**-24 else 0))
    assert slips(expected, allowed * 0.999) == ""
    assert "(1 of 1 are wrong)" in slips(expected, allowed * 1.01)


def test_a_product_may_be_off_by_a_rounding_an_addend_and_no_more() -> None:
    product = Product(GroupedRecipe(1, 64, scales="ones", codes="top"), tokens=1, inputs="ones")
    expected = multiplied(product, FLOAT32)
    assert float(expected.values) == 64 * 7
    # 64 + 1 roundings of the sum, one of the weight, one of the result.
    allowed = 67 * 2.0**-24 * 64 * 7
    assert slips(expected, allowed) == ""
    assert slips(expected, allowed * 1.001) != ""


def test_inputs_that_are_zero_round_nothing() -> None:
    product = Product(GroupedRecipe(1, 64, scales="ones", codes="top"), tokens=1, inputs="one-hot")
    assert slips(multiplied(product, FLOAT32), 5 * 2.0**-24 * 7) != ""


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_plain_arithmetic_in_any_order_stays_within_the_bound(dtype: str) -> None:
    for seed in range(20):
        weight = GroupedRecipe(7, 129, group_size=16, zero_points="random", seed=seed)
        product = Product(weight, tokens=5, dtype=dtype, seed=seed)
        x, matrix = product.x().float(), weight.terms().sum(0).float()
        order = torch.randperm(129, generator=torch.Generator().manual_seed(seed))
        total = torch.zeros(5, 7)
        for column in order:
            total = total + x[:, column, None] * matrix[:, column]
        assert multiplied(product, FLOAT32).wrong(total.to(getattr(torch, dtype))) == ""


def test_sums_in_float16_do_not_stay_within_the_bound_of_float32() -> None:
    weight = GroupedRecipe(7, 129, group_size=16)
    product = Product(weight, tokens=5)
    total = torch.zeros(5, 7, dtype=FLOAT16)
    for column in range(129):
        total = total + (product.x()[:, column, None] * weight.terms().sum(0)[:, column]).half()
    assert "are wrong" in multiplied(product, FLOAT32).wrong(total.float())


def test_a_step_more_is_allowed_at_a_tie_alone() -> None:
    x = torch.tensor([[127.0, 0.5, 0.5 + 1e-3, 0.0]], dtype=torch.float64)
    values, steps = rounded(x, 8)
    assert values.tolist() == [[127, 0, 1, 0]]
    assert steps.tolist() == [[0, 1, 0, 0]]


def test_tokens_have_a_floor_under_their_peak() -> None:
    x = torch.tensor([[0.0, 0.0], [6e-6, -1e-6]], dtype=torch.float64)
    values, _ = rounded(x, 8)
    assert values[0].tolist() == [0, 0]
    assert values[1].tolist() == pytest.approx([76e-5 / 127, -13e-5 / 127])


@pytest.mark.parametrize(
    ("value", "bound", "got", "right"),
    [
        (65000.0, 600.0, math.inf, True),
        (65000.0, 600.0, -math.inf, False),
        (65000.0, 400.0, math.inf, False),
        (math.nan, math.nan, math.inf, True),
        (math.nan, math.nan, 0.0, False),
        (1.0, 0.5, math.nan, False),
    ],
)
def test_inf_is_right_where_it_is_within_reach(value: float, bound: float, got: float, right: bool) -> None:
    expected = Expected(*(torch.tensor([[each]], dtype=torch.float64) for each in (value, bound)), FLOAT16)
    assert (expected.wrong(torch.tensor([[got]], dtype=FLOAT16)) == "") is right


def test_another_dtype_or_shape_is_wrong() -> None:
    expected = dequantized(GroupedRecipe(2, 3), FLOAT32)
    assert "is torch.float16 (2, 3), expected torch.float32 (2, 3)" in expected.wrong(
        torch.zeros(2, 3).half()
    )
    assert "is torch.float32 (3, 2), expected torch.float32 (2, 3)" in expected.wrong(torch.zeros(3, 2))


@given(data=st.data())
@settings(max_examples=40)
def test_only_what_a_kernel_takes_is_drawn(data: st.DataObject) -> None:
    can = KernelCapabilities(
        "grouped",
        bits=(4,),
        zero_points=False,
        g_idx=False,
        dtypes=("bfloat16",),
        accumulates="bfloat16",
        group_sizes=(32, 64),
        in_multiple=32,
        out_multiple=8,
    )
    product = data.draw(products(can, 4))
    recipe = product.weight
    assert isinstance(recipe, GroupedRecipe)
    assert (recipe.zero_points, recipe.shuffled, product.dtype) == ("none", False, "bfloat16")
    assert recipe.group_size in (32, 64)
    assert recipe.in_features % 32 == recipe.out_features % 8 == 0
    assert recipe.in_features <= 126, "n u must stay below a half"


def test_a_kernel_is_asked_at_each_width_and_its_ids_say_which() -> None:
    ids = [subject.id for subject in subjects(["reference_integer", "reference_codebook"])]
    assert ids[0] == "reference_integer-w4a4"
    assert ids[-1] == "reference_codebook-w4"
    assert len(set(ids)) == len(ids) == 10


def test_a_kernel_whose_device_is_not_here_is_skipped_and_says_so(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from dataclasses import replace
        from quantcheck.contracts import KernelContract
        from quantcheck.kernels.reference import CodebookReference

        class Elsewhere(CodebookReference):
            capabilities = replace(
                CodebookReference.capabilities, devices=("mars",), requires=("unheard_of",)
            )

        class TestElsewhere(KernelContract):
            kernels = (Elsewhere(),)
        """
    )
    result = pytester.runpytest("-p", "no:quantcheck", "-p", "no:cacheprovider", "-rs")
    outcomes = result.parseoutcomes()
    assert set(outcomes) == {"skipped", "warnings"} or set(outcomes) == {"skipped"}
    result.stdout.fnmatch_lines(["*reference_codebook needs mars and unheard_of, which is not here*"])


def test_the_plainest_weight_fits_what_a_kernel_asks_for() -> None:
    assert plain_weight(replace(GROUPED, in_multiple=64, out_multiple=8), 3) == GroupedRecipe(16, 128, 3)
