"""When a gate is decided before all of its items were taken.

The rule is fixed before the first item, from what is known by then: margins, levels, and what the reference
and the accepted model made of every item. Items come in seeded random order, those of one document, passage
or subject together, and after each batch the rule is asked. A gate is decided where

- an item is not finite: no more items mend that;
- it is *worse* than the floor, candidate against reference, or than the drift margin, candidate against the
  accepted outcomes of the same items (`Betting`);
- it is *not worse* than both;
- it is *unchanged*: each of the first items is what was accepted, as near as it is stored and as evaluation
  repeats itself. How many it takes, `equal_items`, is fixed before the first: if half of all windows or more
  had changed, so many alike would hardly ever come. A changed weight changes every window that goes through
  it, and so does another kernel, prompt or tokenizer; what is confined to fewer windows is for the full set
  to find. Right or wrong is too coarse for this rule: a changed model gets most items as before;
- the artifact is the accepted one bit for bit, and an item is not: the evaluation has changed.

Levels. The alarms of both bounds, and of both tests of the floor, add up: of a gate's share of the budget
the drift has half, the floor a quarter in sequence and a quarter on all items. A pass needs both bounds, so a
false one is as rare as either allows; being unchanged has a quarter of alpha, the floor a quarter in
sequence and half on all items, the drift the three quarters that are left. The drift is about the item set
itself (``Betting.of``): after all items it is known, and there is no second test to share with.

Limits. Log-ratios of perplexity have none, so how far a window may go is assumed. Those of the floor are
taken from what quantizing did to the accepted model's windows, twice as far out as it went (`limits`). The
drift asks about changes near its margin: windows are taken to be no better than accepted by more than
`BETTER` margins, and no worse by more than `WORSE`; how far real changes went is in docs/statistics.md. So
are KL divergence and agreement, which besides cannot improve by more than was accepted, 0 and 1 being the
best there are. Accuracies differ by 1 at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from quantcheck.measurement import Kind, digest
from quantcheck.statistics.bound import ALPHA, Answer
from quantcheck.statistics.sequential import Betting, averaged, equal_items, limits, shuffled

CONFINED = 0.5
"""Share of the windows that a change may be confined to and be taken for none."""

FLOOR_ALARM, DRIFT_ALARM, LAST_ALARM = 1 / 4, 1 / 2, 1 / 4
FLOOR_ALPHA, DRIFT_ALPHA, EQUAL_ALPHA, LAST_ALPHA = 1 / 4, 3 / 4, 1 / 4, 1 / 2
"""Shares of a gate's levels: the floor in sequence, the drift, being unchanged, the floor on all items."""

BETTER, WORSE = 5.0, 10.0
"""How far a window may be from its accepted outcome, in drift margins."""

Values = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Decided:
    """How a gate was decided.

    Attributes:
        taken: number of items that it took.
        floor: answer for the floor; ``None`` for a gate without one, and where it was not asked any more.
        drift: answer for the drift margin.
        unchanged: whether the first items are what was accepted.
        p_worse: anytime-valid p-value of "at most the floor", for an answer about it.
    """

    taken: int
    floor: Answer | None
    drift: Answer
    unchanged: bool = False
    p_worse: float | None = None


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of a gate before its first item; arrays are by position, shape [n].

    Attributes:
        kind: of the metric.
        reference: outcomes of the full-precision model; ``None`` for kinds that are relative by nature.
        accepted: outcomes of the accepted model.
        allowed: how far from the accepted outcome an item may lie and count as equal.
        clusters: label of each item, equal for those that belong together; ``None``: all independent.
        floor: largest allowed difference from the reference; ``None`` for a cell without a floor.
        drift: largest allowed difference from the accepted mean.
        alarm: the gate's share of the budget of false alarms.
        same: whether the artifact is the accepted one bit for bit.
    """

    kind: Kind
    reference: Values | None
    accepted: Values
    allowed: Values
    clusters: Places | None
    floor: float | None
    drift: float
    alarm: float
    same: bool = False

    @property
    def origin(self) -> Values:
        """What the floor compares outcomes with: the reference's, or those of no difference from it."""
        if self.reference is not None:
            return self.reference
        return np.full(self.accepted.size, 1.0 if self.kind.higher_is_better else 0.0)

    @property
    def labels(self) -> Places:
        """The cluster of each item."""
        return np.arange(self.accepted.size) if self.clusters is None else self.clusters

    def worse(self, outcomes: Values, origin: Values) -> Values:
        """How much worse outcomes are than their origin."""
        return origin - outcomes if self.kind.higher_is_better else outcomes - origin


@dataclass(frozen=True, eq=False)
class Stop:
    """The rule of one gate.

    Attributes:
        known: what it rests on.
        order: positions of all items in the order in which they come, int64 [n].
        floor: the gamblers of the floor; ``None`` for a cell without one.
        drift: those of the drift margin.
        equal: number of items that must be equal; 0: there is no such rule.
    """

    known: Known
    order: Places
    floor: Betting | None
    drift: Betting
    equal: int

    @cached_property
    def digest(self) -> str:
        """Digest of everything that the answers depend on."""
        known, betting = self.known, [self.floor, self.drift]
        arrays = [self.order, known.reference, known.accepted, known.allowed, known.clusters]
        return digest(
            [
                repr([known.kind, known.floor, known.drift, known.alarm, known.same, betting, self.equal]),
                *(b"" if array is None else array.tobytes() for array in arrays),
            ]
        )

    def answer(self, outcomes: Values) -> Decided | None:
        """Whether the gate is decided by the outcomes of the first items of ``order``; ``None``: go on."""
        known, places = self.known, self.order[: outcomes.size]
        if not np.isfinite(outcomes).all():
            return Decided(outcomes.size, None, Answer.WORSE)
        moved = np.abs(outcomes - known.accepted[places]) > known.allowed[places]
        # Two choices can be so near to each other that another processor prefers the other one.
        if known.same and moved.sum() > (known.kind.name == "acc"):
            return Decided(outcomes.size, None, Answer.WORSE)
        bets = self._bets(outcomes)
        if not 0 < self.equal <= outcomes.size or moved[: self.equal].any():
            return bets
        if bets is not None and bets.taken < self.equal:
            return bets
        return Decided(self.equal, None, Answer.NOT_WORSE, unchanged=True)

    def first(self, taken: Places, outcomes: Values) -> Values:
        """The outcomes of the first items of ``order``, up to one that was not taken.

        Args:
            taken: positions, int64 [k].
            outcomes: of these.
        """
        of = np.full(self.order.size, np.nan)
        of[taken] = outcomes
        missing = np.flatnonzero(~np.isin(self.order, taken))
        return of[self.order[: missing[0] if missing.size else None]]

    def bounds(self, outcomes: Values) -> tuple[float, float]:
        """Bounds of the difference from the reference that hold whenever one stops."""
        assert self.floor is not None
        return self.floor.bounds(*self._units(outcomes, self.known.origin))

    def _bets(self, outcomes: Values) -> Decided | None:
        worse, sizes = self._units(outcomes, self.known.accepted)
        courses = [self.drift.course(worse, sizes=sizes)]
        if self.floor is not None:
            courses.append(self.floor.course(self._units(outcomes, self.known.origin)[0]))
        found, units = [each.answers[0] for each in courses], [int(each.taken[0]) for each in courses]
        lost = [count for answer, count in zip(found, units, strict=True) if answer is Answer.WORSE]
        if not lost and Answer.CANNOT_TELL in found:
            return None
        taken = int(sizes[: min(lost) if lost else max(units)].sum())
        if self.floor is None:
            return Decided(taken, None, found[0])
        return Decided(taken, found[1], found[0], p_worse=float(courses[1].p_worse[0]))

    def _units(self, outcomes: Values, origin: Values) -> tuple[Values, Places]:
        """How much worse each unit that is complete is than its origin, in order, and its number of items."""
        labels = self.known.labels[self.order]
        ends = _ends(labels)
        whole = int(ends[ends <= outcomes.size].max(initial=0))
        worse = self.known.worse(outcomes[:whole], origin[self.order[:whole]])
        return averaged(worse, labels[:whole])


Stops = Mapping[str, Stop]
"""Rules by metric; where a metric has none, all of its items are measured."""

NO_STOPS: Stops = MappingProxyType({})


def digest_of(stops: Stops) -> str:
    """Digest of the rules of several metrics; empty for none."""
    return digest(f"{metric} {rule.digest}" for metric, rule in stops.items()) if stops else ""


def stop(known: Known, seed: int) -> Stop:
    """The rule of a gate, with its items in the order of a seed.

    Raises:
        ValueError: outcomes of different sizes, or none, or one that is not finite.
    """
    n = known.accepted.size
    sizes = {values.size for values in (known.origin, known.allowed, known.clusters) if values is not None}
    if not n or sizes != {n} or not (np.isfinite(known.accepted).all() and np.isfinite(known.origin).all()):
        raise ValueError(f"{n} accepted outcomes, {sizes} beside them, or some are not finite: no rule")
    order = shuffled(known.labels, seed)
    return Stop(known, order, _floor(known), _drift(known), _equal(known, order))


def _equal(known: Known, order: Places) -> int:
    """As many units as `equal_items` asks for items, in items: those of one unit are perhaps all alike.

    While all units that came were unchanged, the next one is that of an item drawn from the rest, of which
    no smaller a share is unchanged than if single items had come.
    """
    if known.kind.name == "acc":
        return 0
    units = equal_items(order.size, CONFINED, EQUAL_ALPHA * ALPHA)
    ends = _ends(known.labels[order])
    return int(ends[min(units, ends.size) - 1])


def _ends(labels: Places) -> Places:
    """After how many items each unit ends, [units], of labels that keep together."""
    return np.flatnonzero(np.append(labels[1:] != labels[:-1], True)) + 1


def _floor(known: Known) -> Betting | None:
    if known.floor is None:
        return None
    levels = FLOOR_ALARM * known.alarm, FLOOR_ALPHA * ALPHA
    low, high = limits(known.worse(known.accepted, known.origin), known.floor)
    if known.kind.unit == "fraction":
        low, high = (0.0, 1.0) if known.kind.relative else (-1.0, 1.0)
    elif known.kind.relative:
        low = 0.0
    return Betting(known.floor, low, high, *levels)


def _drift(known: Known) -> Betting:
    levels = DRIFT_ALARM * known.alarm, DRIFT_ALPHA * ALPHA
    return Betting(known.drift, *drift_limits(known), *levels, of=known.accepted.size)


def drift_limits(known: Known) -> tuple[float, float]:
    """How far one item can be, or is taken to be, from its accepted outcome."""
    if known.kind.name == "acc":
        return -1.0, 1.0
    low, high = -BETTER * known.drift, WORSE * known.drift
    if not known.kind.relative:
        return low, high
    best = np.full(known.accepted.size, 1.0 if known.kind.higher_is_better else 0.0)
    most = float(known.worse(best, known.accepted).min())
    return max(low, min(most, -known.drift)), high
