"""Whether what ought not to be the worse one is: paired comparisons, and three answers.

Two specs of one model are compared item by item (`quantcheck.statistics`), against a margin: the wider of
their two drift margins, by which each may move without having got worse. Two models are compared by what each
loses against its own full precision: on the same items by the difference of the two, else as independent
samples. All comparisons of a run share its budget of false alarms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby, permutations

import numpy as np
from numpy.typing import NDArray

from quantcheck.measurement import Measurement, differences
from quantcheck.orderings.expected import GROUPS_FROM, Rule, expected
from quantcheck.spec import QuantSpec
from quantcheck.statistics.accuracy import flips
from quantcheck.statistics.bound import ALPHA, Comparison
from quantcheck.statistics.budget import share
from quantcheck.statistics.means import means, unpaired

KINDS = ("ppl", "kld", "acc")
POOLED = "acc/pooled"
LARGER = 2.0
"""From this ratio of weights on a model is the larger one."""


class Standing(StrEnum):
    """How an ordering stands, the most telling first."""

    VIOLATED = "violated"
    CANNOT_TELL = "cannot tell"
    HOLDS = "holds"


@dataclass(frozen=True)
class Ordering:
    """One that ought not to be the worse, beside the other; differences are in the outcomes' unit.

    Attributes:
        better, worse: ``model/spec``.
        metric: by which they are compared.
        rule: why, a `Rule`.
        standing: the answer.
        estimate: how much worse the one is that ought not to be; of two models, how much more it loses.
        lower, upper: its one-sided bounds, at one minus ``alarm`` and at 95 %.
        n: number of items.
        margin: how much worse it may be.
        alarm: level of a false "violated", a share of the run's budget.
    """

    better: str
    worse: str
    metric: str
    rule: Rule
    standing: Standing
    estimate: float
    lower: float
    upper: float
    n: int
    margin: float
    alarm: float


@dataclass(frozen=True)
class Side:
    """A measured figure of one quantized model, ready to be compared with another.

    Attributes:
        model: its name.
        spec: how it was quantized.
        measured: outcomes by item.
        reference: full precision on the same items; ``None`` where unknown or needless.
        margin: its drift margin.
        weights: quantized weights of the model; ``None`` where unknown.
    """

    model: str
    spec: QuantSpec
    measured: Measurement
    reference: Measurement | None
    margin: float
    weights: int | None = None

    @property
    def name(self) -> str:
        """``model/spec``."""
        return f"{self.model}/{self.spec}"


def notes(sides: Sequence[Side]) -> tuple[Ordering, ...]:
    """Every ordering that is expected among the figures of a run, the violated first."""
    told = [side for side in sides if _telling(side, sides)]
    compared = [*_within_models(told), *_across_models(told)]
    alarm = share(len(compared))
    found = [_ordering(*entry, alarm) for entry in compared]
    order = list(Standing)
    return tuple(sorted(found, key=lambda each: (order.index(each.standing), each.better, each.metric)))


def comparison(better: Measurement, worse: Measurement) -> Comparison:
    """How much worse ``better`` is than ``worse`` item by item, or further from full precision.

    Raises:
        ValueError: the two were measured on different items, or an outcome is not finite.
    """
    worse_by = apart(better, worse)
    if all(_right_or_wrong(measured) for measured in (better, worse)):
        return flips(worse.outcomes, better.outcomes, better.clusters)
    return means(worse_by, better.clusters)


def apart(better: Measurement, worse: Measurement) -> NDArray[np.float64]:
    """How much worse ``better`` is than ``worse`` on each item, float64 [n]; raises as `comparison`."""
    if not same_items(better, worse):
        raise ValueError(f"{better.metric}: the two were measured on different items")
    if better.kind.relative:
        return differences(better, None) - differences(worse, None)
    return differences(better, worse)


def loss_comparison(larger: Side, smaller: Side) -> Comparison:
    """How much more the larger model loses against its own full precision than the smaller one.

    Raises:
        ValueError: a full precision is missing, or was measured on other items.
    """
    losses = [differences(side.measured, side.reference) for side in (larger, smaller)]
    if same_items(larger.measured, smaller.measured):
        return means(losses[0] - losses[1], larger.measured.clusters)
    sides = zip(losses, (larger, smaller), strict=True)
    return unpaired(*(means(loss, side.measured.clusters) for loss, side in sides))


def _telling(side: Side, sides: Sequence[Side]) -> bool:
    """Whether a figure is sampled and finite, and not a part of a pooled one."""
    measured = side.measured
    if measured.kind.name not in KINDS or not np.isfinite(measured.outcomes).all():
        return False
    pooled = any(other.name == side.name and other.measured.metric == POOLED for other in sides)
    return measured.kind.name != "acc" or measured.metric == POOLED or not pooled


def _within_models(sides: Sequence[Side]) -> Iterator[tuple[Side, Side, Rule, Comparison]]:
    def key(side: Side) -> tuple[str, str]:
        return side.model, side.measured.metric

    for _, group in groupby(sorted(sides, key=key), key=key):
        by_spec = {side.spec: side for side in group}
        for pair in expected(list(by_spec)):
            better, worse = by_spec[pair.better], by_spec[pair.worse]
            if same_items(better.measured, worse.measured):
                yield better, worse, pair.rule, comparison(better.measured, worse.measured)


def _across_models(sides: Sequence[Side]) -> Iterator[tuple[Side, Side, Rule, Comparison]]:
    """By accuracies from 3 bits: in ratios of perplexity the study's larger model loses more than not."""
    known = [side for side in sides if side.measured.kind.name == "acc" and _has_loss(side)]
    for larger, smaller in permutations(known, 2):
        alike = (larger.spec, larger.measured.metric) == (smaller.spec, smaller.measured.metric)
        if alike and larger.spec.bits >= GROUPS_FROM and _is_larger(larger, smaller):
            yield larger, smaller, Rule.SIZE, loss_comparison(larger, smaller)


def _ordering(better: Side, worse: Side, rule: Rule, compared: Comparison, alarm: float) -> Ordering:
    margin = max(better.margin, worse.margin)
    lower, upper = compared.lower(alarm), compared.upper(ALPHA)
    standing = Standing.HOLDS if upper <= margin else Standing.CANNOT_TELL
    return Ordering(
        better.name,
        worse.name,
        better.measured.metric,
        rule,
        Standing.VIOLATED if lower > margin else standing,
        compared.estimate,
        lower,
        upper,
        compared.n,
        margin,
        alarm,
    )


def same_items(one: Measurement, other: Measurement) -> bool:
    """Whether both were measured on the same items."""
    return (one.items, one.n) == (other.items, other.n)


def _right_or_wrong(measured: Measurement) -> bool:
    return measured.kind.name == "acc" and bool(np.isin(measured.outcomes, (0, 1)).all())


def _has_loss(side: Side) -> bool:
    return side.reference is not None and same_items(side.measured, side.reference)


def _is_larger(one: Side, other: Side) -> bool:
    if one.weights is None or other.weights is None:
        return False
    return one.weights >= LARGER * other.weights
