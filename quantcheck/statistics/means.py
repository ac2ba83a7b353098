"""Mean of per-item differences that are not bounded: log-ratios of perplexity and KL divergences by window.

Windows cut from one document are alike, so documents are the independent units. With S_k the sum of the n_k
differences of document k, n windows and m their mean, the variance of m is the cluster-robust one with the
bias-reduced residuals of Bell and McCaffrey (Survey Methodology 28, 2002, 169-181), CR2, which for a mean
is::

    v = sum_k u_k^2 / (1 - n_k / n) / n^2,    u_k = S_k - n_k m

and the bounds are Student's with their Satterthwaite degrees of freedom (recommended by Imbens and Kolesar,
Review of Economics and Statistics 98, 2016, 701-712), the fewer of two cases: windows of a document are
independent, or all alike. For documents of equal size, this is exactly
Student's t on the documents' means with one degree of freedom less than documents; for single windows, the
one-sample t.

KL divergences are skewed, and a one-sided t bound of a skewed mean is wrong on one side. Hall's
transformation (JRSS B 54, 1992, 221-228), with a the skewness of u over the square root of the number of
clusters::

    g(t) = t + a t^2 / 3 + a^2 t^3 / 27 + a / 6

removes most of that; each bound is the wider of Student's and Hall's, each p-value the larger.

Stated answers: with one cluster nothing is known of the spread, so the bounds are infinite and p-values 1.
Where all clusters agree there is none, and the bounds are the estimate itself: a model with bit-equal
outputs is not worse than any margin of 0 and more. Non-finite differences are refused: they are a verdict
of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantcheck.statistics.bound import POWER

ROUNDING = 1e-14  # of a sum of float64 differences, relative to the largest


@dataclass(frozen=True)
class Means:
    """A mean difference with what is known of its spread.

    Attributes:
        estimate: mean over items.
        n: number of items.
        clusters: number of independent units.
        stderr: cluster-robust standard error of the mean; infinite for one cluster.
        freedom: degrees of freedom of Student's t.
        skew: skewness of the mean that Hall's transformation removes, `a` above.
    """

    estimate: float
    n: int
    clusters: int
    stderr: float
    freedom: float
    skew: float

    def p_worse(self, margin: float) -> float:
        """P-value of "the true mean is at most the margin"."""
        if not 0 < self.stderr < math.inf:
            return 0.0 if self.estimate > margin and not self.stderr else 1.0
        t = (self.estimate - margin) / self.stderr
        return max(_beyond(t, self.freedom), _beyond(_hall(t, self.skew), self.freedom))

    def p_not_worse(self, margin: float) -> float:
        """P-value of "the true mean is at least the margin"; 0 where all differences are the margin."""
        if not self.stderr and self.estimate == margin:
            return 0.0
        return self._swapped().p_worse(-margin)

    def lower(self, level: float) -> float:
        """Lower confidence bound of the mean at one minus ``level``."""
        if not 0 < self.stderr < math.inf:
            return self.estimate if not self.stderr else -math.inf
        t = _quantile(level, self.freedom)
        return self.estimate - self.stderr * max(t, _hall_inverse(t, self.skew))

    def upper(self, level: float) -> float:
        """Upper confidence bound of the mean at one minus ``level``."""
        return -self._swapped().lower(level)

    def mde(self, margin: float, level: float) -> float:
        """Smallest mean that would be called worse at ``level`` with power `POWER`, the spread as it is."""
        return margin + self._reach(level) * self.stderr

    def needed(self, margin: float, alarm: float, alpha: float) -> int | None:
        """Items that decide with power `POWER` if mean, spread and sizes of clusters stay.

        ``None`` where the mean is the margin and for one cluster.
        """
        away = abs(self.estimate - margin)
        if not self.stderr:
            return self.n
        if not away or math.isinf(self.stderr):
            return None
        reach = self._reach(alarm if self.estimate > margin else alpha)
        return math.ceil(self.n * (reach * self.stderr / away) ** 2)

    def _reach(self, level: float) -> float:
        """Standard errors between the margin and a mean that is seen with power `POWER` at ``level``."""
        return _quantile(level, self.freedom) + _quantile(1 - POWER, self.freedom)

    def _swapped(self) -> Means:
        return Means(-self.estimate, self.n, self.clusters, self.stderr, self.freedom, -self.skew)


def means(differences: ArrayLike, clusters: ArrayLike | None = None) -> Means:
    """Prepare per-item differences, positive where the candidate is worse.

    Args:
        differences: shape [n], finite.
        clusters: any label of each item, equal for items that belong together; all independent without.

    Raises:
        ValueError: no items, a shape that is not [n], or a difference that is not finite.
    """
    values = np.asarray(differences, np.float64)
    labels = np.arange(values.size) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    if values.ndim != 1 or not values.size or labels.shape != values.shape:
        raise ValueError(f"differences of shape {values.shape} with cluster labels of shape {labels.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} of {values.size} differences are not finite")
    estimate = float(np.clip(values.mean(), values.min(), values.max()))
    sizes = np.bincount(labels).astype(np.float64)
    if sizes.size == 1:
        return Means(estimate, values.size, 1, math.inf, 1.0, 0.0)
    residuals = np.bincount(labels, values - estimate) / np.sqrt(1 - sizes / values.size)
    if np.abs(residuals).max() <= ROUNDING * np.abs(values).max() * values.size:
        return Means(estimate, values.size, sizes.size, 0.0, _freedom(sizes), 0.0)
    stderr = float(np.sqrt((residuals**2).sum())) / values.size
    return Means(estimate, values.size, sizes.size, stderr, _freedom(sizes), _skew(residuals))


def unpaired(one: Means, other: Means) -> Means:
    """How much larger the mean of ``one`` is than that of ``other``, as of independent samples.

    Degrees of freedom are Welch's (Biometrika 34, 1947, 28-35), items and clusters those of the smaller
    sample. Third cumulants of independent means add up, and give the skewness for Hall's transformation.
    """
    variances = [each.stderr**2 for each in (one, other)]
    stderr = math.sqrt(sum(variances))
    estimate, n, clusters = (
        one.estimate - other.estimate,
        min(one.n, other.n),
        min(one.clusters, other.clusters),
    )
    if not 0 < stderr < math.inf:
        return Means(estimate, n, clusters, stderr, min(one.freedom, other.freedom), 0.0)
    squares = (variance**2 / each.freedom for variance, each in zip(variances, (one, other), strict=True))
    cumulant = one.skew * one.stderr**3 - other.skew * other.stderr**3
    return Means(estimate, n, clusters, stderr, stderr**4 / sum(squares), cumulant / stderr**3)


def _freedom(sizes: NDArray[np.float64]) -> float:
    """Satterthwaite's degrees of freedom of v, the fewer of independent items and of documents all alike."""
    return min(_satterthwaite(sizes, sizes), _satterthwaite(sizes, sizes**2))


def _satterthwaite(sizes: NDArray[np.float64], variances: NDArray[np.float64]) -> float:
    """2 E[v]^2 / var(v) for independent sums S_k with variances d_k, both up to a common factor.

    v is u' W u with W = diag(1 / (1 - n_k / n)); its moments are traces of W C. The covariance C of u is
    diag(d) + U A U' with the columns n_k and d_k in U, so that no matrix grows with the number of clusters.
    """
    n = sizes.sum()
    weights = 1 / (1 - sizes / n)
    columns = np.stack([sizes, variances])
    inner = np.array([[variances.sum() / n**2, -1 / n], [-1 / n, 0]])
    shared = (columns * (inner @ columns)).sum(axis=0)
    mean = (weights * (variances + shared)).sum()
    cross = inner @ (columns * weights) @ columns.T
    own = (weights**2 * (variances**2 + 2 * variances * shared)).sum()
    return float(mean**2 / (own + np.trace(cross @ cross)))


def _skew(residuals: NDArray[np.float64]) -> float:
    """Skewness of the residuals (Fisher and Pearson's G1) over the root of their number."""
    count = residuals.size
    scaled = residuals / np.abs(residuals).max()
    moments = (scaled**3).mean() / (scaled**2).mean() ** 1.5
    return float(moments * math.sqrt(count - 1) / (count - 2)) if count > 2 else 0.0


def _hall(t: float, skew: float) -> float:
    return t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / 6


def _hall_inverse(g: float, skew: float) -> float:
    """The t with ``_hall(t, skew) == g``; g itself without skew."""
    if abs(skew) < 1e-6:
        return g
    return float(3 / skew * (np.cbrt(1 + skew * (g - skew / 6)) - 1))


def _beyond(t: float, freedom: float) -> float:
    from scipy.special import stdtr

    return float(stdtr(freedom, -t))


def _quantile(level: float, freedom: float) -> float:
    from scipy.special import stdtrit

    return float(-stdtrit(freedom, level))
