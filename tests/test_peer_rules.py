"""The rules that others decide by, as we restate them: on which side of its number each one fails."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from quantcheck.measurement import Measurement, measurement


@pytest.fixture(scope="module")
def peers(repository: Path) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(repository)
        yield importlib.import_module("benchmarks.peer_rules")


def accuracy(right: int, of: int = 1000) -> Measurement:
    return measurement("acc/pooled", [1.0] * right + [0.0] * (of - right), "items", "protocol", 1)


def perplexity(mean: float, noise: float = 0.0) -> Measurement:
    spread = np.linspace(-noise, noise, 16)
    return measurement("ppl/text", mean + spread, "items", "protocol", 1)


def case(peers: ModuleType, full: Measurement, old: Measurement, now: Measurement) -> Any:
    return peers.Case({full.metric: full}, {old.metric: old}, {now.metric: now})


@pytest.mark.parametrize(
    ("rule", "full", "old", "passes", "fails"),
    [
        ("recovery", 800, 0, 757, 755),  # .94625 is rounded up
        ("stored_value", 0, 800, 760, 759),
        ("stored_value", 0, 800, 880, 881),
        ("absolute", 0, 800, 721, 719),
        ("last_good", 0, 800, 799, 798),
        ("last_good", 0, 800, 801, 802),
        ("two_points", 800, 0, 780, 779),
        ("unpaired", 0, 800, 764, 763),
    ],
)
def test_an_accuracy_rule_fails_beyond_its_number(
    peers: ModuleType, rule: str, full: int, old: int, passes: int, fails: int
) -> None:
    red = getattr(peers, rule)

    assert not red(case(peers, accuracy(full), accuracy(old), accuracy(passes)))
    assert red(case(peers, accuracy(full), accuracy(old), accuracy(fails)))


def test_a_perplexity_rule_fails_beyond_its_number(peers: ModuleType) -> None:
    old = perplexity(math.log(10))

    def found(rule: str, value: float) -> bool:
        return getattr(peers, rule)(case(peers, old, old, perplexity(math.log(value))))

    assert not found("below_twenty", 19.99)
    assert found("below_twenty", 20.01)
    assert [found("within_one_percent", value) for value in (9.89, 9.91, 10.09, 10.11)] == [
        True,
        False,
        False,
        True,
    ]


def test_what_is_not_a_number_fails_where_it_is_compared(peers: ModuleType) -> None:
    lost = measurement("acc/pooled", [math.nan] * 10, "items", "protocol", 1)
    old = accuracy(8, 10)
    found = {rule.name for rule in peers.RULES if rule.red(case(peers, old, old, lost))}

    assert found == {"recovery", "stored", "absolute", "last good", "2 points", "statgate"}


def test_no_rule_fails_a_model_that_is_as_accepted(peers: ModuleType) -> None:
    both = {"acc/pooled": accuracy(900), "ppl/text": perplexity(1.0, 0.1)}

    assert not any(rule.red(peers.Case(both, both, both)) for rule in peers.RULES)
    assert not any(rule.red(peers.Case({}, {}, {})) for rule in peers.RULES)


@given(harmful=st.integers(0, 30), beneficial=st.integers(0, 30))
def test_mcnemar_is_the_exact_binomial_test_of_items_that_changed(
    peers: ModuleType, harmful: int, beneficial: int
) -> None:
    old = measurement("acc/pooled", [1.0] * harmful + [0.0] * beneficial + [1.0], "i", "p", 1)
    now = measurement("acc/pooled", [0.0] * harmful + [1.0] * beneficial + [1.0], "i", "p", 1)
    changed = harmful + beneficial
    expected = changed and binomtest(harmful, changed, alternative="greater").pvalue <= 0.05

    assert peers.mcnemar(case(peers, old, old, now)) == bool(expected)


def test_the_bootstrap_blocks_what_is_surely_beyond_the_margin_and_nothing_else(peers: ModuleType) -> None:
    noise = np.random.default_rng(0).normal(0, 0.02, 48)
    noise -= noise.mean()

    assert peers.blocks(noise - 0.03)
    assert not peers.blocks(noise - 0.022)  # it cannot tell
    assert not peers.blocks(noise)
    assert peers.blocks(np.full(5, -0.03))
    assert not peers.blocks(np.full(5, -0.01))
    assert not peers.blocks(np.empty(0))
    assert peers.blocks(np.array([0.0, math.nan]))


def test_items_are_paired_by_their_number_as_far_as_both_have_them(peers: ModuleType) -> None:
    old, now = accuracy(10, 10), accuracy(9, 9)

    assert not peers.mcnemar(case(peers, old, old, now))
    assert not peers.blocks_accuracy(case(peers, old, old, now))
