"""The verdict: every one is reachable, the first of their order counts, bounds hold at equality."""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcheck.artifact_facts import ArtifactFacts
from quantcheck.gate import AcceptedFigure, Bounds, Drift, Evidence, Judgement, Verdict, judge
from quantcheck.measurement import Measurement
from unit.builders import BOUNDS, LAYERS, divergence, evidence, facts, layer, measured

NAN = math.nan
SEVERITY = ("IMPROVED", "PASS", "INCONCLUSIVE", "REGRESSED", "BELOW_FLOOR")
UNITS = st.integers(-4000, 4000).map(lambda thousandths: thousandths / 1000)
SHIFTS = st.integers(1, 4000).map(lambda thousandths: thousandths / 1000)


# One choice from each list is one state of the world; each choice names the verdict that it calls for.
ARTIFACTS: list[tuple[ArtifactFacts | None, Verdict]] = [
    (facts(), Verdict.PASS),
    (None, Verdict.NOT_QUANTIZED),
]
FIGURES: list[tuple[list[float], Verdict]] = [
    ([0.25, 0.25, 0.25], Verdict.PASS),
    ([0.75, 0.75, 0.75], Verdict.BELOW_FLOOR),
    ([0.0, 0.25, 0.75], Verdict.INCONCLUSIVE),
    ([0.25, NAN, 0.25], Verdict.NON_FINITE),
]
BASELINES: list[tuple[tuple[float, tuple[str, ...]] | None, Verdict]] = [
    ((0.0, ()), Verdict.PASS),
    ((-0.25, ()), Verdict.REGRESSED),
    ((0.25, ()), Verdict.IMPROVED),
    (None, Verdict.NO_BASELINE),
    ((0.0, ("seed: accepted with 1, now 2",)), Verdict.STALE_BASELINE),
    ((-0.25, ("seed: accepted with 1, now 2",)), Verdict.STALE_BASELINE),
]


@pytest.mark.parametrize(
    ("artifact", "figures", "accepted"), list(itertools.product(ARTIFACTS, FIGURES, BASELINES))
)
def test_of_all_that_apply_the_first_verdict_counts(
    artifact: tuple[ArtifactFacts | None, Verdict],
    figures: tuple[list[float], Verdict],
    accepted: tuple[tuple[float, tuple[str, ...]] | None, Verdict],
) -> None:
    candidate = measured("kld/x", figures[0])
    baseline = accepted[0] and AcceptedFigure(statistics.fmean(figures[0]) + accepted[0][0], accepted[0][1])
    found = judge(
        evidence("kld/x", candidate=candidate, reference=None, artifact=artifact[0], baseline=baseline)
    )
    applicable = {artifact[1], figures[1], accepted[1]}
    assert found.verdict is min(applicable, key=list(Verdict).index)


def test_the_order_of_the_verdicts_is_the_documented_one() -> None:
    assert " ".join(Verdict) == (
        "NOT_QUANTIZED NON_FINITE STALE_BASELINE NO_BASELINE BELOW_FLOOR REGRESSED INCONCLUSIVE STALE_KNOWN "
        "KNOWN IMPROVED PASS"
    )


def test_only_pass_improved_and_known_are_green() -> None:
    assert [verdict for verdict in Verdict if verdict.green] == [
        Verdict.KNOWN,
        Verdict.IMPROVED,
        Verdict.PASS,
    ]


def test_a_baseline_can_mend_only_what_is_about_the_baseline() -> None:
    assert [verdict for verdict in Verdict if verdict.updatable] == [
        Verdict.STALE_BASELINE,
        Verdict.NO_BASELINE,
        Verdict.REGRESSED,
        Verdict.IMPROVED,
    ]


@pytest.mark.parametrize("metric", ["ppl/web", "acc/pooled", "bpw"])
def test_the_same_model_as_accepted_passes(metric: str) -> None:
    candidate, reference = measured(metric, [2.0, 2.0, 2.0]), measured(metric, [1.75, 2.0, 2.25])
    found = judge(evidence(metric, candidate=candidate, reference=reference, baseline=AcceptedFigure(2.0)))
    assert found == Judgement(Verdict.PASS, (), found.difference, Drift(0.0, 0.1), found.test)
    assert found.difference is not None
    assert (found.difference.mean, found.difference.n) == (0.0, 3)


@pytest.mark.parametrize(
    ("artifact", "reason"),
    [
        (None, "the model holds no quantized layer"),
        (ArtifactFacts(LAYERS, ()), "the model holds no quantized layer"),
        (
            ArtifactFacts(LAYERS, (layer(LAYERS[1]),)),
            f"1 of 2 decoder Linears are not quantized, {LAYERS[0]} first",
        ),
        (facts(decoded=False), "not what its stored tensors decode to"),
        (facts(levels_respected=False), "more levels than its width can tell apart"),
    ],
)
def test_figures_of_a_model_that_is_not_really_quantized_say_nothing(
    artifact: ArtifactFacts | None, reason: str
) -> None:
    found = judge(evidence(artifact=artifact))
    assert found.verdict is Verdict.NOT_QUANTIZED
    assert reason in found.reasons[0]
    assert found.difference is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"artifact": facts(finite=False)}, "decodes to NaN or Inf"),
        ({"candidate": None}, "the metric produced no figure"),
        ({"candidate": measured("ppl/web", [1.0, NAN, 3.0])}, "quantized model's figure is nan over 3 items"),
        ({"candidate": measured("ppl/web", [1.0, math.inf, 3.0])}, "quantized model's figure is inf"),
        ({"candidate": measured("ppl/web", [800.0])}, "quantized model's figure is inf over 1 items"),
        ({"candidate": measured("ppl/web", [-math.inf])}, "quantized model's figure is 0.0 over 1 items"),
        ({"candidate": measured("ppl/web", [])}, "quantized model's figure is nan over 0 items"),
        ({"reference": measured("ppl/web", [NAN, 2.0, 3.0])}, "reference's figure is nan over 3 items"),
        ({"reference": None}, "no figure on the same items"),
        ({"reference": measured("ppl/web", [1.0, 2.0, 3.0], items="others")}, "no figure on the same items"),
        ({"reference": measured("ppl/web", [1.0, 2.0])}, "no figure on the same items"),
    ],
)
def test_what_gives_no_finite_difference_is_red_in_any_cell(changes: dict[str, Any], reason: str) -> None:
    for bounds in (BOUNDS, Bounds(None, 0.1, "collapsed")):
        for baseline in (AcceptedFigure(2.25), None):
            found = judge(evidence(**{"bounds": bounds, "baseline": baseline, **changes}))
            assert found.verdict is Verdict.NON_FINITE
            assert reason in found.reasons[0]
            assert (found.difference, found.drift) == (None, None)


@pytest.mark.parametrize("metric", ["kld/x", "top1/x"])
def test_a_metric_that_is_relative_needs_no_reference(metric: str) -> None:
    found = judge(
        evidence(metric, candidate=measured(metric, [0.7, 0.7]), reference=None, bounds=Bounds(0.8, 9, ""))
    )
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(0.7 if metric == "kld/x" else 0.3)


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [(0.5, "PASS"), (math.nextafter(0.5, 1), "BELOW_FLOOR"), (math.nextafter(0.5, 0), "PASS")],
)
def test_a_floor_may_be_met_and_not_passed_by_one_ulp(difference: float, verdict: str) -> None:
    assert divergence([difference, difference]).verdict == verdict


@pytest.mark.parametrize(
    ("drift", "verdict"),
    [
        (0.125, "PASS"),
        (math.nextafter(0.125, 1), "REGRESSED"),
        (-0.125, "PASS"),
        (math.nextafter(-0.125, -1), "IMPROVED"),
    ],
)
def test_a_drift_margin_may_be_met_and_not_passed_by_one_ulp(drift: float, verdict: str) -> None:
    found = divergence([drift, drift], Bounds(None, 0.125, ""), accepted=0.0)
    assert found.verdict == verdict
    assert found.drift is not None
    assert found.drift.change == drift


def test_one_counted_figure_is_enough() -> None:
    def bpw(stored: float) -> Verdict:
        candidate, reference = measured("bpw", [stored]), measured("bpw", [3.0])
        return judge(
            evidence("bpw", candidate=candidate, reference=reference, baseline=AcceptedFigure(3.25))
        ).verdict

    assert bpw(3.25) is Verdict.PASS
    assert bpw(3.375) is Verdict.REGRESSED
    assert bpw(3.0) is Verdict.IMPROVED
    assert bpw(3.5 + 1 / 1024) is Verdict.BELOW_FLOOR


@pytest.mark.parametrize(
    ("outcomes", "accepted", "verdict"),
    [
        ([5.0, 5.0], 5.0, "PASS"),
        ([5.0], 5.0, "PASS"),
        ([0.0, 10.0], 5.0, "PASS"),
        ([5.0, 5.0], 4.0, "REGRESSED"),
        ([5.0, 5.0], 6.0, "IMPROVED"),
    ],
)
def test_a_collapsed_cell_has_no_floor_but_drifts(
    outcomes: list[float], accepted: float, verdict: str
) -> None:
    collapsed = Bounds(None, 0.1, "RTN at 2 bits")
    assert divergence(outcomes, collapsed, accepted).verdict == verdict


def test_a_collapsed_cell_without_baseline_is_red() -> None:
    found = judge(evidence(bounds=Bounds(None, 0.1, "RTN at 2 bits"), baseline=None))
    assert found.verdict is Verdict.NO_BASELINE
    assert found.reasons == ("no accepted baseline",)


@pytest.mark.parametrize("metric", ["ppl/web", "acc/pooled"])
def test_a_rise_is_a_loss_for_perplexity_and_a_gain_for_accuracy(metric: str) -> None:
    up = evidence(metric, candidate=measured(metric, [3.0, 3.0]), reference=measured(metric, [2.0, 2.0]))
    down = evidence(metric, candidate=measured(metric, [2.0, 2.0]), reference=measured(metric, [3.0, 3.0]))
    worse, better = (up, down) if metric == "ppl/web" else (down, up)
    drifts = [judge(replace(one, baseline=AcceptedFigure(2.5))).drift for one in (worse, better)]
    assert [found and found.change for found in drifts] == [0.5, -0.5]
    assert judge(worse).verdict is Verdict.BELOW_FLOOR
    assert judge(replace(better, baseline=AcceptedFigure(2.5))).verdict is Verdict.IMPROVED


def test_all_reasons_are_given_the_deciding_one_first() -> None:
    found = divergence([0.75, 0.75], accepted=0.5)
    assert found.verdict is Verdict.BELOW_FLOOR
    assert found.reasons == (
        "0.75 worse than the reference, the floor allows 0.5",
        "0.25 worse than the accepted baseline, the drift margin is 0.1",
    )
    both = divergence([0.0, 0.25, 0.75], accepted=0.0)
    assert both.verdict is Verdict.REGRESSED
    assert [reason.split()[0] for reason in both.reasons] == ["0.333333", "the"]


def test_an_improvement_asks_for_a_new_baseline() -> None:
    found = divergence([0.25, 0.25], accepted=0.5)
    assert found.verdict is Verdict.IMPROVED
    assert found.reasons == (
        "0.25 better than the accepted baseline, beyond the margin of 0.1: accept a new baseline",
    )


def test_without_baseline_the_floor_is_reported_too() -> None:
    found = judge(evidence(baseline=None, bounds=Bounds(0.125, 0.1, "")))
    assert found.verdict is Verdict.NO_BASELINE
    assert found.reasons == (
        "no accepted baseline",
        "0.25 worse than the reference, the floor allows 0.125",
    )
    assert found.difference is not None
    assert found.drift is None


def test_a_stale_baseline_says_what_differs_and_is_not_compared_with() -> None:
    stale = ("seed: accepted with 1, now 2", "items: accepted with 'a', now 'b'")
    found = judge(evidence(baseline=AcceptedFigure(-100.0, stale)))
    assert (found.verdict, found.reasons, found.drift) == (Verdict.STALE_BASELINE, stale, None)


@pytest.mark.parametrize(
    "broken",
    [{"bounds": Bounds(NAN, 0.1, "")}, {"bounds": Bounds(0.5, NAN, "")}, {"baseline": AcceptedFigure(NAN)}],
)
def test_a_bound_or_baseline_that_is_nan_is_never_green(broken: dict[str, Any]) -> None:
    assert not judge(evidence(**broken)).verdict.green


@given(UNITS, UNITS.map(abs))
def test_no_figure_is_rounded_before_it_is_compared(difference: float, floor: float) -> None:
    for moved in (math.nextafter(difference, -9), difference, math.nextafter(difference, 9)):
        below = divergence([moved, moved], Bounds(floor, 1e9, "")).verdict is Verdict.BELOW_FLOOR
        assert below is (moved > floor)


def severity(found: Judgement) -> int:
    return SEVERITY.index(found.verdict)


@given(st.lists(UNITS, min_size=2, max_size=12), SHIFTS, UNITS, st.sampled_from(["ppl/web", "acc/pooled"]))
def test_a_candidate_worse_on_every_item_never_gets_a_better_verdict(
    outcomes: list[float], shift: float, accepted: float, metric: str
) -> None:
    def verdict(moved: float) -> int:
        candidate = measured(metric, [outcome + moved for outcome in outcomes])
        # Not a thousandth: a figure that equals the reference's is taken for it.
        reference = measured(metric, [math.pi / 10] * len(outcomes))
        world = evidence(metric, candidate=candidate, reference=reference, baseline=AcceptedFigure(accepted))
        return severity(judge(world))

    assert verdict(-shift if metric == "acc/pooled" else shift) >= verdict(0.0)


@given(st.lists(UNITS, min_size=1, max_size=12), st.data())
def test_one_worse_item_never_betters_a_drift(outcomes: list[float], data: st.DataObject) -> None:
    item, shift = data.draw(st.integers(0, len(outcomes) - 1)), data.draw(SHIFTS)
    worse = [outcome + shift * (at == item) for at, outcome in enumerate(outcomes)]
    collapsed = Bounds(None, 0.125, "")
    assert severity(divergence(worse, collapsed, 0.0)) >= severity(divergence(outcomes, collapsed, 0.0))


@given(st.lists(UNITS, min_size=1, max_size=12), UNITS.map(abs), SHIFTS, UNITS)
def test_wider_bounds_never_turn_a_gate_red(
    outcomes: list[float], floor: float, wider: float, accepted: float
) -> None:
    narrow = divergence(outcomes, Bounds(floor, 0.125, ""), accepted).verdict
    wide = divergence(outcomes, Bounds(floor + wider, 0.125 + wider, ""), accepted).verdict
    assert wide.green >= narrow.green


@given(st.lists(UNITS, min_size=1, max_size=12), UNITS)
def test_accepting_a_baseline_never_moves_a_floor(outcomes: list[float], accepted: float) -> None:
    floor_verdicts = {Verdict.BELOW_FLOOR, Verdict.INCONCLUSIVE}
    before, after = divergence(outcomes, accepted=accepted), divergence(outcomes)
    if before.verdict in floor_verdicts:
        assert after.verdict is before.verdict
    assert before.difference == after.difference
    assert after.verdict in floor_verdicts | {Verdict.PASS}


OUTCOMES = st.lists(st.floats(-1e6, 1e6) | st.sampled_from([NAN, math.inf, -math.inf]), max_size=5)


@given(OUTCOMES, OUTCOMES, st.sampled_from(["ppl/x", "acc/x", "kld/x", "top1/x", "bpw"]), st.booleans())
def test_every_evidence_ends_in_exactly_one_verdict_and_no_nan_is_green(
    outcomes: list[float], answers: list[float], metric: str, collapsed: bool
) -> None:
    candidate: Measurement = measured(metric, outcomes)
    bounds = Bounds(None if collapsed else 0.5, 0.1, "")
    world: Evidence = evidence(
        metric,
        candidate=candidate,
        reference=measured(metric, answers),
        bounds=bounds,
        baseline=AcceptedFigure(0),
    )
    found = judge(world)
    assert isinstance(found.verdict, Verdict)
    assert all(found.reasons) and (found.reasons or found.verdict is Verdict.PASS)
    if not all(map(math.isfinite, outcomes)) or not outcomes:
        assert found.verdict is Verdict.NON_FINITE
