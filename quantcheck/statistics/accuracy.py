"""Drop of accuracy from paired right-or-wrong outcomes, item by item.

Only items on which the models differ count: *harmful* flips (reference right, candidate wrong) against
*beneficial* ones. The test is `quantcheck.statistics.score`'s exact one; it needs no care at zero flips, at
100 % accuracy or at one item: it then says what so few items can say.

Items that share a passage, an image or a subject flip together. Their counts are divided by a design effect
and tested as independent items (Rao and Scott, Biometrics 48, 1992, 577-585; for exact bounds Korn and
Graubard, Survey Methodology 24, 1998, 193-201)::

    effect = sum_k (S_k - n_k d)^2 / sum_i (x_i - d)^2 * K / (K - 1) * (t_df / z)^2

with x_i in {-1, 0, 1}, S_k its sum over cluster k, K clusters; t and z are upper 5 % points, df the number of
clusters that hold a flip less one: flips tell how they cluster, items without say nothing. The effect lies
between 1 (independent) and sum_k n_k^2 / n (all items of a cluster flip together), and is the latter where at
most one cluster holds a flip. Divided counts are rounded against the claim.

Left out: weights, and regression on item properties.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantcheck.statistics.bound import POWER
from quantcheck.statistics.score import drop_below, p_drop_above

MOST_ITEMS = 1_000_000


@dataclass(frozen=True)
class Flips:
    """Paired outcomes of n items; the difference is the drop of accuracy, -1 to 1.

    Attributes:
        harmful: items that only the reference got right.
        beneficial: items that only the candidate got right.
        n: all items.
        clusters: groups of items that flip together; n where items are independent.
        effect: by how much clustering inflates the variance; the counts are worth that much less.

    Raises:
        ValueError: no items, counts that are negative or exceed n, clusters or effect outside of 1 to n.
    """

    harmful: int
    beneficial: int
    n: int
    clusters: int
    effect: float = 1.0

    def __post_init__(self) -> None:
        if min(self.harmful, self.beneficial) < 0 or not 0 < self.n >= self.harmful + self.beneficial:
            raise ValueError(
                f"{self.harmful} harmful and {self.beneficial} beneficial flips of {self.n} items"
            )
        if not 1 <= self.clusters <= self.n or not 1 <= self.effect <= self.n:
            raise ValueError(
                f"{self.n} items in {self.clusters} clusters with a design effect of {self.effect}"
            )

    @property
    def estimate(self) -> float:
        """Drop of accuracy in the sample."""
        return (self.harmful - self.beneficial) / self.n

    def p_worse(self, margin: float) -> float:
        """P-value of "the drop is at most the margin"."""
        return p_drop_above(*self._effective(), margin)

    def p_not_worse(self, margin: float) -> float:
        """P-value of "the drop is at least the margin"."""
        return self._swapped().p_worse(-margin)

    def lower(self, level: float) -> float:
        """Lower confidence bound of the drop at one minus ``level``."""
        return drop_below(*self._effective(), level)

    def upper(self, level: float) -> float:
        """Upper confidence bound of the drop at one minus ``level``."""
        return -self._swapped().lower(level)

    def mde(self, margin: float, level: float) -> float:
        """Smallest drop that would be called worse at ``level`` with power `POWER`; infinite if none would.

        Items flip as often as they did, and at least as often as the drop takes.
        """
        n = max(1, math.floor(self.n / self.effect))
        flips = (self.harmful + self.beneficial) / self.n
        low, high = max(margin, 0.0), 1.0
        if not _sees(high, 1.0, n, margin, level):
            return math.inf
        while high - low > 1e-2 / n:
            drop = (low + high) / 2
            low, high = (low, drop) if _sees(drop, max(flips, drop), n, margin, level) else (drop, high)
        return high

    def needed(self, margin: float, alarm: float, alpha: float) -> int | None:
        """Items that decide with power `POWER` if drop and flips stay; ``None`` beyond a million."""
        flips = (self.harmful + self.beneficial) / self.n
        drop, level = self.estimate, alarm
        if drop <= margin:
            drop, margin, level = -drop, -margin, alpha
        low, high = 0, math.floor(MOST_ITEMS / self.effect)
        if not _sees(drop, flips, high, margin, level):
            return None
        while high - low > 1:
            n = (low + high) // 2
            low, high = (low, n) if _sees(drop, flips, n, margin, level) else (n, high)
        return math.ceil(high * self.effect)

    def _swapped(self) -> Flips:
        return Flips(self.beneficial, self.harmful, self.n, self.clusters, self.effect)

    def _effective(self) -> tuple[int, int, int]:
        """Counts over the design effect, rounded against a drop."""
        n = max(1, math.floor(self.n / self.effect))
        harmful = math.floor(self.harmful / self.effect)
        beneficial = min(math.ceil(self.beneficial / self.effect), n)
        return min(harmful, n - beneficial), beneficial, n


def flips(reference: ArrayLike, candidate: ArrayLike, clusters: ArrayLike | None = None) -> Flips:
    """Compare which items two models got right.

    Args:
        reference: 0 or 1 of each item, shape [n].
        candidate: of the same items in the same order.
        clusters: any label of each item, equal for items that belong together; all independent without.

    Raises:
        ValueError: shapes differ, there are no items, or an outcome is neither 0 nor 1.
    """
    pair = [np.asarray(outcomes, np.float64) for outcomes in (reference, candidate)]
    if pair[0].ndim != 1 or pair[0].shape != pair[1].shape or not pair[0].size:
        raise ValueError(f"outcomes of shapes {pair[0].shape} and {pair[1].shape} make no pairs of items")
    if not all(np.isin(outcomes, (0, 1)).all() for outcomes in pair):
        raise ValueError("an item is right, 1, or wrong, 0; other outcomes are means' business")
    worse = pair[0] - pair[1]
    labels = np.arange(worse.size) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    if labels.shape != worse.shape:
        raise ValueError(f"{worse.size} items have cluster labels of shape {labels.shape}")
    count, groups = int((worse > 0).sum()), int(labels.max()) + 1
    return Flips(count, int((worse < 0).sum()), worse.size, groups, _design_effect(worse, labels))


def _design_effect(worse: NDArray[np.float64], labels: NDArray[Any]) -> float:
    from scipy.special import ndtri, stdtrit

    sizes, sums = np.bincount(labels), np.bincount(labels, worse)
    most = float((sizes**2).sum() / sizes.sum())
    freedom = np.unique(labels[worse != 0]).size - 1
    if freedom < 1:
        return most
    drop = worse.mean()
    independent = float(((worse - drop) ** 2).sum())
    if not independent:
        return most
    ratio = float(((sums - sizes * drop) ** 2).sum()) / independent * sizes.size / (sizes.size - 1)
    return float(np.clip(ratio * (stdtrit(freedom, 0.95) / ndtri(0.95)) ** 2, 1.0, most))


def _sees(drop: float, flips: float, n: int, margin: float, level: float) -> bool:
    """Whether the test rejects "at most the margin" where a true drop leaves the estimate with power POWER.

    ``flips`` is the share of discordant items. The estimate is taken from the normal approximation, the
    test is the exact one (the sample-size argument of Nam, Biometrics 53, 1997, 1422-1430, with the exact
    test in it).
    """
    from scipy.special import ndtri

    likely = n * drop - float(ndtri(POWER)) * math.sqrt(n * max(flips - drop**2, 0.0))
    excess = math.floor(likely + 1e-9)
    beneficial = max(round(n * (flips - drop) / 2), -excess, 0)
    harmful = min(beneficial + excess, n)
    return p_drop_above(harmful, min(beneficial, n - harmful), n, margin) <= level
