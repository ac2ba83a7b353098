"""ICQ finds, block by block, the shift whose codes carry most information."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.making import artifact_of
from quantcheck.codecs.normal_float import BLOCK_SIZE, encode
from quantcheck.methods.packed.normal_float import NormalFloatWeight
from quantcheck.methods.parts.icq import SEARCH_WIDTH, best_shifts

SIGMA = 0.5411  # 1 / Phi^-1(.9677083)


def entropy(codes: Tensor) -> float:
    shares = torch.bincount(codes.flatten().long(), minlength=16) / codes.numel()
    return -torch.xlogy(shares, shares).sum().item() / math.log(2)


def mean_entropy(packed: NormalFloatWeight) -> float:
    blocks = packed.codes().split(BLOCK_SIZE)
    return sum(map(entropy, blocks)) / len(blocks)


def codes_at(block: Tensor, shift: float | Tensor) -> Tensor:
    shifted = block[None] - shift
    return encode(shifted, shifted.abs().amax(dim=1), "nf4")


@given(seed=st.integers(0, 2**16), steps=st.integers(0, 12), tail=st.integers(1, 64))
@settings(max_examples=30)
def test_no_candidate_has_more_entropy_than_the_one_found(seed: int, steps: int, tail: int) -> None:
    weight = torch.randn(1, 2 * BLOCK_SIZE + tail, generator=torch.Generator().manual_seed(seed))
    found = best_shifts(weight, steps=steps)
    for block, shift in zip(weight[0].split(BLOCK_SIZE), found, strict=True):
        median = block.sort().values[(len(block) - 1) // 2]
        reach = (block - median).abs().max()
        factors = torch.linspace(-SEARCH_WIDTH * SIGMA, SEARCH_WIDTH * SIGMA, 2 * steps + 1)
        best = max(entropy(codes_at(block, median + factor * reach)) for factor in factors)
        assert entropy(codes_at(block, shift)) >= best - 0.04  # a float's rounding moves one weight's code
        assert abs(shift - median) <= 1.001 * SEARCH_WIDTH * SIGMA * reach


@given(seed=st.integers(0, 2**16))
@settings(max_examples=20)
def test_codes_carry_more_information_than_those_of_nf4(seed: int) -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(seed)) + 0.1
    plain = NormalFloatWeight.quantize(weight, double_quant=False)
    shifted = NormalFloatWeight.quantize(weight, double_quant=False, shifts=best_shifts(weight, steps=20))
    assert mean_entropy(shifted) > mean_entropy(plain)


@given(exponent=st.integers(-20, 20))
@settings(max_examples=10)
def test_the_search_is_equivariant_to_powers_of_two(exponent: int) -> None:
    weight = torch.randn(8, 100, generator=torch.Generator().manual_seed(1))
    assert torch.equal(
        best_shifts(2.0**exponent * weight, steps=5), 2.0**exponent * best_shifts(weight, steps=5)
    )


def test_blocks_do_not_depend_on_each_other() -> None:
    weight = torch.randn(9, 64, generator=torch.Generator().manual_seed(2))
    assert torch.equal(best_shifts(weight)[[0, 4, 8]], best_shifts(weight[[0, 4, 8]]))


def test_a_constant_block_is_all_shift() -> None:
    weight = torch.full((2, 64), 0.7)
    packed = NormalFloatWeight.quantize(weight, double_quant=True, shifts=best_shifts(weight))
    assert torch.allclose(packed.decode(), weight)


def test_more_shifts_find_more_entropy() -> None:
    """A mutant would be a search that keeps its first candidate."""
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(3))
    found = [
        mean_entropy(
            NormalFloatWeight.quantize(weight, double_quant=False, shifts=best_shifts(weight, steps=n))
        )
        for n in (0, 5, 100)
    ]
    assert found[0] < found[1] < found[2]


def test_the_spec_shifts_every_layer(llama: torch.nn.Module) -> None:
    for packed in artifact_of(llama, "nf4-w4-icq").weights.values():
        assert {"shifts", "shift_absmax"} <= packed.tensors().keys()
        assert packed.nominal_bits == 4


def test_sigma_is_the_spread_behind_the_outermost_level() -> None:
    quantile = torch.special.ndtri(torch.tensor(0.9677083)).item()
    assert pytest.approx(1 / quantile, abs=1e-4) == SIGMA
