"""The verdict: pure arithmetic over measured figures, with no I/O.

Two bounds decide. The *floor* limits how much worse than the full-precision reference the model may be;
accepting a baseline never moves it. The *drift* limits how much worse than the last accepted baseline it may
be (`quantcheck.judging.drift`); where none was accepted, a published figure decides instead, if there is one
(`quantcheck.judging.unaccepted`). A margin is compared as it is, never rounded.

The floor is tested (`quantcheck.statistics`), since the items are a sample: accuracies by flips of items,
exactly, all else by the mean of windows; items that share a document, passage or subject count as one. It
holds where the upper 95 % bound of the paired difference is within it, is missed where the lower bound lies
beyond it, and cannot be told otherwise. Comparisons are written so that a NaN fails them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from quantcheck.judging.drift import drift
from quantcheck.judging.early import as_accepted, early, guesses
from quantcheck.judging.evidence import (
    AcceptedFigure,
    Bounds,
    Drift,
    Evidence,
    Finding,
    FloorTest,
    Judgement,
    Verdict,
)
from quantcheck.judging.guards import non_finite, not_quantized
from quantcheck.judging.unaccepted import unaccepted
from quantcheck.measurement import Measurement, PairedDifference, differences, paired_difference
from quantcheck.statistics.accuracy import Flips, flips
from quantcheck.statistics.bound import ALPHA, Answer, Bound, Comparison, bound, decide
from quantcheck.statistics.means import means

__all__ = [
    "AcceptedFigure",
    "Bounds",
    "Drift",
    "Evidence",
    "FloorTest",
    "Judgement",
    "Verdict",
    "finding",
    "judge",
    "tested",
]


def judge(evidence: Evidence) -> Judgement:
    """Decide one gate.

    The artifact is looked at first: figures of a model that was not really quantized say nothing.
    """
    if missing := not_quantized(evidence):
        return Judgement(Verdict.NOT_QUANTIZED, (missing,))
    if broken := non_finite(evidence):
        return Judgement(Verdict.NON_FINITE, (broken,))
    candidate, baseline = evidence.candidate, evidence.baseline
    assert candidate is not None
    difference = paired_difference(candidate, evidence.reference)
    if candidate.taken is not None:
        return _judge_part(evidence, candidate, difference)
    test = _test(evidence, candidate)
    floor = _floor(evidence, test)
    if baseline is not None and baseline.stale:
        return Judgement(Verdict.STALE_BASELINE, baseline.stale, difference, test=test)
    drifted = None if baseline is None else drift(evidence, candidate, baseline)
    other = unaccepted(evidence.published) if drifted is None else drifted.finding
    return _judgement([floor, other], difference, drifted, test)


def _judge_part(evidence: Evidence, candidate: Measurement, difference: PairedDifference) -> Judgement:
    """Decide a gate that was decided before all of its items were taken."""
    stop, baseline = evidence.stop, evidence.baseline
    if stop is None or baseline is None:
        reason = f"{candidate.n} items were taken, not all, and there is no rule that they decide by"
        return Judgement(Verdict.INCONCLUSIVE, (reason,), difference)
    if baseline.stale:
        return Judgement(Verdict.STALE_BASELINE, baseline.stale, difference)
    found = early(evidence, candidate, baseline, stop)
    if not found.unchanged:
        return _judgement(found.findings, difference, found.drift, found.floor)
    whole = as_accepted(evidence, candidate, stop)
    assert whole.candidate is not None
    test = _test(whole, whole.candidate)
    return _judgement([_floor(whole, test)], difference, found.drift, test)


def _judgement(
    findings: Iterable[Finding | None],
    difference: PairedDifference,
    drifted: Drift | None,
    test: FloorTest | None,
) -> Judgement:
    found = [finding for finding in findings if finding]
    found.sort(key=lambda finding: list(Verdict).index(finding[0]))
    verdict = found[0][0] if found else Verdict.PASS
    return Judgement(verdict, tuple(reason for _, reason in found), difference, drifted, test)


def _test(evidence: Evidence, candidate: Measurement) -> FloorTest | None:
    floor = evidence.bounds.floor
    if floor is None:
        return None
    if candidate.kind.exact:
        return _counted(paired_difference(candidate, evidence.reference), floor)
    test = tested(_comparison(candidate, evidence.reference), floor, *evidence.levels)
    if _guesses(evidence.reference) is None:
        return test
    return replace(test, answer=Answer.CANNOT_TELL, needed=None, p_worse=None)


def tested(compared: Comparison, margin: float, alarm: float, alpha: float = ALPHA) -> FloorTest:
    """Test a paired comparison against a margin, from both sides; the levels are those of `Bound`."""
    found = bound(compared, margin, alarm=alarm, alpha=alpha)
    answer = decide(found, margin)
    return FloorTest(
        answer,
        found,
        compared.harmful if isinstance(compared, Flips) else None,
        compared.beneficial if isinstance(compared, Flips) else None,
        None if answer.decided else compared.needed(margin, alarm, alpha),
        compared.p_worse(margin),
    )


def _counted(difference: PairedDifference, floor: float) -> FloorTest:
    """A figure that is counted has no sampling error."""
    exact, n = difference.mean, difference.n
    found = Bound(exact, exact, exact, n, n, 0.0, 0.0, floor)
    return FloorTest(decide(found, floor), found)


def _comparison(candidate: Measurement, reference: Measurement | None) -> Comparison:
    if reference is not None and all(
        np.isin(measured.outcomes, (0, 1)).all()
        and not measured.kind.relative
        and measured.kind.higher_is_better
        for measured in (candidate, reference)
    ):
        return flips(reference.outcomes, candidate.outcomes, candidate.clusters)
    return means(differences(candidate, reference), candidate.clusters)


def _floor(evidence: Evidence, test: FloorTest | None) -> Finding | None:
    if test is None:
        return None
    if guessing := _guesses(evidence.reference):
        return Verdict.INCONCLUSIVE, guessing
    assert evidence.bounds.floor is not None
    return finding(test, evidence.bounds.floor)


def finding(
    test: FloorTest, margin: float, *, than: str = "the reference", limit: str = "the floor"
) -> Finding | None:
    """What a test says, in words: worse ``than`` what, and by which ``limit``; ``None`` where it is held."""
    found = test.bound
    match test.answer:
        case Answer.NOT_WORSE:
            return None
        case Answer.WORSE:
            sure = f", {found.lower:.6g} at least" if found.lower < found.estimate else ""
            return (
                Verdict.BELOW_FLOOR,
                f"{found.estimate:.6g} worse than {than}{sure}, {limit} allows {margin:.6g}",
            )
    number = f"about {test.needed} items" if test.needed else "no number of items"
    return (
        Verdict.INCONCLUSIVE,
        f"the difference lies between {found.lower:.6g} and {found.upper:.6g}, on either side of {limit} "
        f"of {margin:.6g}: {_sample(found)} cannot tell, {number} would decide",
    )


def _guesses(reference: Measurement | None) -> str | None:
    """A reference that guesses has nothing to lose: that a model loses nothing against it says nothing."""
    if reference is None or reference.chance is None or not guesses(reference):
        return None
    return (
        f"the reference scores {reference.mean:.6g} where guessing scores {reference.chance:.6g}: it has "
        f"nothing to lose, so this metric cannot tell; take one that it is good at"
    )


def _sample(found: Bound) -> str:
    items = f"{found.n} item{'s' * (found.n != 1)}"
    return items if found.clusters == found.n else f"{items} in {found.clusters} independent groups"
