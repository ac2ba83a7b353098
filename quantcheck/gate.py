"""The verdict: pure arithmetic over measured figures, with no I/O.

Every difference is signed so that positive means worse, and lives in the unit of the outcomes: nats of mean
NLL or KL divergence, fraction of items, bits per weight. A margin is compared as it is, never rounded.

Two bounds decide. The *floor* limits how much worse than the full-precision reference the model may be;
accepting a baseline never moves it. The *drift* limits how much worse than the last accepted baseline it may
be. The floor is tested (`quantcheck.statistics`), since the items are a sample: accuracies by flips of items,
exactly, all else by the mean of windows. It holds where the upper 95 % bound of the paired difference is
within it, is missed where the lower bound lies beyond it, and cannot be told otherwise. The drift compares
two figures on the same items, where there is no sampling error left. Comparisons are written so that a NaN
fails them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from quantcheck.artifact_facts import ArtifactFacts
from quantcheck.measurement import Measurement, PairedDifference, differences, paired_difference, pairs
from quantcheck.statistics.accuracy import Flips, flips
from quantcheck.statistics.bound import ALARM, ALPHA, Answer, Bound, Comparison, bound, decide
from quantcheck.statistics.means import means

# Methods that mix widths come out near their nominal bits, not on them: BiLLM, called 1.1 bits, stores 1 bit
# and a second one for at most 49 of 128 columns, 1.38.
NOMINAL_SLACK = 0.3


class Verdict(StrEnum):
    """How a gate ended. Where several apply, the first in this order counts."""

    NOT_QUANTIZED = "NOT_QUANTIZED"
    NON_FINITE = "NON_FINITE"
    STALE_BASELINE = "STALE_BASELINE"
    NO_BASELINE = "NO_BASELINE"
    BELOW_FLOOR = "BELOW_FLOOR"
    REGRESSED = "REGRESSED"
    INCONCLUSIVE = "INCONCLUSIVE"
    IMPROVED = "IMPROVED"
    PASS = "PASS"

    @property
    def green(self) -> bool:
        """Whether a test with this verdict passes."""
        return self in {Verdict.PASS, Verdict.IMPROVED}

    @property
    def updatable(self) -> bool:
        """Whether a new baseline could mend it: only where nothing but the baseline is at issue."""
        return self in {Verdict.STALE_BASELINE, Verdict.NO_BASELINE, Verdict.REGRESSED, Verdict.IMPROVED}


@dataclass(frozen=True)
class Bounds:
    """The policy's bounds for one cell, in the outcomes' unit.

    Attributes:
        floor: largest allowed difference from the reference; ``None`` for a cell that is declared collapsed.
        drift: largest allowed difference from the baseline; a gain larger than it is an improvement.
        reason: why the policy sets them so.
    """

    floor: float | None
    drift: float
    reason: str

    @property
    def collapsed(self) -> bool:
        """Whether the cell is declared collapsed: no floor, but drift, artifact and finiteness still gate."""
        return self.floor is None


@dataclass(frozen=True)
class AcceptedFigure:
    """What the gate needs of a stored baseline.

    Attributes:
        mean: mean outcome when it was accepted, in the outcomes' unit.
        stale: what it depends on that differs from this run, in words; empty when it may be compared.
    """

    mean: float
    stale: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """All that a verdict depends on.

    Attributes:
        metric: name, ``kind/what``.
        candidate: the quantized model's measurement; ``None`` when the metric produced no figure.
        reference: the full-precision model's on the same items; ``None`` for metrics that are relative by
            nature.
        artifact: what is stored for the quantized model; ``None`` when nothing was.
        baseline: the accepted figure, ``None`` when there is none.
        bounds: of the policy.
        bits: nominal weight bits that the spec asks for; ``None`` where no spec is at hand.
        act_bits: activation bits that it asks for; ``None`` for activations in floating point.
        alarm: level of a false alarm at this gate, its share of the run's budget.
    """

    metric: str
    candidate: Measurement | None
    reference: Measurement | None
    artifact: ArtifactFacts | None
    baseline: AcceptedFigure | None
    bounds: Bounds
    bits: float | None = None
    act_bits: int | None = None
    alarm: float = ALARM


@dataclass(frozen=True)
class FloorTest:
    """What testing the difference from the reference against the floor gave.

    Attributes:
        answer: missed, held, or cannot be told.
        bound: the difference with its bounds, and the smallest one that would have been seen.
        harmful: items that only the reference got right; ``None`` but for accuracies.
        beneficial: items that only the candidate got right, likewise.
        needed: items that would decide if the difference stays; ``None`` where nothing is left to decide, or
            no number of items would.
    """

    answer: Answer
    bound: Bound
    harmful: int | None = None
    beneficial: int | None = None
    needed: int | None = None


@dataclass(frozen=True)
class Judgement:
    """A verdict with the figures behind it.

    Attributes:
        verdict: the first that applies.
        reasons: one sentence each: which bound, by how much.
        difference: from the reference, paired; ``None`` when it could not be computed.
        drift: from the baseline, positive is worse; ``None`` without a comparable baseline.
        test: of the floor; ``None`` for a cell without one.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    difference: PairedDifference | None = None
    drift: float | None = None
    test: FloorTest | None = None


def judge(evidence: Evidence) -> Judgement:
    """Decide one gate.

    The artifact is looked at first: figures of a model that was not really quantized say nothing.
    """
    if missing := _not_quantized(evidence):
        return Judgement(Verdict.NOT_QUANTIZED, (missing,))
    if broken := _non_finite(evidence):
        return Judgement(Verdict.NON_FINITE, (broken,))
    candidate = evidence.candidate
    assert candidate is not None
    difference = paired_difference(candidate, evidence.reference)
    test = _test(evidence)
    floor = _floor(test, evidence.bounds)
    baseline = evidence.baseline
    if baseline is None:
        reasons = ("no accepted baseline", *([floor[1]] if floor else []))
        return Judgement(Verdict.NO_BASELINE, reasons, difference, test=test)
    if baseline.stale:
        return Judgement(Verdict.STALE_BASELINE, baseline.stale, difference, test=test)
    drift = _drift(candidate, baseline)
    found = [floor, _drift_finding(drift, evidence.bounds.drift)]
    findings = sorted(
        (finding for finding in found if finding), key=lambda finding: list(Verdict).index(finding[0])
    )
    if not findings:
        return Judgement(Verdict.PASS, (), difference, drift, test)
    return Judgement(findings[0][0], tuple(reason for _, reason in findings), difference, drift, test)


def _not_quantized(evidence: Evidence) -> str | None:
    artifact, bits = evidence.artifact, evidence.bits
    if artifact is None or not artifact.layers:
        return "nothing was quantized: the model holds no quantized layer"
    if artifact.unquantized:
        missing, expected = artifact.unquantized, len(artifact.expected_layers)
        return f"{len(missing)} of {expected} decoder Linears are not quantized, {missing[0]} first"
    if not artifact.decoded:
        return "the weights that the model computes with are not what its stored tensors decode to"
    if not artifact.levels_respected:
        return "a group of weights has more levels than its width can tell apart"
    if bits is not None and not abs(artifact.nominal_bits - bits) <= NOMINAL_SLACK:
        return f"{artifact.nominal_bits:.4g} bits a weight are stored where the spec asks for {bits:g}"
    return None if bits is None else _other_activations(artifact, evidence.act_bits)


def _other_activations(artifact: ArtifactFacts, act_bits: int | None) -> str | None:
    others = artifact.without_activations(act_bits)
    if not others:
        return None
    asked = "in floating point" if act_bits is None else f"rounded to {act_bits} bits"
    return f"{others[0]}, first of {len(others)}, does not take its inputs {asked} as the spec asks"


def _non_finite(evidence: Evidence) -> str | None:
    assert evidence.artifact is not None
    if not evidence.artifact.finite:
        return "the artifact decodes to NaN or Inf"
    if evidence.candidate is None:
        return "the metric produced no figure: it vanished, or its code returned nothing for this model"
    for who, measured in (("quantized model", evidence.candidate), ("reference", evidence.reference)):
        if measured is not None and not (math.isfinite(measured.value) and math.isfinite(measured.mean)):
            return f"the {who}'s figure is {measured.value} over {measured.n} items"
    if not pairs(evidence.candidate, evidence.reference):
        return "the reference has no figure on the same items: there is no difference to judge"
    return None


def _test(evidence: Evidence) -> FloorTest | None:
    floor, candidate = evidence.bounds.floor, evidence.candidate
    assert candidate is not None
    if floor is None:
        return None
    if candidate.kind.exact:
        return _counted(paired_difference(candidate, evidence.reference), floor)
    compared = _comparison(candidate, evidence.reference)
    found = bound(compared, floor, alarm=evidence.alarm)
    answer = decide(found, floor)
    undecided = answer is Answer.CANNOT_TELL
    return FloorTest(
        answer,
        found,
        compared.harmful if isinstance(compared, Flips) else None,
        compared.beneficial if isinstance(compared, Flips) else None,
        compared.needed(floor, evidence.alarm, ALPHA) if undecided else None,
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
        return flips(reference.outcomes, candidate.outcomes)
    return means(differences(candidate, reference))


def _floor(test: FloorTest | None, bounds: Bounds) -> tuple[Verdict, str] | None:
    if test is None or test.answer is Answer.NOT_WORSE:
        return None
    found = test.bound
    if test.answer is Answer.WORSE:
        sure = f", {found.lower:.6g} at least" if found.lower < found.estimate else ""
        return (
            Verdict.BELOW_FLOOR,
            f"{found.estimate:.6g} worse than the reference{sure}, the floor allows {bounds.floor:.6g}",
        )
    how_many = f"about {test.needed} items would decide" if test.needed else "no number of items would decide"
    return (
        Verdict.INCONCLUSIVE,
        f"the difference lies between {found.lower:.6g} and {found.upper:.6g}, on either side of the floor "
        f"of {bounds.floor:.6g}: {found.n} items cannot tell, {how_many}",
    )


def _drift(candidate: Measurement, baseline: AcceptedFigure) -> float:
    change = candidate.mean - baseline.mean
    return -change if candidate.kind.higher_is_better else change


def _drift_finding(drift: float, margin: float) -> tuple[Verdict, str] | None:
    if not drift <= margin:
        return (
            Verdict.REGRESSED,
            f"{drift:.6g} worse than the accepted baseline, the drift margin is {margin:.6g}",
        )
    if drift < -margin:
        return (
            Verdict.IMPROVED,
            f"{-drift:.6g} better than the accepted baseline, beyond the margin of {margin:.6g}: accept a "
            f"new baseline",
        )
    return None
