"""Gates that may end before all of their items were taken: what their rule rests on, and what it answered.

On a part of the items, bounds are those of the rule (`quantcheck.stopping`), which hold whenever one stops;
figures are those of the items taken, the reference's and the accepted ones on the same items. A model that is
unchanged has its floor tested on the accepted outcomes of all items.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from quantcheck.judging.drift import allowed_moves, drift, drift_margin, same_artifact
from quantcheck.judging.evidence import (
    AcceptedFigure,
    Drift,
    Evidence,
    Finding,
    FloorTest,
    Verdict,
)
from quantcheck.measurement import Measurement, differences, kind_of
from quantcheck.statistics.bound import Answer, Bound
from quantcheck.stopping import Decided, Known, Places, Stop, Values


@dataclass(frozen=True)
class Early:
    """What the rule of a gate found.

    Attributes:
        floor: the test of the floor; ``None`` for a cell without one, and where it was not asked any more.
        drift: from what was accepted.
        findings: verdicts that apply.
        unchanged: whether the floor is that of the accepted outcomes.
    """

    floor: FloorTest | None
    drift: Drift
    findings: tuple[Finding, ...]
    unchanged: bool = False


def known_before(evidence: Evidence, clusters: Places | None) -> Known | None:
    """What is known of a gate before it is measured; ``None`` for one that takes all items.

    That is a gate without accepted outcomes or without a reference, one whose reference does no better than
    guessing, and one that is counted.

    Args:
        evidence: without a candidate; the reference's measurement is of all items.
        clusters: label of each item; ``None``: all independent.
    """
    kind, baseline, reference = kind_of(evidence.metric), evidence.baseline, evidence.reference
    if kind.exact or baseline is None or baseline.stale or baseline.outcomes is None:
        return None
    if not kind.relative and (
        reference is None or reference.n != baseline.outcomes.size or guesses(reference)
    ):
        return None
    if clusters is not None and clusters.size != baseline.outcomes.size:
        return None
    return Known(
        kind,
        None if kind.relative or reference is None else reference.outcomes,
        baseline.outcomes,
        allowed_moves(kind, baseline),
        clusters,
        evidence.bounds.floor,
        drift_margin(evidence, baseline),
        evidence.alarm,
        same_artifact(evidence, baseline),
    )


def early(evidence: Evidence, candidate: Measurement, baseline: AcceptedFigure, stop: Stop) -> Early:
    """Read the rule's answer off the items that were taken."""
    taken = candidate.taken
    assert taken is not None
    outcomes = stop.first(taken, candidate.outcomes)
    decided = stop.answer(outcomes)
    moved = drift(evidence, candidate, _at(baseline, taken))
    if decided is None or moved.margin == 0:
        return _undecided(moved, candidate, stop)
    count = f"decided after {decided.taken} of {stop.order.size} items"
    drifted = _drift(moved, decided, count)
    if decided.unchanged:
        return Early(None, drifted, (), unchanged=True)
    floor = _floor_test(evidence, candidate, outcomes, decided, stop)
    findings = [drifted.finding] if drifted.finding else []
    if floor is not None and floor.answer is Answer.WORSE:
        found = floor.bound
        reason = (
            f"{found.estimate:.6g} worse than the reference, {found.lower:.6g} at least, the floor allows "
            f"{evidence.bounds.floor:.6g}: {count}"
        )
        findings.insert(0, (Verdict.BELOW_FLOOR, reason))
    return Early(floor, drifted, tuple(findings))


def as_accepted(evidence: Evidence, candidate: Measurement, stop: Stop) -> Evidence:
    """The evidence of an unchanged model: the accepted outcomes of all items, beside the reference's."""
    facts = stop.known
    whole = replace(candidate, outcomes=facts.accepted, clusters=facts.clusters, taken=None)
    reference = None if facts.reference is None else replace(whole, outcomes=facts.reference)
    return replace(evidence, candidate=whole, reference=reference)


def guesses(reference: Measurement) -> bool:
    """Whether a reference does no better than guessing: it has nothing to lose."""
    return reference.chance is not None and reference.mean <= reference.chance


def _undecided(moved: Drift, candidate: Measurement, stop: Stop) -> Early:
    if moved.margin == 0 and moved.finding:
        return Early(None, moved, (moved.finding,))
    reason = (
        f"{candidate.n} of {stop.order.size} items were taken, and they decide nothing: measure all, without "
        "--quantcheck-sequential"
    )
    return Early(None, replace(moved, finding=None), ((Verdict.INCONCLUSIVE, reason),))


def _drift(found: Drift, decided: Decided, count: str) -> Drift:
    if decided.drift is Answer.WORSE:
        reason = (
            f"{found.change:.6g} worse than the accepted baseline on the same items, the drift margin is "
            f"{found.margin:.6g}: {count}"
        )
        return replace(found, finding=(Verdict.REGRESSED, reason))
    better = found.finding is not None and found.finding[0] is Verdict.IMPROVED
    return found if better else replace(found, finding=None)


def _floor_test(
    evidence: Evidence, candidate: Measurement, outcomes: Values, decided: Decided, stop: Stop
) -> FloorTest | None:
    if stop.floor is None or decided.floor is None:
        return None
    worse = differences(candidate, evidence.reference)
    lower, upper = stop.bounds(outcomes)
    units = worse.size if candidate.clusters is None else int(np.unique(candidate.clusters).size)
    levels = stop.floor.alarm, stop.floor.alpha
    found = Bound(float(worse.mean()), lower, upper, worse.size, units, *levels, math.nan)
    return FloorTest(decided.floor, found, p_worse=decided.p_worse)


def _at(baseline: AcceptedFigure, taken: Places) -> AcceptedFigure:
    """The accepted figure on some of its items."""
    assert baseline.outcomes is not None and baseline.tolerance is not None
    outcomes = baseline.outcomes[taken]
    return replace(
        baseline, mean=float(outcomes.mean()), outcomes=outcomes, tolerance=baseline.tolerance[taken]
    )
