"""Figures and differences: the laws of means, standard errors, directions and pairing."""

from __future__ import annotations

import hashlib
import itertools
import math
import statistics
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcheck.measurement import (
    KINDS,
    digest,
    kind_of,
    measurement,
    paired_difference,
    pairs,
    standard_error,
)
from unit.builders import measured

NUMBERS = st.floats(-100, 100, allow_subnormal=False)
OUTCOMES = st.lists(NUMBERS, min_size=1, max_size=30)
TWO_RUNS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=30)
PAIRED_KINDS = ("ppl/x", "acc/x")
NON_FINITE = (math.nan, math.inf, -math.inf)


def test_kinds_fix_direction_unit_and_how_outcomes_become_the_figure() -> None:
    assert {name: kind.higher_is_better for name, kind in KINDS.items()} == {
        "ppl": False,
        "acc": True,
        "kld": False,
        "top1": True,
        "bpw": False,
        "artifact": False,
    }
    assert [name for name, kind in KINDS.items() if kind.log] == ["ppl"]
    assert [name for name, kind in KINDS.items() if kind.relative] == ["kld", "top1", "artifact"]
    assert [name for name, kind in KINDS.items() if kind.exact] == ["bpw", "artifact"]
    assert all(kind.name == name and kind.unit for name, kind in KINDS.items())


def test_a_metrics_kind_is_its_prefix() -> None:
    assert kind_of("ppl/web/deep").name == "ppl"
    assert kind_of("bpw") is KINDS["bpw"]
    assert kind_of("artifact/gains") == replace(KINDS["artifact"], higher_is_better=None, unit="gain")
    with pytest.raises(KeyError, match="perplexity"):
        kind_of("perplexity/web")


@given(OUTCOMES)
def test_mean_stderr_and_n_are_the_textbook_ones(outcomes: list[float]) -> None:
    figure = measured("acc/x", outcomes)
    assert figure.n == len(outcomes)
    assert figure.mean == figure.value == pytest.approx(statistics.fmean(outcomes), abs=1e-12)
    if len(outcomes) > 1:
        expected = statistics.stdev(outcomes) / math.sqrt(len(outcomes))
        assert figure.stderr == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(OUTCOMES)
def test_a_perplexity_is_the_exponential_of_the_mean_nll(outcomes: list[float]) -> None:
    figure = measured("ppl/x", outcomes)
    assert figure.value == math.exp(figure.mean)
    assert figure.stderr == pytest.approx(measured("acc/x", outcomes).stderr, nan_ok=True)


@given(st.permutations([0.1, 1e16, -1e16, 3.3, 1e-9]))
def test_the_mean_does_not_depend_on_the_order_of_the_items(outcomes: list[float]) -> None:
    assert measured("kld/x", outcomes).mean == math.fsum([0.1, 3.3, 1e-9]) / 5


def test_a_counted_figure_has_no_standard_error() -> None:
    assert measured("bpw", [3.25]).stderr == 0.0
    assert paired_difference(measured("bpw", [3.25]), measured("bpw", [3.0])).stderr == 0.0


def test_one_item_gives_no_standard_error_and_none_no_figure() -> None:
    assert math.isnan(measured("acc/x", [1.0]).stderr)
    empty = measured("ppl/x", [])
    assert empty.n == 0
    assert math.isnan(empty.mean)
    assert math.isnan(empty.value)
    assert math.isnan(paired_difference(empty, empty).mean)


@pytest.mark.parametrize("bad", NON_FINITE)
def test_a_non_finite_outcome_makes_the_figure_non_finite_without_a_warning(bad: float) -> None:
    figure = measured("ppl/x", [1.0, bad, 2.0])
    assert not math.isfinite(figure.mean)
    assert math.isnan(figure.stderr)


def test_sums_that_have_no_value_are_nan() -> None:
    assert math.isnan(measured("kld/x", [math.inf, -math.inf]).mean)
    assert math.isnan(measured("kld/x", [1.7e308, 1.7e308]).mean)
    assert measured("ppl/x", [1000.0]).value == math.inf


@pytest.mark.parametrize("metric", PAIRED_KINDS)
@given(runs=TWO_RUNS)
def test_swapping_candidate_and_reference_flips_the_sign(
    metric: str, runs: list[tuple[float, float]]
) -> None:
    left, right = (measured(metric, outcomes) for outcomes in zip(*runs, strict=True))
    there, back = paired_difference(left, right), paired_difference(right, left)
    assert there.mean == -back.mean
    assert there.stderr == pytest.approx(back.stderr)
    assert there.n == back.n == len(runs)


@pytest.mark.parametrize(("metric", "sign"), [("ppl/x", 1), ("acc/x", -1)])
@given(runs=TWO_RUNS)
def test_a_difference_is_that_of_the_means_and_positive_is_worse(
    metric: str, sign: int, runs: list[tuple[float, float]]
) -> None:
    candidate, reference = (measured(metric, outcomes) for outcomes in zip(*runs, strict=True))
    difference = paired_difference(candidate, reference)
    assert difference.mean == pytest.approx(sign * (candidate.mean - reference.mean), abs=1e-11)


@pytest.mark.parametrize(("metric", "sign"), [("ppl/x", 1), ("acc/x", -1)])
@given(outcomes=st.lists(NUMBERS, min_size=2, max_size=30), shift=NUMBERS)
def test_a_shift_of_every_item_moves_the_mean_and_costs_no_certainty(
    metric: str, sign: int, outcomes: list[float], shift: float
) -> None:
    reference = measured(metric, outcomes)
    candidate = measured(metric, [outcome + shift for outcome in outcomes])
    difference = paired_difference(candidate, reference)
    assert difference.mean == pytest.approx(sign * shift, abs=1e-11)
    assert difference.stderr == pytest.approx(0, abs=1e-11)


@given(OUTCOMES)
def test_kinds_that_are_relative_by_nature_need_no_reference(outcomes: list[float]) -> None:
    divergence = paired_difference(measured("kld/x", outcomes), None)
    assert divergence.mean == measured("kld/x", outcomes).mean
    agreement = paired_difference(measured("top1/x", outcomes), None)
    assert agreement.mean == pytest.approx(1 - measured("top1/x", outcomes).mean, abs=1e-11)
    assert pairs(measured("kld/x", outcomes), None)


@pytest.mark.parametrize("metric", [*PAIRED_KINDS, "bpw"])
def test_without_the_same_items_there_is_no_difference(metric: str) -> None:
    candidate = measured(metric, [1.0, 2.0])
    others = (None, measured(metric, [1.0, 2.0], items="others"), measured(metric, [1.0, 2.0, 3.0]))
    assert pairs(candidate, measured(metric, [5.0, 6.0]))
    for reference in others:
        assert not pairs(candidate, reference)
        with pytest.raises(ValueError, match=f"{metric}: candidate and reference .* different items"):
            paired_difference(candidate, reference)


def test_outcomes_are_a_copy_that_cannot_be_written_to() -> None:
    mine = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)
    figure = measurement("ppl/x", mine, "items", "protocol", 1)
    mine[0, 0] = 9.0
    assert figure.outcomes.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert figure.outcomes.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        figure.outcomes[0] = 9.0


@pytest.mark.parametrize("what", ["clusters", "taken"])
@given(items=st.integers(0, 5), labels=st.integers(0, 5))
def test_every_item_has_one_label_of_a_cluster_and_one_position(what: str, items: int, labels: int) -> None:
    given_labels: dict[str, Any] = {what: [7] * labels}
    if items == labels:
        assert measurement("acc/x", [1.0] * items, "", "", 1, **given_labels).n == items
        return
    with pytest.raises(ValueError, match=f"acc/x: {labels} cluster labels or positions for {items} items"):
        measurement("acc/x", [1.0] * items, "", "", 1, **given_labels)


@given(st.data(), st.lists(st.tuples(NUMBERS, st.integers(0, 3)), min_size=1, max_size=9), st.booleans())
def test_a_measurement_at_some_items_is_theirs_alone(
    data: st.DataObject, items: list[tuple[float, int]], clustered: bool
) -> None:
    outcomes, labels = (np.array(each) for each in zip(*items, strict=True))
    full = measurement("ppl/x", outcomes, "ab", "windows", 3, labels if clustered else None, 0.25)
    taken = np.array(data.draw(st.lists(st.integers(0, len(items) - 1), min_size=1, unique=True)))

    found = full.at(taken)

    assert full.at(None) is full
    assert (found.outcomes.tolist(), found.taken.tolist()) == (outcomes[taken].tolist(), taken.tolist())
    assert (found.clusters.tolist() == labels[taken].tolist()) if clustered else (found.clusters is None)
    names = ("metric", "items", "protocol", "version", "chance")
    assert [getattr(found, name) for name in names] == [getattr(full, name) for name in names]


@given(st.lists(NUMBERS, min_size=2, max_size=30), st.integers(2, 4))
def test_more_of_the_same_items_shrink_the_standard_error(outcomes: list[float], times: int) -> None:
    assert standard_error(np.array(outcomes * times)) <= standard_error(np.array(outcomes)) + 1e-12


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_digests_tell_lists_of_parts_apart(left: list[str], right: list[str]) -> None:
    assert (digest(left) == digest(right)) is (left == right)


def test_order_and_boundaries_of_the_parts_count() -> None:
    lists = [["ab", "c"], ["a", "bc"], ["abc"], ["c", "ab"], ["abc", ""], ["", "abc"], []]
    for left, right in itertools.combinations(lists, 2):
        assert digest(left) != digest(right)


def test_a_digest_is_sixteen_hex_digits_that_never_change() -> None:
    assert digest(["builtin-llama", b"\x00\xff"]) == digest(iter([b"builtin-llama", b"\x00\xff"]))
    assert digest([]) == "e3b0c44298fc1c14"  # SHA-256 of nothing
    prefixed = b"\x02\0\0\0\0\0\0\0ab\x01\0\0\0\0\0\0\0c"
    assert digest(["ab", "c"]) == hashlib.sha256(prefixed).hexdigest()[:16]
