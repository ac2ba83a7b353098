"""The fast kernels for the CPU: strips at their edges, lanes, look-ups, and int32 sums that hold."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quantcheck.kernels import build, cpu, cpu_integer
from quantcheck.kernels.cpu import CodebookLayout, Lanes
from quantcheck.kernels.cpu_integer import exact_product, longest_run
from quantcheck.kernels.order import Order
from quantcheck.strategies.operands import CodebookRecipe, GroupedRecipe, PlanesRecipe, Product, WeightRecipe
from tests.kernels.products import decoded, wrong

WEIGHTS: dict[str, WeightRecipe] = {
    "cpu_grouped": GroupedRecipe(13, 37, 3, 8, zero_points="random", shuffled=True),
    "cpu_codebook": CodebookRecipe(13, 37, 16),
    "cpu_planes": PlanesRecipe(13, 37, 3, 8, offsets=True, masks="random", shuffled=True),
}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("strip", [1, 37, 74, 13 * 37 - 1, 13 * 37, 1 << 18])
def test_strips_of_any_height_make_the_same_weight(
    name: str, strip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "STRIP", strip)
    recipe = WEIGHTS[name]
    assert torch.equal(decoded(name, recipe.operand()), decoded(f"reference_{name[4:]}", recipe.operand()))
    for tokens in (1, 5):
        assert wrong(name, Product(recipe, tokens)) == []


@pytest.mark.parametrize("name", WEIGHTS)
def test_gradients_of_strips_add_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "STRIP", 100)
    kernel = build(name)
    x = torch.randn(3, 37, requires_grad=True, generator=torch.Generator().manual_seed(0))
    outer = torch.randn(3, 13, generator=torch.Generator().manual_seed(1))
    kernel.matmul(x, kernel.prepare(WEIGHTS[name].operand(), x.dtype)).backward(outer)
    expected = outer.double() @ WEIGHTS[name].terms().sum(0)
    magnitude = outer.double().abs() @ WEIGHTS[name].terms().abs().sum(0)
    assert x.grad is not None
    # 13 products and at most 6 addends a weight: fewer than 24 roundings.
    assert ((x.grad.double() - expected).abs() <= 24 * 2.0**-24 * magnitude).all()


@given(st.integers(1, 8), st.integers(0, 3), st.integers(0, 40), st.integers(0, 9))
def test_lanes_hold_rows_of_any_length(bits: int, rows: int, cols: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 1 << bits, (rows, cols), generator=generator, dtype=torch.uint8)
    lanes = Lanes.of(codes, bits)
    assert lanes.width == {1: 1, 2: 2, 3: 4, 4: 4}.get(bits, 8)
    assert lanes.bytes.shape == (rows, -(-cols // (8 // lanes.width)))
    assert torch.equal(lanes.read(slice(0, rows)), codes.float())


def test_lanes_lie_as_drawn() -> None:
    assert Lanes.of(torch.tensor([[1, 2, 3]], dtype=torch.uint8), 4).bytes.tolist() == [[0x31, 0x02]]


def test_each_byte_is_looked_up_to_its_two_levels() -> None:
    weight = CodebookRecipe(4, 4, levels="random").operand()
    pairs = CodebookLayout.of(weight).pairs
    assert all(pairs[byte].tolist() == weight.levels[[byte % 16, byte // 16]].tolist() for byte in range(256))


def test_columns_are_spread_by_their_groups() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0]])
    for g_idx in ([0, 0, 1, 1, 2], [2, 0, 1, 0, 1], [1, 1, 1, 1], [0, 2, 2, 2], []):
        groups = torch.tensor(g_idx, dtype=torch.int32)
        order = Order.of(groups)
        assert torch.equal(order.restore(order.spread(values)), values[:, groups.long()])
        assert torch.equal(order.restore(order.sort(groups)), groups)
        runs = [(start, stop, group) for start, stop, group in order.runs(2)]
        assert [group for start, stop, group in runs for _ in range(start, stop)] == sorted(g_idx)
        assert all(0 < stop - start <= 2 for start, stop, _ in runs)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_int32_holds_the_largest_sum_of_the_longest_run(bits: int) -> None:
    longest, top = longest_run(bits), (1 << bits) - 1
    assert 127 * top * longest < 1 << 31
    steps = torch.full((1, longest), 127, dtype=torch.int8)
    codes = torch.full((1, longest), -(1 << (bits - 1)), dtype=torch.int8)
    assert exact_product(steps, codes).tolist() == [[-127 * (1 << (bits - 1)) * longest]]


def test_sums_beyond_int32_are_cut_into_runs() -> None:
    """About twice what int32 holds: codes and inputs at the top, a zero point of 0, all of one sign."""
    columns = 2 * longest_run(8) + 5
    recipe = GroupedRecipe(1, columns, 8, codes="top", zero_points="low", scales="ones")
    assert 127 * 255 * columns > 1 << 31
    assert wrong("cpu_integer", Product(recipe, 1, "ones", act_bits=8)) == []
    kernel = build("cpu_integer")
    assert len(kernel.prepare(recipe.operand(), torch.float32).layout.runs) == 3


@pytest.mark.parametrize("tokens", [1, 2, 17])
@pytest.mark.parametrize("columns", [1, 2, 3, 31, 64, 129])
def test_int8_products_are_exact_at_every_size(tokens: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(columns)
    steps = torch.randint(-127, 128, (tokens, columns), generator=generator, dtype=torch.int8)
    codes = torch.randint(-128, 128, (5, columns), generator=generator, dtype=torch.int8)
    assert torch.equal(exact_product(steps, codes).long(), steps.long() @ codes.long().T)


def test_where_int8_saturates_float64_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturating(steps: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return (steps.long() @ codes.long()).clamp(-(1 << 15), (1 << 15) - 1).int()

    recipe = GroupedRecipe(7, 65, 8, 32, zero_points="random", shuffled=True)
    monkeypatch.setattr(torch, "_int_mm", saturating)
    cpu_integer._int8_is_exact.cache_clear()
    try:
        assert not cpu_integer._int8_is_exact()
        assert wrong("cpu_integer", Product(recipe, 3, act_bits=8)) == []
    finally:
        cpu_integer._int8_is_exact.cache_clear()
