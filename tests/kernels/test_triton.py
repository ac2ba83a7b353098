"""Triton's kernels at the edges of their tiles, on the GPU, or in Triton's interpreter.

``TRITON_INTERPRET=1`` must be set before Triton is imported, so without a GPU `test_triton_interpreted` runs
this module in a process of its own.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from quantcheck.kernels import INTERPRETED
from quantcheck.strategies.operands import CodebookRecipe, GroupedRecipe, PlanesRecipe, Product, WeightRecipe
from tests.kernels.products import decoded, wrong

pytest.importorskip("triton", reason="triton is not installed (it comes with CUDA builds of torch)")
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("no GPU; test_triton_interpreted runs these in the interpreter", allow_module_level=True)

DEVICE = "cpu" if INTERPRETED else "cuda"
GROUPED = GroupedRecipe(5, 37, 4, 8, zero_points="random")
PLANES = PlanesRecipe(5, 37, 3, 8, offsets=True, masks="random")
FAMILIES: dict[str, tuple[WeightRecipe, int | None]] = {
    "triton_grouped": (GROUPED, None),
    "triton_codebook": (CodebookRecipe(5, 37, 16), None),
    "triton_planes": (PLANES, None),
    "triton_integer": (GROUPED, 8),
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (17, 3, 5), (2, 65, 33), (65, 2, 64), (3, 64, 65), (0, 3, 3), (3, 0, 3), (3, 3, 0)]
)
def test_tails_in_every_dimension(name: str, shape: tuple[int, int, int]) -> None:
    tokens, rows, cols = shape
    recipe, act_bits = FAMILIES[name]
    weight = replace(recipe, out_features=rows, in_features=cols)
    assert wrong(name, Product(weight, tokens, act_bits=act_bits), DEVICE) == []


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("zero_points", ["none", "low", "top", "random"])
def test_grouped_codes_of_every_width(bits: int, zero_points: str) -> None:
    recipe = GroupedRecipe(3, 70, bits, 16, zero_points=zero_points, shuffled=bits % 2 == 0)
    assert wrong("triton_grouped", Product(recipe, 2), DEVICE) == []
    one_hot = Product(recipe, 70, "one-hot")
    assert wrong("triton_grouped", one_hot, DEVICE) == []


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("act_bits", [4, 6, 8])
@pytest.mark.parametrize("zero_points", ["none", "low", "top"])
def test_integer_products_of_every_width(bits: int, act_bits: int, zero_points: str) -> None:
    recipe = GroupedRecipe(3, 70, bits, None, codes="top", zero_points=zero_points)
    assert wrong("triton_integer", Product(recipe, 2, act_bits=act_bits), DEVICE) == []


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("offsets", [True, False])
@pytest.mark.parametrize("masks", ["none", "disjoint", "random"])
def test_planes_of_every_kind(signed: bool, offsets: bool, masks: str) -> None:
    recipe = PlanesRecipe(3, 37, 2, 8, signed=signed, offsets=offsets, masks=masks, shuffled=offsets)
    assert wrong("triton_planes", Product(recipe, 2), DEVICE) == []


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_inputs(name: str, dtype: str) -> None:
    recipe, act_bits = FAMILIES[name]
    assert wrong(name, Product(recipe, 3, dtype=dtype, act_bits=act_bits), DEVICE) == []


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("spoilt", [float("nan"), float("inf")])
def test_nan_and_inf_stay_in_their_row(name: str, spoilt: float) -> None:
    recipe, act_bits = FAMILIES[name]
    assert wrong(name, Product(recipe, 3, act_bits=act_bits, spoilt=spoilt, seed=1), DEVICE) == []


@pytest.mark.parametrize("block_size", [1, 16, 64, 100])
def test_blocks_of_a_codebook_cross_rows(block_size: int) -> None:
    assert wrong("triton_codebook", Product(CodebookRecipe(3, 37, block_size), 2), DEVICE) == []


@pytest.mark.skipif(DEVICE != "cpu", reason="operands of recipes lie on the CPU")
@pytest.mark.parametrize("name", FAMILIES)
def test_decoded_weights_are_those_of_the_reference(name: str) -> None:
    operand = FAMILIES[name][0].operand()
    assert torch.equal(decoded(name, operand), decoded(name.replace("triton", "reference"), operand))


def test_runs_hold_every_column_once_and_one_group_each() -> None:
    from quantcheck.kernels.triton_launch import LONGEST_RUN, Runs

    g_idx = torch.tensor([0] * 70 + [2] * 3 + [1] * 64, dtype=torch.int32)
    runs = Runs.of(g_idx)
    read = [(place, group) for start, stop, group in runs.table.tolist() for place in range(start, stop)]
    assert [place for place, _ in read] == list(range(137))
    assert [int(g_idx[runs.columns[place]]) for place, _ in read] == [group for _, group in read]
    assert sorted(runs.columns.tolist()) == list(range(137))
    assert all(stop - start <= LONGEST_RUN == runs.width for start, stop, _ in runs.table.tolist())
