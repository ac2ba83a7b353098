"""What every paired comparison yields, whatever the outcomes: bounds, one of three answers, and power.

A difference is tested against a margin from both sides. Two errors are possible and have a level each:

- *false alarm*, ``alarm``: saying WORSE though the true difference is within the margin;
- *false pass*, ``alpha``: saying NOT_WORSE though the true difference is beyond the margin.

Rejecting "at least the margin" at one-sided level alpha is non-inferiority by confidence-interval inclusion
(Wellek, Testing Statistical Hypotheses of Equivalence and Noninferiority, 2nd ed. 2010, section 3.1): neither
claim is ever made from the absence of the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

ALARM = 0.01
ALPHA = 0.05
POWER = 0.8


class Answer(StrEnum):
    """What a comparison says of a margin."""

    WORSE = "worse than the margin allows"
    NOT_WORSE = "not worse than the margin allows"
    CANNOT_TELL = "cannot tell"

    @property
    def decided(self) -> bool:
        """Whether more items could not change it."""
        return self is not Answer.CANNOT_TELL


@dataclass(frozen=True)
class Bound:
    """A difference with its one-sided bounds; positive is worse, in the outcomes' unit.

    Attributes:
        estimate: the mean difference.
        lower: the true difference is above it, but with probability `alarm`.
        upper: the true difference is below it, but with probability `alpha`.
        n: number of items.
        clusters: number of independent units that the items come in.
        alarm: level of `lower`, which WORSE rests on.
        alpha: level of `upper`, which NOT_WORSE rests on.
        mde: the smallest true difference that would have been called WORSE with 80 % power; infinite where
            none would.
    """

    estimate: float
    lower: float
    upper: float
    n: int
    clusters: int
    alarm: float
    alpha: float
    mde: float


class Comparison(Protocol):
    """Paired outcomes of two models, ready to be tested.

    Each p-value is of the claim's opposite: small where the claim holds. Levels lie between 0 and 1.
    """

    @property
    def estimate(self) -> float:
        """Mean difference."""

    @property
    def n(self) -> int:
        """Number of items."""

    @property
    def clusters(self) -> int:
        """Number of independent units."""

    def p_worse(self, margin: float) -> float:
        """P-value of "the true difference is at most the margin"."""

    def p_not_worse(self, margin: float) -> float:
        """P-value of "the true difference is at least the margin"."""

    def lower(self, level: float) -> float:
        """Lower confidence bound at one minus ``level``."""

    def upper(self, level: float) -> float:
        """Upper confidence bound at one minus ``level``."""

    def mde(self, margin: float, level: float) -> float:
        """Smallest true difference whose `p_worse` is at most ``level`` with power `POWER`."""

    def needed(self, margin: float, alarm: float, alpha: float) -> int | None:
        """Items that would decide with power `POWER` if the estimate is the truth; ``None`` if none would."""


def bound(comparison: Comparison, margin: float, *, alarm: float = ALARM, alpha: float = ALPHA) -> Bound:
    """The bounds of a comparison at the two levels, and what it could have seen beyond the margin."""
    return Bound(
        comparison.estimate,
        comparison.lower(alarm),
        comparison.upper(alpha),
        comparison.n,
        comparison.clusters,
        alarm,
        alpha,
        comparison.mde(margin, alarm),
    )


def decide(bound: Bound, margin: float) -> Answer:
    """One of three answers; bounds that are NaN cannot tell."""
    if bound.lower > margin:
        return Answer.WORSE
    return Answer.NOT_WORSE if bound.upper <= margin else Answer.CANNOT_TELL
