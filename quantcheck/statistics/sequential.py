"""Verdicts that stop as soon as they are decided, on items in seeded random order.

Two gamblers start with wealth 1. One bets that outcomes lie above the margin, the other that they lie
below. Where the opposite is true, no way to bet or to stop makes either rich: its wealth ever reaches 1 /
level with a probability of at most level (Ville's inequality). After items x_1, x_2, ... their wealth is
(Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86, 2024,
1-27)::

    worse:     prod_t (1 + f (x_t - margin) / (margin - low))
    not worse: prod_t (1 - f (x_t - margin) / (high - margin))

for outcomes in [low, high]. Each splits its wealth over f = 1, 1/2, 1/4, ... (their diversified Kelly bets)
as 1 : 1/4 : 1/9 ..., most for large differences, which decide early; small ones are found later, and nothing
has to be guessed. Nothing is assumed but that the items are a random sample of those the verdict is about.

What low and high are. Accuracy: differences are -1, 0 or 1. Agreement: 0 to 1. KL divergence: low is 0.
Log-ratios of perplexity have no bounds; `limits` takes them from an accepted run, twice as far out as it
went. Only the low limit matters to WORSE, only the high one to NOT_WORSE. The rate of false alarms holds
where no window *improves* beyond low, that of false passes where none is worse than high; an outcome beyond
the limit ruins the bets that cannot pay for it, so that what is left is valid for limits as wide as were
seen. A window out there that a gate stops before is not guarded against; no rule that stops early can.
Sub-Gaussian mixtures and the sequential t-test were left out: they ask as much of windows that nobody has
seen, in terms that are harder to check against a run.

What the mean is of. Items are a sample, and the verdict is about all there could be: the margin stays where
it is. Or the verdict is about one full set of N items, drawn without replacement (``of``): then what is left
of the margin moves with what was drawn, and is what the rest must average for the whole to lie on it
(Waudby-Smith and Ramdas, "Confidence sequences for sampling without replacement", NeurIPS 2020)::

    margin_t = (N margin - x_1 - ... - x_(t-1)) / (N - t + 1)

Where the rest cannot average that within the limits, the answer is certain; so it is after N items.

Documents, passages and images are the units: `shuffled` keeps them together, `averaged` makes one outcome of
each, the mean of its items. The next unit is that of an item drawn from all that are left, so a unit comes
as soon as it is large, and the mean outcome to expect is that of all items left: exactly what margin_t is
about, whatever the sizes. Where the items are a sample, it is asked as well that those left, which are of
smaller units, are no worse than those taken.

Whoever tests all items once more where no gambler won adds up both levels: give each half. After all ``of``
items there is nothing left to test, and no level to share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantcheck.statistics.bound import ALARM, ALPHA, Answer

FRACTIONS = 0.5 ** np.arange(12)
WEIGHTS = 1 / np.arange(1, 13) ** 2 / (1 / np.arange(1, 13) ** 2).sum()
SLACK = 2.0
ZOOM, ZOOMS = 63, 4
BLOCK = 1 << 15  # outcomes at once, for each fraction


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
        of: number of items in the full set that the verdict is about; ``None``: the items are a sample.

    Raises:
        ValueError: limits that do not enclose the margin, or a level that is not between 0 and 1.
    """

    margin: float
    low: float = -1.0
    high: float = 1.0
    alarm: float = ALARM
    alpha: float = ALPHA
    of: int | None = None

    def __post_init__(self) -> None:
        if not self.low < self.margin < self.high:
            raise ValueError(f"a margin of {self.margin} does not lie between {self.low} and {self.high}")
        if not (0 < self.alarm < 1 and 0 < self.alpha < 1):
            raise ValueError(f"levels of {self.alarm} and {self.alpha} do not lie between 0 and 1")

    def course(self, outcomes: ArrayLike, batch: int = 1, sizes: ArrayLike = 1) -> Course:
        """Take outcomes in their order until a gambler has won, looking after every batch.

        To go on with a run, call it again with all outcomes so far: what was decided stays decided.

        Args:
            outcomes: shape [n], or [runs, n] for many runs at once; positive is worse.
            batch: number of outcomes between looks.
            sizes: number of items that each outcome is the mean of, [n]; all 1 where it is one number.

        Raises:
            ValueError: an outcome that is not finite, a batch below 1, another shape, or more than all items.
        """
        values = np.asarray(outcomes, np.float64)
        if values.ndim not in {1, 2} or not np.isfinite(values).all() or batch < 1:
            raise ValueError(
                f"outcomes of shape {values.shape} in batches of {batch}, or some are not finite"
            )
        drawn = np.atleast_2d(values)
        worse, better = self._fortunes(drawn, sizes, np.full(drawn.shape[0], self.margin))
        won = _items(worse, self.alarm), _items(better, self.alpha)
        taken = np.minimum(-(-np.minimum(*won) // batch) * batch, drawn.shape[1])
        answers = np.select(
            [won[0] <= taken, won[1] <= taken], [Answer.WORSE, Answer.NOT_WORSE], Answer.CANNOT_TELL
        )
        p_values = [np.exp(-np.take_along_axis(peaks, taken[:, None], 1)[:, 0]) for peaks in (worse, better)]
        return Course(tuple(Answer(answer) for answer in answers), taken, p_values[0], p_values[1])

    def bounds(self, outcomes: ArrayLike, sizes: ArrayLike = 1) -> tuple[float, float]:
        """Lower and upper bound of the true difference that hold whenever one stops.

        They are the margins between which, after these outcomes, WORSE and NOT_WORSE could no more be said:
        the wealth of a gambler falls as the margin moves his way. Within the limits, at 1 - ``alarm`` and 1 -
        ``alpha``.

        Args:
            outcomes: those taken so far, shape [n], in their order; finite.
            sizes: as in `course`.
        """
        drawn = np.asarray(outcomes, np.float64)[None]

        def said(side: int, level: float, margins: NDArray[np.float64]) -> NDArray[np.bool_]:
            return np.asarray(self._fortunes(drawn, sizes, margins)[side][:, -1] >= -np.log(level))

        return (
            self._edge(lambda margins: said(0, self.alarm, margins)),
            self._edge(lambda margins: ~said(1, self.alpha, margins)),
        )

    def _edge(self, below: Callable[[NDArray[np.float64]], NDArray[np.bool_]]) -> float:
        """Where what holds for margins below some edge, and not above it, ceases to hold."""
        low, high = self.low, self.high
        for _ in range(ZOOMS):
            grid = np.linspace(low, high, ZOOM + 2, dtype=np.float64)
            place = int(below(grid[1:-1]).sum())
            low, high = float(grid[place]), float(grid[place + 1])
        return (low + high) / 2

    def _fortunes(
        self, drawn: NDArray[np.float64], sizes: ArrayLike, margins: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Log of the largest wealth of both gamblers after 0, 1, ... items, each [runs, n + 1].

        There is a run for each row of ``drawn`` or, where that is one, for each of ``margins``.
        """
        left = self._left(drawn, np.broadcast_to(np.asarray(sizes, np.int64), drawn.shape[1:]), margins)
        before = left[:, :-1]
        worse = _peaks(drawn - before, before - self.low, left < self.low)
        return worse, _peaks(before - drawn, self.high - before, left >= self.high)

    def _left(
        self, drawn: NDArray[np.float64], sizes: NDArray[np.int64], margins: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """What the rest must average for the whole to lie on the margin, after 0, 1, ... items."""
        if self.of is None:
            return np.repeat(margins[:, None], drawn.shape[1] + 1, axis=1)
        rest = self.of - np.cumsum(np.pad(sizes, (1, 0)))
        if rest[-1] < 0:
            raise ValueError(f"{self.of - rest[-1]} items were drawn from a set of {self.of}")
        taken = np.cumsum(np.pad(drawn * sizes, ((0, 0), (1, 0))), axis=1)
        allowed = self.of * margins[:, None] - taken
        return np.where(rest > 0, allowed / np.maximum(rest, 1), np.where(allowed < 0, -np.inf, np.inf))


def _peaks(
    gains: NDArray[np.float64], most: NDArray[np.float64], certain: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Log of the largest wealth after 0, 1, ... items, shape [runs, n + 1]; f = 1 loses all with ``most``."""
    shares = gains / np.where(most > 0, most, np.inf)
    rows = max(1, BLOCK // certain.shape[1])
    wealth = np.empty(certain.shape)
    for start in range(0, shares.shape[0], rows):
        wealth[start : start + rows] = _log_wealth(shares[start : start + rows])
    wealth[certain] = np.inf
    return np.asarray(np.maximum.accumulate(np.maximum(wealth, 0.0), axis=1))


def _log_wealth(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log of the wealth over all fractions, [runs, n + 1], of gains as shares of the greatest loss."""
    with np.errstate(divide="ignore"):
        growth = np.log(np.maximum(1 + FRACTIONS[:, None, None] * shares, 0.0))
    own = np.zeros((FRACTIONS.size, shares.shape[0], shares.shape[1] + 1))
    np.cumsum(growth, axis=2, out=own[:, :, 1:])
    return np.asarray(np.logaddexp.reduce(own + np.log(WEIGHTS)[:, None, None], axis=0))


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
    """Positions of n items, labelled by ``clusters``, in seeded random order.

    A cluster comes as a whole with the first of its items: the next is that of an item drawn from those left.
    """
    labels = np.unique(clusters, return_inverse=True)[1]
    drawn = np.random.default_rng(seed).permutation(labels.size)
    first = np.full(labels.max(initial=-1) + 1, labels.size)
    np.minimum.at(first, labels, drawn)
    return np.asarray(np.lexsort((drawn, first[labels])))


def averaged(outcomes: ArrayLike, clusters: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean outcome and number of items of each cluster, in the order in which clusters first occur.

    Args:
        outcomes: of items, shape [n].
        clusters: any label of each item, shape [n].
    """
    _, first, labels = np.unique(clusters, return_index=True, return_inverse=True)
    sums, sizes = np.bincount(labels, np.asarray(outcomes, np.float64)), np.bincount(labels)
    order = np.argsort(first)
    return np.asarray((sums / sizes)[order]), np.asarray(sizes[order])


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
