"""What a verdict depends on, and what it is: the vocabulary of the judging core, plain data.

Every difference is signed so that positive means worse, and lives in the unit of the outcomes: nats of mean
NLL or KL divergence, fraction of items, bits per weight; of layers' errors it is the logarithm of a ratio.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from quantcheck.artifact_facts import ArtifactFacts
from quantcheck.measurement import Measurement, PairedDifference
from quantcheck.published import Match
from quantcheck.statistics.bound import ALARM, ALPHA, Answer, Bound
from quantcheck.stopping import LAST_ALARM, LAST_ALPHA, Stop


class Verdict(StrEnum):
    """How a gate ended. Where several apply, the first in this order counts."""

    NOT_QUANTIZED = "NOT_QUANTIZED"
    NON_FINITE = "NON_FINITE"
    STALE_BASELINE = "STALE_BASELINE"
    NO_BASELINE = "NO_BASELINE"
    BELOW_FLOOR = "BELOW_FLOOR"
    REGRESSED = "REGRESSED"
    INCONCLUSIVE = "INCONCLUSIVE"
    STALE_KNOWN = "STALE_KNOWN"
    KNOWN = "KNOWN"
    IMPROVED = "IMPROVED"
    PASS = "PASS"

    @property
    def green(self) -> bool:
        """Whether a test with this verdict passes."""
        return self in {Verdict.KNOWN, Verdict.PASS, Verdict.IMPROVED}

    @property
    def updatable(self) -> bool:
        """Whether a new baseline could mend it: only where nothing but the baseline is at issue."""
        return self in {Verdict.STALE_BASELINE, Verdict.NO_BASELINE, Verdict.REGRESSED, Verdict.IMPROVED}


Finding = tuple[Verdict, str]
"""A verdict that applies, and the sentence that says why."""


@dataclass(frozen=True)
class Bounds:
    """The policy's bounds for one cell, in the outcomes' unit.

    Attributes:
        floor: largest allowed difference from the reference; ``None`` for a cell that is declared collapsed,
            and for a metric that has none.
        drift: largest allowed difference from the baseline; a gain larger than it is an improvement.
        reason: why the policy sets them so.
    """

    floor: float | None
    drift: float
    reason: str


@dataclass(frozen=True, eq=False)
class AcceptedFigure:
    """What the gate needs of a stored baseline.

    Attributes:
        mean: mean outcome when it was accepted, in the outcomes' unit.
        stale: what it depends on that differs from this run, in words; empty when it may be compared.
        outcomes: of each item, float64 [n], as near as they are stored; ``None`` where they were not kept.
        tolerance: how far each of them may lie from what was measured, float64 [n], for its storage alone.
        artifact: digest of what was stored for the quantized model; empty where unknown.
        codes: digest of each layer of it, in the layers' order; empty where unknown.
        noise: largest change of one item when the same artifact was measured in other batches and sums.
        spread: standard deviation over calibrations with other samples, of the mean outcome, or of the
            logarithm of each layer's error; ``None`` where it was not measured.
        freedom: degrees of freedom of ``spread``.
    """

    mean: float
    stale: tuple[str, ...] = ()
    outcomes: NDArray[np.float64] | None = None
    tolerance: NDArray[np.float64] | None = None
    artifact: str = ""
    codes: tuple[str, ...] = ()
    noise: float = 0.0
    spread: float | tuple[float, ...] | None = None
    freedom: float = 0


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
        same_codes: whether the accepted codes must come out again, bit for bit: the method reads nothing but
            the weights, or it runs on the very machine and libraries that they were accepted on.
        stop: the rule by which the gate may end before all of its items were taken; ``None``: it may not.
        kernels: that layers were to be computed by; empty: by their decoded weights.
        published: the published figure that the candidate's was compared with, ``None`` when there is none.
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
    same_codes: bool = False
    kernels: tuple[str, ...] = ()
    published: Match | None = None
    stop: Stop | None = None

    @property
    def levels(self) -> tuple[float, float]:
        """Levels of a false alarm and of a false pass of a test of the floor on all items."""
        shares = (1.0, 1.0) if self.stop is None else (LAST_ALARM, LAST_ALPHA)
        return self.alarm * shares[0], ALPHA * shares[1]


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
        p_worse: p-value of "the true difference is at most the floor"; ``None`` for a counted figure, and
            where no difference would tell.
    """

    answer: Answer
    bound: Bound
    harmful: int | None = None
    beneficial: int | None = None
    needed: int | None = None
    p_worse: float | None = None


@dataclass(frozen=True)
class Drift:
    """How far the figure is from the accepted one.

    Attributes:
        change: positive is worse; of layers' errors the logarithm of the ratio that moved most.
        margin: what is allowed: the policy's, or more where recalibrating was seen to move it more.
        finding: what follows, ``None`` where it is within the margin.
    """

    change: float
    margin: float
    finding: Finding | None = None


@dataclass(frozen=True)
class Judgement:
    """A verdict with the figures behind it.

    Attributes:
        verdict: the first that applies.
        reasons: one sentence each: which bound, by how much.
        difference: from the reference, paired; ``None`` when it could not be computed.
        drift: from the baseline; ``None`` without a comparable one.
        test: of the floor; ``None`` for a cell without one.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    difference: PairedDifference | None = None
    drift: Drift | None = None
    test: FloorTest | None = None
