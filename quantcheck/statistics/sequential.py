"""Verdicts that stop as soon as they are decided, on items in seeded random order.

Two gamblers start with wealth 1. One bets that outcomes lie above the margin, the other that they lie
below. Where the opposite is true, no way to bet or to stop makes either rich: its wealth ever reaches 1 /
level with a probability of at most level (Ville's inequality). After items x_1, x_2, ... their wealth is
(Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86, 2024,
1-27)::

    worse:     prod_t (1 + f (x_t - margin) / (margin - low))
    not worse: prod_t (1 - f (x_t - margin) / (high - margin))

for outcomes in [low, high]. Each splits its wealth over f = 1, 1/2, 1/4, ... (their diversified Kelly bets)
as 1 : 1/2 : 1/3 ..., so that large and small differences are both found and nothing has to be guessed.
Nothing is assumed but that the items are a random sample of those the verdict is about.

What low and high are. Accuracy: differences are -1, 0 or 1. Agreement: 0 to 1. KL divergence: low is 0.
Log-ratios of perplexity have no bounds; `limits` takes them from an accepted run, twice as far out as it
went. Only the low limit matters to WORSE, only the high one to NOT_WORSE. The rate of false alarms holds
where no window *improves* beyond low, that of false passes where none is worse than high; an outcome beyond
the limit ruins the bets that cannot pay for it, so that what is left is valid for limits as wide as were
seen. A window out there that a gate stops before is not guarded against; no rule that stops early can.
Sub-Gaussian mixtures and the sequential t-test were left out: they ask as much of windows that nobody has
seen, in terms that are harder to check against a run.

Documents, passages and images are the units: `shuffled` keeps them together, `padded` makes one outcome of
each. Whoever tests all items once more where no gambler won adds up both levels: give each half.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantcheck.statistics.bound import ALARM, ALPHA, Answer

FRACTIONS = 0.5 ** np.arange(12)
WEIGHTS = 1 / np.arange(1, 13) / (1 / np.arange(1, 13)).sum()
SLACK = 2.0


@dataclass(frozen=True, eq=False)
class Course:
    """How sequential comparisons went, one of each per run.

    Attributes:
        answers: WORSE, NOT_WORSE, or CANNOT_TELL where all items were taken and neither gambler won.
        taken: number of items taken, in whole batches but for the last.
        p_worse: anytime-valid p-value of "at most the margin": one over the largest wealth until the stop.
        p_not_worse: of "at least the margin".
    """

    answers: tuple[Answer, ...]
    taken: NDArray[np.int64]
    p_worse: NDArray[np.float64]
    p_not_worse: NDArray[np.float64]


@dataclass(frozen=True)
class Betting:
    """The two gamblers of a gate.

    Attributes:
        margin: largest difference that is allowed.
        low: least outcome there is.
        high: greatest outcome there is.
        alarm: level of WORSE, a share of the run's budget.
        alpha: level of NOT_WORSE.

    Raises:
        ValueError: limits that do not enclose the margin, or a level that is not between 0 and 1.
    """

    margin: float
    low: float = -1.0
    high: float = 1.0
    alarm: float = ALARM
    alpha: float = ALPHA

    def __post_init__(self) -> None:
        if not self.low < self.margin < self.high:
            raise ValueError(f"a margin of {self.margin} does not lie between {self.low} and {self.high}")
        if not (0 < self.alarm < 1 and 0 < self.alpha < 1):
            raise ValueError(f"levels of {self.alarm} and {self.alpha} do not lie between 0 and 1")

    def course(self, outcomes: ArrayLike, batch: int = 1) -> Course:
        """Take outcomes in their order until a gambler has won, looking after every batch.

        To go on with a run, call it again with all outcomes so far: what was decided stays decided.

        Args:
            outcomes: shape [n], or [runs, n] for many runs at once; positive is worse.
            batch: number of items between looks.

        Raises:
            ValueError: an outcome that is not finite, a batch below 1, or another shape.
        """
        values = np.asarray(outcomes, np.float64)
        if values.ndim not in {1, 2} or not np.isfinite(values).all() or batch < 1:
            raise ValueError(
                f"outcomes of shape {values.shape} in batches of {batch}, or some are not finite"
            )
        beyond = np.atleast_2d(values) - self.margin
        worse = _peaks(beyond, self.margin - self.low)
        better = _peaks(-beyond, self.high - self.margin)
        won = _items(worse, self.alarm), _items(better, self.alpha)
        taken = np.minimum(-(-np.minimum(*won) // batch) * batch, beyond.shape[1])
        answers = np.select(
            [won[0] <= taken, won[1] <= taken], [Answer.WORSE, Answer.NOT_WORSE], Answer.CANNOT_TELL
        )
        p_values = [np.exp(-np.take_along_axis(peaks, taken[:, None], 1)[:, 0]) for peaks in (worse, better)]
        return Course(tuple(Answer(answer) for answer in answers), taken, p_values[0], p_values[1])


def _peaks(gains: NDArray[np.float64], most: float) -> NDArray[np.float64]:
    """Log of the largest wealth after 0, 1, ... items, shape [runs, n + 1]; f = 1 loses all with ``most``."""
    wealth = np.full((gains.shape[0], gains.shape[1] + 1), -np.inf)
    with np.errstate(divide="ignore"):
        for fraction, weight in zip(FRACTIONS, WEIGHTS, strict=True):
            growth = np.log(np.maximum(1 + fraction * gains / most, 0.0))
            own = np.cumsum(np.pad(growth, ((0, 0), (1, 0))), axis=1)
            np.logaddexp(wealth, own + np.log(weight), out=wealth)
    return np.asarray(np.maximum.accumulate(np.maximum(wealth, 0.0), axis=1))


def _items(peaks: NDArray[np.float64], level: float) -> NDArray[np.int64]:
    """Items until wealth 1 / level, shape [runs]; n + 1 where it is not reached."""
    return np.asarray((peaks < -np.log(level)).sum(axis=1))


def limits(accepted: ArrayLike, margin: float) -> tuple[float, float]:
    """Limits of unbounded outcomes, for `Betting`: SLACK times as far out as those of an accepted run.

    They lie around both the accepted mean and the margin, at least as far off as the margin is from 0.

    Args:
        accepted: differences of the accepted run, shape [n], finite.
        margin: of the gate.

    Raises:
        ValueError: no differences or one that is not finite, or all are equal and the margin is 0.
    """
    values = np.asarray(accepted, np.float64)
    if not values.size or not np.isfinite(values).all():
        raise ValueError(f"{values.size} accepted differences, or some are not finite: they set no limits")
    centre = float(values.mean())
    reach = max(SLACK * float(np.abs(values - centre).max()), abs(margin))
    if not reach:
        raise ValueError("equal accepted differences and a margin of 0 set no limits")
    return min(centre, margin) - reach, max(centre, margin) + reach


def shuffled(clusters: ArrayLike, seed: int) -> NDArray[np.int64]:
    """Positions of n items, labelled by ``clusters``, in seeded random order, clusters together."""
    labels = np.unique(clusters, return_inverse=True)[1]
    ranks = np.random.default_rng(seed).permutation(int(labels.max(initial=-1)) + 1)
    return np.asarray(np.argsort(ranks[labels], kind="stable"))


def padded(outcomes: ArrayLike, clusters: ArrayLike, margin: float) -> NDArray[np.float64]:
    """One outcome per cluster, in the order in which clusters first occur.

    Smaller clusters are filled up with items exactly on the margin and then averaged, so that the outcomes
    keep to the items' limits, and are beyond the margin on average if and only if the items are.

    Args:
        outcomes: of items, shape [n].
        clusters: any label of each item, shape [n].
        margin: of the gate.
    """
    values = np.asarray(outcomes, np.float64)
    _, first, labels = np.unique(clusters, return_index=True, return_inverse=True)
    sums, sizes = np.bincount(labels, values - margin), np.bincount(labels)
    return np.asarray((margin + sums / sizes.max(initial=1))[np.argsort(first)])


def equal_items(n: int, share: float, alpha: float = ALPHA) -> int:
    """How many items in random order must be bit-equal before the model counts as unchanged.

    It is fixed before the first item, so there is no optional stopping to pay for: if more than ``share``
    of the n items differed, that many would all be equal with probability ``alpha`` at most
    (hypergeometric, drawing without replacement). One item that differs, and the rule is off.

    For accuracy a share is a drop: no more than ``share`` of the items can have been lost. For other
    metrics it says how much of the item set a fault may be confined to and stay unseen: a changed weight
    changes every window (share 1/2: 5 of 128 windows), a fault in one language or in long contexts only
    those.

    Args:
        n: items in the full set.
        share: of items, 0 to 1; 0 asks for nearly all items.
        alpha: probability of calling a model unchanged where more differ.

    Raises:
        ValueError: no items, or a share or level outside of its range.
    """
    if n < 1 or not 0 <= share < 1 or not 0 < alpha < 1:
        raise ValueError(f"{n} items, a share of {share} at level {alpha} make no rule")
    differing = int(np.floor(share * n + 1e-9)) + 1
    drawn = np.arange(n - differing + 1)
    unseen = np.cumprod((n - differing - drawn) / (n - drawn))
    return int(1 + (unseen > alpha).sum())


def equal_share(n: int, taken: int, alpha: float = ALPHA) -> float:
    """Upper bound, at level ``alpha``, of the share of n items that differ where ``taken`` do not.

    Raises:
        ValueError: a level outside of 0 to 1, or ``taken`` outside of 0 to n.
    """
    from scipy.special import gammaln

    if not 0 <= taken <= n or n < 1 or not 0 < alpha < 1:
        raise ValueError(f"{taken} of {n} items at level {alpha} bound no share")
    equal = n - np.arange(n - taken + 1)
    unseen = gammaln(equal + 1) - gammaln(equal - taken + 1) - gammaln(n + 1) + gammaln(n - taken + 1)
    return float((unseen > np.log(alpha)).sum() - 1) / n
