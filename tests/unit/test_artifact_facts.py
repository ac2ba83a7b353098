"""What was found in a quantized model: sums over layers, and what counts as really quantized."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcheck.artifact_facts import ArtifactFacts
from unit.builders import LAYERS, facts, layer

SIZES = st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**7)), min_size=1, max_size=6)


@given(SIZES)
def test_bits_per_weight_are_all_bits_over_all_weights(sizes: list[tuple[int, int]]) -> None:
    layers = tuple(
        layer(str(at), weights=weights, stored_bits=bits) for at, (weights, bits) in enumerate(sizes)
    )
    found = ArtifactFacts(tuple(one.name for one in layers), layers)
    assert found.bpw == sum(bits for _, bits in sizes) / sum(weights for weights, _ in sizes)
    assert min(bits / weights for weights, bits in sizes) <= found.bpw * (1 + 1e-12)


def test_nominal_bits_weigh_each_layer_by_its_weights() -> None:
    assert facts(weights=3000, nominal_bits=4.0).nominal_bits == 3.75


def test_nothing_quantized_has_no_bits_per_weight() -> None:
    nothing = ArtifactFacts(LAYERS, ())
    assert math.isnan(nothing.bpw)
    assert math.isnan(nothing.nominal_bits)
    assert nothing.unquantized == LAYERS
    assert not nothing.really_quantized


def test_the_missing_layers_are_named_in_their_order() -> None:
    some = ArtifactFacts(("c", "a", "b"), (layer("a"),))
    assert some.unquantized == ("c", "b")
    assert some.quantized_layers == ("a",)
    assert not some.really_quantized


@pytest.mark.parametrize("flaw", ["finite", "decoded", "levels_respected"])
def test_one_flawed_layer_is_a_flawed_model(flaw: str) -> None:
    assert getattr(facts(), flaw)
    flawed = facts(**{flaw: False})
    assert not getattr(flawed, flaw)
    assert flawed.really_quantized is (flaw == "finite")


def test_a_model_without_a_decoder_is_not_quantized() -> None:
    assert facts().really_quantized
    assert not ArtifactFacts((), ()).really_quantized
