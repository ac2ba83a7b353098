"""The reference kernels mean what the families' definitions say, number by number."""

from __future__ import annotations

import math

import pytest
import torch

from quantcheck.codecs import bitstream
from quantcheck.kernels import KERNELS, KernelError, build
from quantcheck.kernels.base import Codebook, Grouped, Planes
from quantcheck.kernels.tokens import round_tokens
from quantcheck.strategies.operands import CodebookRecipe, GroupedRecipe, PlanesRecipe, Product
from tests.kernels.products import decoded, wrong

CODES = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]], dtype=torch.uint8)
G_IDX = torch.tensor([1, 0, 1, 0], dtype=torch.int32)
SCALES = torch.tensor([[0.5, 2.0], [1.0, 4.0]])


def test_grouped_weights_are_scale_times_code_minus_zero_point() -> None:
    zeros = torch.tensor([[1, 2], [3, 0]], dtype=torch.uint8)
    weight = Grouped(2, 4, bitstream.pack(CODES, 2), SCALES, zeros, G_IDX)
    assert decoded("reference_grouped", weight).tolist() == [[-4.0, 0.0, 0.0, 1.0], [12.0, -1.0, 4.0, -3.0]]
    plain = Grouped(2, 4, bitstream.pack(CODES, 2), SCALES, None, G_IDX)
    assert decoded("reference_grouped", plain).tolist() == [[-4.0, -0.5, 0.0, 0.5], [4.0, 0.0, -4.0, -2.0]]


def test_blocks_of_a_codebook_run_across_rows() -> None:
    codes = torch.tensor([[0, 15, 1, 2, 0, 15]], dtype=torch.uint8)
    levels = torch.arange(16.0) - 8
    weight = Codebook((2, 3), bitstream.pack(codes, 4)[0], levels, torch.tensor([1.0, 10.0]), 4)
    assert decoded("reference_codebook", weight).tolist() == [[-8.0, 7.0, -7.0], [-6.0, -80.0, 70.0]]


def test_planes_add_up_where_their_masks_are_set() -> None:
    planes = bitstream.pack(torch.tensor([[1, 0, 1], [0, 0, 1]], dtype=torch.uint8), 1)[:, None]
    masks = bitstream.pack(torch.tensor([[1, 1, 0], [1, 0, 1]], dtype=torch.uint8), 1)[:, None]
    scales, offsets = torch.tensor([[[2.0]], [[0.5]]]), torch.tensor([[[1.0]], [[8.0]]])
    g_idx = torch.zeros(3, dtype=torch.int32)
    signed = Planes(3, planes, scales, offsets, masks, g_idx, signed=True)
    assert decoded("reference_planes", signed).tolist() == [[1 + 2 + 8 - 0.5, 1 - 2, 8 + 0.5]]
    unsigned = Planes(3, planes, scales, None, None, g_idx, signed=False)
    assert decoded("reference_planes", unsigned).tolist() == [[2.0, 0.0, 2.5]]


def test_tokens_are_rounded_half_to_even_on_their_own_grids() -> None:
    steps, scales = round_tokens(torch.tensor([[7.0, 2.5, -3.5, 0.0], [0.0, 0.0, 0.0, 0.0]]), 4)
    assert steps.tolist() == [[7, 2, -4, 0], [0, 0, 0, 0]]
    assert scales.tolist() == [[1.0], [pytest.approx(1e-5 / 7)]]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_token_that_is_not_finite_has_no_steps_and_a_scale_that_shows_it(bad: float) -> None:
    steps, scales = round_tokens(torch.tensor([[1.0, bad], [1.0, 2.0]]), 8)
    assert steps[0].tolist() == [0, 0]
    assert (scales[0] * 0).isnan().all()
    assert scales[1].isfinite().all()


@pytest.mark.parametrize(
    ("name", "product"),
    [
        ("reference_grouped", Product(GroupedRecipe(5, 37, 3, 8, zero_points="random", shuffled=True), 3)),
        ("reference_codebook", Product(CodebookRecipe(5, 37), 3)),
        ("reference_planes", Product(PlanesRecipe(5, 37, 4, 8, offsets=True, masks="disjoint"), 3)),
        ("reference_integer", Product(GroupedRecipe(5, 37, 6, 8, zero_points="random"), 3, act_bits=6)),
    ],
)
def test_each_is_within_its_bound(name: str, product: Product) -> None:
    assert wrong(name, product) == []


def test_gradients_reach_the_inputs_and_not_those_of_rounded_ones() -> None:
    weight = GroupedRecipe(3, 4).operand()
    x = torch.ones(2, 4, requires_grad=True)
    grouped, integer = build("reference_grouped"), build("reference_integer")
    grouped.matmul(x, grouped.prepare(weight, x.dtype)).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, decoded("reference_grouped", weight).sum(0).expand(2, 4))
    assert not integer.matmul(x, integer.prepare(weight, x.dtype), act_bits=8).requires_grad


def test_every_name_is_built_or_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KERNELS.names():
        if not KERNELS.entry(name).capabilities.requires:
            assert build(name).capabilities is KERNELS.entry(name).capabilities
    monkeypatch.setattr("quantcheck.kernels.find_spec", lambda module: None)
    with pytest.raises(KernelError, match="triton_grouped requires triton, which is not installed"):
        build("triton_grouped")
