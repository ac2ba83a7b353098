"""Paired binary outcomes: Tango's score statistic and its exact null distribution.

Of n items, b are *harmful* (reference right, candidate wrong) and c *beneficial* (the reverse); the drop is
d = p_b - p_c. Tango (Statistics in Medicine 17, 1998, 891-908) studentizes b - c - n d by its standard
deviation at the maximum likelihood estimate under that drop::

    T(d) = (b - c - n d) / sqrt(n (2 q + d (1 - d))),    q = (L + sqrt(L^2 + 8 n c d (1 - d))) / (4 n),
    L = b + c - (2 n - b + c) d

where q estimates p_c. T is defined at zero discordant items, and is McNemar's at d = 0. Its normal
approximation is not used: where flips are rare its p-values are up to 3.7 times too small
(``docs/statistics.md``). Instead T orders the outcomes and their trinomial probabilities are summed (Hsueh,
Liu and Chen, Biometrics 57, 2001, 478-483)::

    p(d) = max over p_c of P(T >= observed | p_c + d, p_c) + GAMMA

p_c runs over its Clopper-Pearson interval at 1 - GAMMA, which keeps the maximum valid (Berger and Boos, JASA
89, 1994, 1012-1016). The maximum is taken on `GRID` points, and is then less than 1 % too small (relative).
Left out: Chan and Zhang's two-sided intervals; gates ask one side at a time.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

GAMMA = 1e-6
GRID = 41
TAIL = 1e-12
TIE = 1e-9


def score(harmful: ArrayLike, beneficial: ArrayLike, n: float, drop: float) -> NDArray[np.float64]:
    """Tango's T of counts (any shapes that broadcast) under a drop between -1 and 1; 0 where it is 0 / 0."""
    b, c = np.asarray(harmful, np.float64), np.asarray(beneficial, np.float64)
    linear = b + c - (2 * n - b + c) * drop
    root = np.sqrt(np.maximum(linear**2 + 8 * n * c * drop * (1 - drop), 0))
    q = np.clip((linear + root) / (4 * n), max(0.0, -drop), (1 - drop) / 2)
    variance = n * (2 * q + drop * (1 - drop))
    zero = np.zeros_like(variance)
    return np.asarray(np.divide(b - c - n * drop, np.sqrt(variance), out=zero, where=variance > 0))


@lru_cache(maxsize=4096)
def p_drop_above(harmful: int, beneficial: int, n: int, drop: float) -> float:
    """Exact p-value of "the true drop is at most ``drop``"; 1 for drops of 1 and more, GAMMA for -1 and less.

    Args:
        harmful: items that only the reference got right.
        beneficial: items that only the candidate got right.
        n: all items.
        drop: largest drop of the null hypothesis.
    """
    if not -1 < drop < 1:
        return 1.0 if drop >= 1 else GAMMA
    shares = _nuisance(beneficial, n, drop)
    counts = _counts(n, shares)
    least = _least_harmful(counts, n, drop, float(score(harmful, beneficial, n, drop)))
    return min(1.0, float(np.max(_tail(counts, least, n, shares, drop))) + GAMMA)


def drop_below(harmful: int, beneficial: int, n: int, level: float) -> float:
    """Lower confidence bound of the drop: the largest whose null hypothesis is rejected at ``level``.

    Found by bisection to a thousandth of an item, and rounded outwards.
    """
    low, high = -1.0, (harmful - beneficial) / n
    while high - low > 1e-3 / n:
        middle = (low + high) / 2
        if p_drop_above(harmful, beneficial, n, middle) <= level:
            low = middle
        else:
            high = middle
    return low


def _nuisance(beneficial: int, n: int, drop: float) -> NDArray[np.float64]:
    """Shares of beneficial items that the data and the drop leave possible, shape [GRID]."""
    from scipy.special import betaincinv

    c = beneficial
    low = betaincinv(c, n - c + 1, GAMMA / 2) if c else 0.0
    high = betaincinv(c + 1, n - c, 1 - GAMMA / 2) if c < n else 1.0
    low, high = np.clip((low, high), max(0.0, -drop), (1 - drop) / 2)
    return np.linspace(float(low), float(high), GRID, dtype=np.float64)


def _counts(n: int, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Beneficial counts that occur with more than a probability of TAIL under one of the shares."""
    from scipy.special import bdtrik

    low, high = shares[0], shares[-1]
    first = bdtrik(TAIL, n, low) if low > 0 else 0
    last = n - (bdtrik(TAIL, n, 1 - high) if high < 1 else 0)
    return np.arange(max(0, np.floor(first)), min(n, np.ceil(last)) + 1)


def _least_harmful(counts: NDArray[np.float64], n: int, drop: float, observed: float) -> NDArray[np.float64]:
    """For each beneficial count the fewest harmful items whose T is no less than observed; n - c + 1 if none.

    T rises with harmful items, so that bisection finds it.
    """
    low, high = np.zeros_like(counts), n - counts + 1
    while (low < high).any():
        middle = np.floor((low + high) / 2)
        enough = score(middle, counts, n, drop) >= observed - TIE * max(1.0, abs(observed))
        low, high = np.where(enough, low, np.minimum(middle + 1, high)), np.where(enough, middle, high)
    return high


def _tail(
    counts: NDArray[np.float64],
    least: NDArray[np.float64],
    n: int,
    shares: NDArray[np.float64],
    drop: float,
) -> NDArray[np.float64]:
    """P(T >= observed) for every share: sum over c of P(C = c) P(B >= least[c] | C = c)."""
    from scipy.special import betainc, betaln, xlog1py, xlogy

    q = shares[:, None]
    choose = -betaln(counts + 1, n - counts + 1) - np.log(n + 1)
    share = np.exp(choose + xlogy(counts, q) + xlog1py(n - counts, -q))
    rest = np.clip((q + drop) / (1 - q), 0, 1)
    free = np.maximum(n - counts - least + 1, 0)
    some = (least > 0) & (free > 0)
    beyond = betainc(np.where(some, least, 1), np.where(some, free, 1), rest)
    return np.asarray((share * np.where(some, beyond, least == 0)).sum(axis=1))
