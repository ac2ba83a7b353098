"""The drift from the accepted figure: what may move, by how much, and what follows where more does."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcheck.artifact_facts import GAINS, OUTPUTS, WEIGHTS, ArtifactFacts
from quantcheck.gate import AcceptedFigure, Bounds, Evidence, Judgement, Verdict, judge
from quantcheck.judging.drift import HONEST, NOISE_FACTOR
from quantcheck.outcomes import pack, tolerance, unpack
from quantcheck.statistics.band import reach
from unit.builders import LAYERS, evidence, facts, measured

WIDE = Bounds(None, 0.5, "any")
ANSWERS = [1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0]


def accepted(metric: str, outcomes: list[float], **changes: Any) -> AcceptedFigure:
    """A figure accepted with these outcomes, stored and read back."""
    found = measured(metric, outcomes)
    text = pack(found)
    back = unpack(text, found.n, found.mean)
    right = AcceptedFigure(found.mean, (), back, tolerance(text, back, found.mean), facts().digest)
    return replace(right, **changes)


def unkept(metric: str, outcomes: list[float]) -> AcceptedFigure:
    return replace(accepted(metric, outcomes), outcomes=None, tolerance=None)


def judged(metric: str, now: list[float], then: AcceptedFigure, **changes: Any) -> Judgement:
    reference = None if metric.startswith(("kld", "artifact")) else measured(metric, [0.5] * len(now))
    return judge(
        replace(
            evidence(
                metric, candidate=measured(metric, now), reference=reference, baseline=then, bounds=WIDE
            ),
            **changes,
        )
    )


def other_artifact(**changes: Any) -> ArtifactFacts:
    return facts(digest="ffffffff", **changes)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=20))
def test_the_same_artifact_with_the_same_outcomes_passes(outcomes: list[float]) -> None:
    assert judged("kld/x", outcomes, accepted("kld/x", outcomes)).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("change", "verdict"),
    [(0.9e-4, "PASS"), (1.2e-4, "REGRESSED"), (-0.9e-4, "PASS"), (-1.2e-4, "STALE_BASELINE")],
)
def test_of_the_same_artifact_no_window_moves_by_more_than_rounding(change: float, verdict: str) -> None:
    then = accepted("ppl/web", [1.0, 2.0, 3.0])
    then = replace(then, tolerance=np.zeros(3))
    found = judged("ppl/web", [1.0, 2.0, 3.0 + change], then)
    assert found.verdict == verdict
    assert found.drift is not None
    assert found.drift.change == pytest.approx(change / 3)
    if verdict != "PASS":
        assert found.reasons[0].startswith(
            "the artifact is the accepted one bit for bit, but 1 of 3 items changed, by up to 0.00012"
        )
        assert found.drift.margin == 0


def test_windows_that_cancel_out_are_seen_all_the_same() -> None:
    found = judged("ppl/web", [1.01, 1.99, 3.0], accepted("ppl/web", [1.0, 2.0, 3.0]))
    assert "2 of 3 items changed, by up to 0.01" in found.reasons[0]
    assert not found.verdict.green


def test_measured_noise_and_storage_count_as_rounding() -> None:
    then = accepted("kld/x", [1.0, 2.0, 3.0], noise=0.01)
    assert judged("kld/x", [1.0, 2.0, 3.0 + NOISE_FACTOR * 0.01], then).verdict is Verdict.PASS
    assert judged("kld/x", [1.0, 2.0, 3.2], then).verdict is Verdict.REGRESSED
    stored = accepted("kld/x", [1.0, 2.0, 103.0])
    assert judged("kld/x", [1.0, 2.0, 103.0 + 0.03], stored).verdict is Verdict.PASS


def test_one_answer_may_change_with_another_processor_and_two_may_not() -> None:
    then = accepted("acc/x", ANSWERS)
    one, two = [0.0, *ANSWERS[1:]], [0.0, 0.0, *ANSWERS[2:]]
    assert judged("acc/x", one, then).verdict is Verdict.PASS
    assert judged("acc/x", two, then).verdict is Verdict.REGRESSED
    better = [1.0 if index in {2, 4} else answer for index, answer in enumerate(ANSWERS)]
    assert judged("acc/x", better, then).verdict is Verdict.STALE_BASELINE


@pytest.mark.parametrize(
    "before", [accepted("kld/x", [1.0, 2.0, 3.0], artifact=""), unkept("kld/x", [1.0, 2.0, 3.0])]
)
def test_without_stored_items_or_artifact_the_means_are_compared(before: AcceptedFigure) -> None:
    assert judged("kld/x", [1.0, 2.0, 4.5], before).verdict is Verdict.PASS
    assert judged("kld/x", [1.0, 2.0, 4.6], before).verdict is Verdict.REGRESSED


def test_of_another_artifact_the_mean_may_move_by_the_margin() -> None:
    then = accepted("kld/x", [1.0, 2.0, 3.0])
    assert judged("kld/x", [1.5, 2.5, 3.5], then, artifact=other_artifact()).verdict is Verdict.PASS
    assert judged("kld/x", [1.5, 2.5, 3.6], then, artifact=other_artifact()).verdict is Verdict.REGRESSED
    assert judged("kld/x", [0.4, 1.5, 2.5], then, artifact=other_artifact()).verdict is Verdict.IMPROVED


@pytest.mark.parametrize(("spread", "margin"), [(0.01, 0.5), (1.0, reach(1.0, 4, HONEST))])
def test_no_claim_is_made_below_the_noise_of_recalibrating(spread: float, margin: float) -> None:
    then = accepted("kld/x", [1.0, 2.0, 3.0], spread=spread, freedom=4)
    found = judged("kld/x", [1.0, 2.0, 3.0], then, artifact=other_artifact())
    assert found.drift is not None
    assert found.drift.margin == margin
    worse = [value + 1.001 * margin for value in (1.0, 2.0, 3.0)]
    assert judged("kld/x", worse, then, artifact=other_artifact()).verdict is Verdict.REGRESSED


def layers(now: list[float], then: AcceptedFigure, **changes: Any) -> Judgement:
    changes = {"artifact": other_artifact(), "bounds": Bounds(None, math.log(1.02), "2 %"), **changes}
    return judged(WEIGHTS, now, then, **changes)


@pytest.mark.parametrize(
    ("errors", "verdict", "change"),
    [
        ([0.01, 0.02], "PASS", 0.0),
        ([0.010199, 0.02], "PASS", 0.0199),
        ([0.01021, 0.02], "REGRESSED", 0.021),
        ([0.0097, 0.02], "IMPROVED", -0.03),
        ([0.0097, 0.0205], "REGRESSED", -0.03),
        ([0.0, 0.02], "IMPROVED", -1.0),
    ],
)
def test_every_layer_keeps_its_error(errors: list[float], verdict: str, change: float) -> None:
    found = layers(errors, accepted(WEIGHTS, [0.01, 0.02]))
    assert found.verdict == verdict
    assert found.drift is not None
    assert math.expm1(found.drift.change) == pytest.approx(change, abs=1e-6)


def test_the_layer_that_moved_most_is_named() -> None:
    found = layers([0.0102, 0.0306], accepted(WEIGHTS, [0.01, 0.03]), bounds=Bounds(None, 0.01, ""))
    assert found.reasons == (
        "the error of 2 of 2 layers is beyond its band around the accepted one, "
        f"{LAYERS[0]} most: +2.00%, where 1.01% is allowed",
    )


@pytest.mark.parametrize("gain", [1.021, 0.979])
def test_a_gain_is_off_in_either_direction(gain: float) -> None:
    then = accepted(GAINS, [1.0, 1.0])
    then = replace(then, mean=1.0)
    found = judged(
        GAINS, [1.0, gain], then, artifact=other_artifact(), bounds=Bounds(None, math.log(1.02), "")
    )
    assert found.verdict is Verdict.REGRESSED
    assert found.reasons[0].startswith("the gain of 1 of 2 layers is beyond its band")


def test_blocks_are_told_as_blocks() -> None:
    found = judged(OUTPUTS, [0.02, 0.05], accepted(OUTPUTS, [0.02, 0.04]), bounds=Bounds(None, 0.1, ""))
    assert "the output error of 1 of 2 blocks is" in found.reasons[0]
    assert "model.layers.1 most: +25.00%, where 10.52% is allowed" in found.reasons[0]


def test_no_error_then_and_now_is_no_change_and_one_out_of_nothing_is() -> None:
    then = accepted(WEIGHTS, [0.0, 0.02])
    assert layers([0.0, 0.02], then).verdict is Verdict.PASS
    assert layers([1e-9, 0.02], then).verdict is Verdict.REGRESSED


def test_the_band_is_as_wide_as_recalibrating_was_seen_to_be() -> None:
    then = accepted(WEIGHTS, [0.01, 0.02], spread=0.05, freedom=8)
    margin = reach(0.05, 8, HONEST / 4)
    found = layers([0.01 * math.exp(0.999 * margin), 0.02], then)
    assert (found.verdict, found.drift and found.drift.margin) == ("PASS", margin)
    assert layers([0.01 * math.exp(1.001 * margin), 0.02], then).verdict is Verdict.REGRESSED


def test_each_layer_has_a_band_of_its_own_and_the_one_farthest_beyond_it_is_named() -> None:
    then = accepted(WEIGHTS, [0.01, 0.02], spread=(0.5, 0.01), freedom=8)
    wide, narrow = (reach(spread, 8, HONEST / 4) for spread in (0.5, 0.01))
    assert layers([0.01 * math.exp(0.999 * wide), 0.02], then).verdict is Verdict.PASS
    found = layers([0.01 * math.exp(0.9 * wide), 0.02 * math.exp(1.001 * narrow)], then)
    assert found.verdict is Verdict.REGRESSED
    assert found.drift is not None
    assert (found.drift.change, found.drift.margin) == (pytest.approx(1.001 * narrow), narrow)
    assert f"1 of 2 layers is beyond its band around the accepted one, {LAYERS[1]} most" in found.reasons[0]


def test_layers_that_were_not_kept_are_compared_by_their_mean() -> None:
    then = unkept(WEIGHTS, [0.01, 0.02])
    assert layers([0.02, 0.01], then).verdict is Verdict.PASS
    assert layers([0.02, 0.02], then).verdict is Verdict.REGRESSED


@pytest.mark.parametrize(("same_codes", "verdict"), [(True, "REGRESSED"), (False, "PASS")])
def test_codes_are_the_accepted_ones_where_they_must_be(same_codes: bool, verdict: str) -> None:
    codes = tuple(layer.digest for layer in facts().layers)
    then = accepted(WEIGHTS, [0.01, 0.02], codes=codes)
    same, other = {"artifact": facts(), "same_codes": same_codes}, {"same_codes": same_codes}
    assert layers([0.01, 0.02], then, **same).verdict is Verdict.PASS
    found = layers([0.01, 0.02], then, **other)
    assert found.verdict == verdict
    if not found.verdict.green:
        assert found.reasons[0].startswith(
            f"codes, scales or zero points of 1 of 2 layers are not the accepted ones bit for bit, "
            f"{LAYERS[1]} first"
        )


def test_codes_that_were_not_kept_are_not_compared() -> None:
    assert layers([0.01, 0.02], accepted(WEIGHTS, [0.01, 0.02]), same_codes=True).verdict is Verdict.PASS


def test_evidence_of_layers_needs_no_reference() -> None:
    assert isinstance(evidence(WEIGHTS), Evidence)
    assert layers([0.01, 0.02], accepted(WEIGHTS, [0.01, 0.02])).difference is not None
