"""Means of log-ratios and divergences: Student, Hall, clusters, coverage, and what bad input gets."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp, ttest_ind

from quantcheck.statistics.bound import POWER, Answer, bound, decide
from quantcheck.statistics.means import Means, means, unpaired

NUMBERS = st.integers(-1000, 1000).map(lambda thousandths: thousandths / 1000)
SAMPLES = st.lists(NUMBERS, min_size=3, max_size=40)
MARGINS = st.integers(-900, 900).map(lambda thousandths: thousandths / 1000)
LEVELS = st.sampled_from([0.05, 0.01, 0.001])


def student(values: np.ndarray | list[float], margin: float) -> float:
    return float(ttest_1samp(values, margin, alternative="greater").pvalue)


@given(SAMPLES, MARGINS)
def test_without_skewness_it_is_students_test(half: list[float], margin: float) -> None:
    values = half + [-value for value in half]
    assume(any(half))
    assert means(values).p_worse(margin) == pytest.approx(student(values, margin), rel=1e-6)


@given(SAMPLES, MARGINS)
def test_with_skewness_it_is_never_laxer_than_students(values: list[float], margin: float) -> None:
    assume(len(set(values)) > 1)
    assert means(values).p_worse(margin) >= student(values, margin) * (1 - 1e-6)


@given(st.lists(SAMPLES.map(lambda sample: sample[:3]), min_size=2, max_size=12), MARGINS)
def test_documents_of_equal_size_count_by_their_means(documents: list[list[float]], margin: float) -> None:
    averages = [float(np.mean(document)) for document in documents]
    assume(np.ptp(averages) > 1e-6)
    together = means(np.concatenate(documents), np.repeat(np.arange(len(documents)), 3))
    alone = means(averages)
    assert (together.clusters, together.n) == (alone.n, 3 * alone.n)
    assert together.stderr == pytest.approx(alone.stderr)
    assert together.freedom == pytest.approx(alone.freedom) == pytest.approx(len(documents) - 1)
    assert together.p_worse(margin) == pytest.approx(alone.p_worse(margin), rel=1e-6)


@given(SAMPLES, NUMBERS, st.integers(1, 50), MARGINS, LEVELS)
def test_shifts_scales_and_mirrors_move_the_bounds_along(
    values: list[float], shift: float, scale: int, margin: float, level: float
) -> None:
    assume(np.ptp(values) > 1e-3)
    found, moved = means(values), means(scale * (np.array(values) + shift))
    mirrored = means(-np.array(values))
    assert moved.lower(level) == pytest.approx(scale * (found.lower(level) + shift), abs=1e-6)
    assert mirrored.lower(level) == pytest.approx(-found.upper(level), abs=1e-9)
    assert mirrored.p_worse(-margin) == pytest.approx(found.p_not_worse(margin), rel=1e-6)


@given(SAMPLES, LEVELS)
def test_bounds_are_where_the_p_value_is_the_level(values: list[float], level: float) -> None:
    found = means(values)
    assume(found.stderr > 1e-3)
    assert found.p_worse(found.lower(level)) == pytest.approx(level, rel=1e-6)
    assert found.p_not_worse(found.upper(level)) == pytest.approx(level, rel=1e-6)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=12))
def test_degrees_of_freedom_are_those_of_the_variances_quadratic_form(sizes: list[int]) -> None:
    """2 E^2 / var of u' W u with u ~ N(0, C) is tr(WC)^2 / tr(WCWC)."""
    lengths = np.array(sizes)
    weights = np.diag(1 / (1 - lengths / lengths.sum()))
    centring = np.eye(len(sizes)) - np.outer(lengths, np.ones(len(sizes))) / lengths.sum()
    freedom = []
    for power in (1, 2):
        product = weights @ centring @ np.diag(lengths**power) @ centring.T
        freedom.append(np.trace(product) ** 2 / np.trace(product @ product))
    values = np.random.default_rng(2).normal(size=sum(sizes))
    found = means(values, np.repeat(np.arange(len(sizes)), sizes))
    assert found.freedom == pytest.approx(min(freedom))
    assert found.freedom <= len(sizes) - 1 + 1e-9


def sizes(
    draw: Callable[[int], np.ndarray], mean: float, clusters: np.ndarray | None = None, n: int = 128
) -> tuple[float, float]:
    """Shares of 3,000 samples of one mean that are called worse, and not worse, at 5 % with it as margin."""
    found = [means(draw(n), clusters) for _ in range(3000)]
    return (
        float(np.mean([sample.p_worse(mean) <= 0.05 for sample in found])),
        float(np.mean([sample.p_not_worse(mean) <= 0.05 for sample in found])),
    )


def test_errors_keep_to_their_level_for_normal_windows() -> None:
    random = np.random.default_rng(1)
    assert max(sizes(lambda n: random.normal(0.01, 0.02, n), 0.01)) <= 0.057


def test_errors_keep_to_their_level_for_skewed_divergences() -> None:
    """Student's t alone passes 6.7 % of exponential samples of 128, docs/statistics.md."""
    random = np.random.default_rng(1)
    assert max(sizes(lambda n: random.exponential(0.03, n), 0.03)) <= 0.057


def test_errors_keep_to_their_level_for_documents_of_unequal_length() -> None:
    """Each document has a level of its own, as large as its windows' spread."""
    random, lengths = np.random.default_rng(1), [20, 12, 8, 6, 4, 4, 3, 3, 2, 2, 1, 1, 1, 1]
    labels = np.repeat(np.arange(len(lengths)), lengths)

    def draw(n: int) -> np.ndarray:
        return random.normal(0, 1, len(lengths))[labels] + random.normal(0, 1, n)

    assert max(sizes(draw, 0.0, labels, labels.size)) <= 0.057
    assert min(sizes(draw, 0.0, None, labels.size)) > 0.1


@pytest.mark.parametrize("level", [0.01, 1e-4])
def test_the_smallest_mean_that_is_seen_is_seen_as_often_as_promised(level: float) -> None:
    random = np.random.default_rng(4)
    mean = means(random.normal(0, 0.02, 4096)[:128]).mde(0.005, level)
    seen = np.mean([means(random.normal(mean, 0.02, 128)).p_worse(0.005) <= level for _ in range(1500)])
    assert seen == pytest.approx(POWER, abs=0.1)


@pytest.mark.parametrize(("mean", "answer"), [(0.008, Answer.WORSE), (0.001, Answer.NOT_WORSE)])
def test_as_many_windows_as_are_needed_decide(mean: float, answer: Answer) -> None:
    random = np.random.default_rng(6)
    few = random.normal(0, 0.02, 24)
    n = means(few - few.mean() + mean).needed(0.005, 0.01, 0.05)
    assert n is not None
    assert n > 24
    spread = float(np.std(few, ddof=1))
    answers = [
        decide(bound(means(random.normal(mean, spread, n)), 0.005), 0.005) is answer for _ in range(600)
    ]
    assert np.mean(answers) >= POWER - 0.05


def test_one_document_says_nothing_of_others() -> None:
    found = means([0.1, 0.2, 0.15], ["one"] * 3)
    assert (found.lower(0.05), found.upper(0.05)) == (-math.inf, math.inf)
    assert found.p_worse(-5) == found.p_not_worse(5) == 1
    assert found.mde(0.0, 0.01) == math.inf
    assert found.needed(0.0, 0.01, 0.05) is None
    assert decide(bound(found, 0.0), 0.0) is Answer.CANNOT_TELL
    assert means([0.3]) == Means(0.3, 1, 1, math.inf, 1.0, 0.0)


@pytest.mark.parametrize("value", [0.0, 0.1, -0.3])
@pytest.mark.parametrize("n", [2, 3, 49, 128])
def test_equal_differences_are_their_own_bounds(value: float, n: int) -> None:
    found = means([value] * n)
    assert (found.estimate, found.lower(0.01), found.upper(0.05), found.mde(value, 0.01)) == (value,) * 4
    assert decide(bound(found, value), value) is Answer.NOT_WORSE
    assert decide(bound(found, value - 1e-9), value - 1e-9) is Answer.WORSE
    assert (found.p_worse(value), found.p_not_worse(value)) == (1, 0)
    assert (found.p_worse(value - 1e-9), found.p_not_worse(value - 1e-9)) == (0, 1)
    assert found.needed(value, 0.01, 0.05) == n


def test_documents_that_agree_in_their_means_have_no_spread() -> None:
    assert means([-0.5, 0.5, 0.25, -0.25], [0, 0, 1, 1]).stderr == 0


def test_differences_too_small_to_be_cubed_still_have_a_skewness() -> None:
    small, large = means([1e-120, 2e-120, 9e-120]), means([1.0, 2.0, 9.0])
    assert small.skew == pytest.approx(large.skew)
    assert small.p_worse(1e-120) == pytest.approx(large.p_worse(1.0))


def test_a_mean_on_its_margin_is_never_decided() -> None:
    assert means([-0.5, 0.0, 0.5]).needed(0.0, 0.01, 0.05) is None


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_differences_that_are_not_finite_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="1 of 3 differences are not finite"):
        means([0.1, wrong, 0.2])


@pytest.mark.parametrize(("values", "clusters"), [([], None), ([[0.1]], None), ([0.1, 0.2], [1])])
def test_what_is_no_list_of_labelled_differences_is_refused(
    values: list[float], clusters: list[int] | None
) -> None:
    with pytest.raises(ValueError, match="shape"):
        means(values, clusters)


@given(SAMPLES, SAMPLES, MARGINS)
def test_independent_samples_without_skewness_are_compared_by_welchs_test(
    one: list[float], other: list[float], margin: float
) -> None:
    samples = [half + [-value for value in half] for half in (one, other)]
    assume(all(np.std(sample) > 1e-3 for sample in samples))
    expected = ttest_ind(np.array(samples[0]) - margin, samples[1], equal_var=False, alternative="greater")
    found = unpaired(means(samples[0]), means(samples[1]))
    assert found.p_worse(margin) == pytest.approx(float(expected.pvalue), rel=1e-6)
    assert (found.n, found.clusters) == (min(map(len, samples)),) * 2


@given(SAMPLES, SAMPLES, LEVELS)
def test_swapping_independent_samples_mirrors_their_bounds(
    one: list[float], other: list[float], level: float
) -> None:
    found, swapped = unpaired(means(one), means(other)), unpaired(means(other), means(one))
    assert swapped.lower(level) == pytest.approx(-found.upper(level), abs=1e-9)


def test_a_single_document_tells_nothing_of_a_difference_and_no_spread_tells_all() -> None:
    single, plain = means([1.0, 2.0], [0, 0]), means([0.5, 0.5])
    assert unpaired(single, plain).upper(0.05) == math.inf
    assert unpaired(means([0.75, 0.75]), plain).upper(0.05) == 0.25


def test_errors_of_independent_skewed_samples_keep_to_their_level() -> None:
    random = np.random.default_rng(11)
    runs = [
        unpaired(means(random.exponential(1.0, 128)), means(random.exponential(0.5, 192)))
        for _ in range(2000)
    ]
    errors = [np.mean([run.p_worse(0.5) <= 0.05 for run in runs])]
    errors.append(np.mean([run.p_not_worse(0.5) <= 0.05 for run in runs]))
    assert max(errors) <= 0.057
    assert min(errors) >= 0.03
