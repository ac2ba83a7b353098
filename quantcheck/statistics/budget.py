"""One budget of false alarms for a whole run, shared out over its gates.

A run of m gates that are each allowed 1 % alarms on an unchanged model is red for nothing far too often.
Holm's step-down (Scandinavian Journal of Statistics 6, 1979, 65-70) keeps the probability of *any* false
alarm in the run within the budget, whatever the dependence among gates: with the p-values in rising order,
the i-th (from 0) is an alarm where it and all before are at most budget / (m - i). The static share, budget
/ m, is what each gate can count on before the others are known; whatever is at most the share is an alarm
under Holm's rule too.

P-values are those of "not worse than the margin allows" (`Comparison.p_worse`); a sequential gate's is
`Course.p_worse`, valid at any stopping time. The rate of false passes is not shared out: each gate that
passes does so at its own level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

BUDGET = 0.01


def share(gates: int, budget: float = BUDGET) -> float:
    """The level at which every one of ``gates`` may alarm by itself; the whole budget for none.

    Raises:
        ValueError: a negative number of gates, or a budget that is not between 0 and 1.
    """
    if gates < 0 or not 0 < budget < 1:
        raise ValueError(f"a budget of {budget} for {gates} gates: it must lie between 0 and 1")
    return budget / max(gates, 1)


def adjusted(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's adjusted p-values, in the order given: an alarm is one that is at most the budget.

    Raises:
        ValueError: a p-value that is not between 0 and 1; NaN is none.
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values lie between 0 and 1, got {[p for p in p_values if not 0 <= p <= 1]}")
    found, largest = [math.nan] * len(p_values), 0.0
    for rank, gate in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[gate]))
        found[gate] = largest
    return tuple(found)


def alarms(p_values: Sequence[float], budget: float = BUDGET) -> tuple[bool, ...]:
    """Which gates are alarms under Holm's rule, in the order given; raises what `share` and `adjusted` do."""
    share(len(p_values), budget)
    return tuple(p <= budget for p in adjusted(p_values))
