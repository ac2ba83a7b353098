"""What moves between calibrations and batches is summed up right, and nothing that is not comparable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantcheck.artifact_facts import GAINS, OUTPUTS, ROWS, WEIGHTS, ArtifactFacts, BlockFacts
from quantcheck.errors import QuantizationError
from quantcheck.noise import Noise, Spread, noise
from quantcheck.results import Figures
from quantcheck.statistics.band import moderated
from unit.builders import LAYERS, layer, measured

PPL = "ppl/web"
ARTIFACT = (WEIGHTS, OUTPUTS)
OUTCOMES = st.lists(st.floats(0, 9), min_size=3, max_size=3)
ERRORS = st.lists(st.floats(1e-6, 1), min_size=2, max_size=2)


def figures(
    outcomes: Sequence[float] = (1.0, 2.0, 3.0),
    weights: Sequence[float | None] = (0.1, 0.2),
    outputs: Sequence[float] = (),
) -> Figures:
    """One metric, two layers, and blocks, with these outcomes and errors."""
    layers = tuple(
        layer(name, weight_error=error, gain=error, row_error=None)
        for name, error in zip(LAYERS, weights, strict=True)
    )
    blocks = tuple(BlockFacts(str(at), error) for at, error in enumerate(outputs))
    return Figures({PPL: measured(PPL, outcomes)}, ArtifactFacts(LAYERS, layers, blocks=blocks), 0.0, False)


@settings(max_examples=30)
@given(OUTCOMES, st.lists(OUTCOMES, min_size=1, max_size=3))
def test_evaluation_noise_is_the_largest_change_of_an_item(
    once: list[float], again: list[list[float]]
) -> None:
    found = noise(figures(once), [figures(each).measurements for each in again], [])
    assert found.evaluation[PPL] == np.abs(np.array(again) - once).max()
    shifts = [abs(measured(PPL, each).mean - measured(PPL, once).mean) for each in again]
    assert found.shift[PPL] == max(shifts)
    assert found.shift[PPL] <= found.evaluation[PPL] * (1 + 1e-12)


def test_nothing_recalibrated_has_no_spread() -> None:
    found = noise(figures(), [figures().measurements], [])
    assert found == Noise({PPL: 0.0}, {PPL: 0.0})
    assert found.recalibration == {}


@settings(max_examples=30)
@given(st.lists(st.tuples(OUTCOMES, ERRORS, ERRORS), min_size=2, max_size=5))
def test_spreads_are_those_of_numpy(
    calibrations: list[tuple[list[float], list[float], list[float]]],
) -> None:
    accepted, *others = (figures(*each) for each in calibrations)
    found, count = noise(accepted, [], others), len(calibrations)
    means = [np.mean(outcomes) for outcomes, _, _ in calibrations]
    spread = found.recalibration[PPL]
    assert (spread.deviation, spread.freedom) == (pytest.approx(np.std(means, ddof=1), abs=1e-12), count - 1)
    for at, metric in enumerate(ARTIFACT, start=1):
        logs = np.log([each[at] for each in calibrations])
        variances, freedom = moderated(np.var(logs, axis=0, ddof=1), count - 1)
        spread = found.recalibration[metric]
        assert spread.deviation == pytest.approx(np.sqrt(variances), rel=1e-3)
        assert spread.freedom == pytest.approx(freedom, rel=1e-3)
    assert found.recalibration[GAINS] == found.recalibration[WEIGHTS]
    assert ROWS not in found.recalibration


@pytest.mark.parametrize("unknown", [None, 0.0, math.inf])
def test_errors_without_a_logarithm_have_no_deviation(unknown: float | None) -> None:
    found = noise(figures(weights=(0.1, 0.2)), [], [figures(weights=(0.2, unknown))])
    assert found.recalibration[WEIGHTS] == Spread(
        (pytest.approx(math.log(2) / math.sqrt(2), rel=1e-3), 0.0), 1
    )
    assert OUTPUTS not in found.recalibration


def test_another_item_set_is_no_noise() -> None:
    other = {PPL: replace(figures().measurements[PPL], items="others")}
    with pytest.raises(ValueError, match="other items"):
        noise(figures(), [other], [])
    with pytest.raises(ValueError, match="other items"):
        noise(figures(), [], [replace(figures(), measurements=other)])


@pytest.mark.parametrize("outcomes", [(math.nan, 1.0, 2.0), (math.inf, 1.0, 2.0)])
def test_a_figure_that_is_not_finite_is_refused(outcomes: tuple[float, ...]) -> None:
    with pytest.raises(QuantizationError, match=rf"{PPL} is 2, and (nan|inf) when .* mend it"):
        noise(figures(), [], [figures(outcomes)])


def test_a_figure_that_is_not_finite_itself_has_no_noise_and_keeps_none_from_the_others() -> None:
    broken = measured("kld/web", [math.nan, 1.0, 2.0])
    accepted, again = (
        replace(each, measurements={**each.measurements, "kld/web": broken})
        for each in (figures(), figures((1.0, 2.0, 3.5)))
    )
    found = noise(accepted, [again.measurements], [again])
    assert (found.evaluation, set(found.shift)) == ({PPL: 0.5}, {PPL})
    assert "kld/web" not in found.recalibration
    assert found.recalibration[PPL].freedom == 1


@settings(max_examples=30)
@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 99))
def test_noise_comes_back_bit_by_bit(one: float, other: float, freedom: int) -> None:
    spreads = {PPL: Spread(one, freedom), WEIGHTS: Spread((one, other), freedom)}
    found = Noise({PPL: one}, {PPL: other}, spreads)
    assert Noise.loads(found.dumps()) == found
