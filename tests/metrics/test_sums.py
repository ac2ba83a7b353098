"""Sums in another order give the same numbers but for their last bits, and only where they are asked for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quantcheck.metrics.sums import SummedOtherwise


def linear(inputs: int, outputs: int, bias: bool) -> tuple[nn.Linear, torch.Tensor]:
    generator = torch.Generator().manual_seed(inputs)
    layer = nn.Linear(inputs, outputs, bias=bias)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(generator=generator)
    return layer, torch.randn(3, 5, inputs, generator=generator)


@settings(max_examples=40)
@given(st.integers(1, 300), st.integers(1, 9), st.booleans(), st.floats(0, 1))
def test_a_sum_in_two_parts_is_the_sum_but_for_rounding(
    inputs: int, outputs: int, bias: bool, share: float
) -> None:
    layer, x = linear(inputs, outputs, bias)
    with torch.no_grad(), SummedOtherwise(share):
        parts = layer(x)
    with torch.no_grad():
        exact = torch.nn.functional.linear(
            x.double(), layer.weight.double(), layer.bias.double() if bias else None
        )
        largest = x.double().abs() @ layer.weight.double().abs().T
    # Each of the additions rounds by half a unit in the last place of what was summed so far.
    bound = 2.0**-24 * (inputs + 2) * (largest + (layer.bias.double().abs() if bias else 0))
    assert ((parts.double() - exact).abs() <= bound).all()


def test_bits_differ_within_and_only_within() -> None:
    layer, x = linear(512, 64, bias=True)
    with torch.no_grad():
        before = layer(x)
        with SummedOtherwise(0.4):
            within = layer(x)
        assert not torch.equal(within, before)
        assert torch.equal(layer(x), before)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_part_without_products_is_no_part(share: float) -> None:
    layer, x = linear(64, 8, bias=False)
    with torch.no_grad(), SummedOtherwise(share):
        within = layer(x)
    assert torch.equal(within, layer(x))
