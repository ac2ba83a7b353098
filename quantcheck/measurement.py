"""A measured figure and the per-item outcomes it was computed from.

A metric's name is ``kind/what``, such as ``ppl/encyclopedia`` or ``acc/world_piqa``. Its kind fixes the
unit, the direction and how outcomes become the figure, so that nobody downstream has to know which metric
rises and which falls.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Kind:
    """What a metric's prefix means.

    Attributes:
        name: the prefix.
        higher_is_better: the direction; ``None`` where a change either way is for the worse.
        unit: of the figure as people read it.
        log: whether the figure is the exponential of the outcomes' mean (perplexity), else the mean itself.
        relative: whether outcomes are already a difference from the reference (KL divergence, agreement).
        exact: whether the figure is counted, not sampled: it has no standard error (bits per weight).
        by_layer: whether the items are layers, and the outcomes errors whose ratio counts.
        rounding: how far float32 arithmetic on another processor may move one item, in the outcomes' unit.
    """

    name: str
    higher_is_better: bool | None
    unit: str
    log: bool = False
    relative: bool = False
    exact: bool = False
    by_layer: bool = False
    rounding: float = 0.0


KINDS = {
    kind.name: kind
    for kind in (
        Kind("ppl", higher_is_better=False, unit="perplexity", log=True, rounding=1e-4),
        Kind("acc", higher_is_better=True, unit="fraction"),
        Kind("kld", higher_is_better=False, unit="nat", relative=True, rounding=1e-4),
        Kind("top1", higher_is_better=True, unit="fraction", relative=True, rounding=0.01),
        Kind("bpw", higher_is_better=False, unit="bits per weight", exact=True),
        Kind(
            "artifact",
            higher_is_better=False,
            unit="relative error",
            relative=True,
            exact=True,
            by_layer=True,
        ),
    )
}
_WHOLE = {"artifact/gains": replace(KINDS["artifact"], higher_is_better=None, unit="gain")}
"""Metrics that differ from their kind."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """One metric of one model on one item set.

    Attributes:
        metric: name, ``kind/what``.
        outcomes: float64, shape [n]: mean NLL of each window in nats (ppl), mean KL divergence of each
            window in nats (kld), agreement of each window
            (top1), 0 or 1 of each item (acc), the one counted figure (bpw), the relative squared error of
            each layer (artifact).
        items: digest of the ordered item ids.
        protocol: how the items were scored, in words that a reader can compare.
        version: of the metric's code; raised when its figures change.
        clusters: int64, shape [n]: equal for items that share a document, passage, image or subject;
            ``None`` where every item stands for itself.
        chance: the share of items that guessing gets right; ``None`` where nothing is guessed.
        taken: int64, shape [n]: which of the ordered items were measured, ascending; ``None``: all were.
    """

    metric: str
    outcomes: NDArray[np.float64]
    items: str
    protocol: str
    version: int
    clusters: NDArray[np.int64] | None = None
    chance: float | None = None
    taken: NDArray[np.int64] | None = None

    @property
    def kind(self) -> Kind:
        """The kind named by the metric's prefix."""
        return kind_of(self.metric)

    @property
    def n(self) -> int:
        """The number of items."""
        return int(self.outcomes.size)

    @property
    def mean(self) -> float:
        """Mean of the outcomes, in their own unit (nats for perplexity); NaN when there are none."""
        return _mean(self.outcomes)

    @property
    def value(self) -> float:
        """The figure in the kind's unit; infinite where the exponential overflows."""
        return _exp(self.mean) if self.kind.log else self.mean

    def at(self, taken: NDArray[np.int64] | None) -> Measurement:
        """This measurement of all items, at some of them; itself for ``None``."""
        if taken is None:
            return self
        return measurement(
            self.metric,
            self.outcomes[taken],
            self.items,
            self.protocol,
            self.version,
            None if self.clusters is None else self.clusters[taken],
            self.chance,
            taken,
        )

    @property
    def stderr(self) -> float:
        """Sample standard deviation over sqrt n, of `mean` over items; NaN below two items, 0 when exact."""
        return 0.0 if self.kind.exact else standard_error(self.outcomes)


@dataclass(frozen=True)
class PairedDifference:
    """Mean of the per-item differences between a candidate and its reference; positive is worse.

    Attributes:
        mean: in the outcomes' unit: nats of NLL or KL divergence, fraction of items.
        stderr: of that mean, over items; NaN below two items.
        n: number of pairs.
    """

    mean: float
    stderr: float
    n: int


def kind_of(metric: str) -> Kind:
    """The kind of a metric's name; raises ``KeyError`` for a prefix whose direction nobody knows."""
    if metric in _WHOLE:
        return _WHOLE[metric]
    prefix = metric.partition("/")[0]
    if prefix not in KINDS:
        raise KeyError(
            f"metric {metric!r} is of no known kind, so which way is better? known: {', '.join(KINDS)}"
        )
    return KINDS[prefix]


def pairs(candidate: Measurement, reference: Measurement | None) -> bool:
    """Whether a paired difference exists: the kind is relative by nature, or both answered the same items."""
    if candidate.kind.relative:
        return True
    if reference is None or (reference.items, reference.n) != (candidate.items, candidate.n):
        return False
    taken = [None if one.taken is None else one.taken.tolist() for one in (candidate, reference)]
    return taken[0] == taken[1]


def differences(candidate: Measurement, reference: Measurement | None) -> NDArray[np.float64]:
    """How much worse ``candidate`` is than ``reference`` on each item, float64 [n].

    Kinds that are relative by nature need no reference: their outcomes already are the distance from it.

    Raises:
        ValueError: the two were not measured on the same items.
    """
    worse = -candidate.outcomes if candidate.kind.higher_is_better else candidate.outcomes
    if candidate.kind.relative:
        return worse + (1.0 if candidate.kind.higher_is_better else 0.0)
    if reference is None or not pairs(candidate, reference):
        raise ValueError(f"{candidate.metric}: candidate and reference were measured on different items")
    return worse - (-reference.outcomes if reference.kind.higher_is_better else reference.outcomes)


def paired_difference(candidate: Measurement, reference: Measurement | None) -> PairedDifference:
    """Average the `differences` of ``candidate`` from ``reference``; raises what they do."""
    worse = differences(candidate, reference)
    stderr = 0.0 if candidate.kind.exact else standard_error(worse)
    return PairedDifference(_mean(worse), stderr, int(worse.size))


def standard_error(values: NDArray[np.float64]) -> float:
    """Sample standard deviation over the square root of n; NaN below two values or with a non-finite one."""
    if values.size < 2 or not np.isfinite(values).all():
        return math.nan
    return float(np.std(values, ddof=1)) / math.sqrt(values.size)


def measurement(
    metric: str,
    outcomes: Sequence[float] | NDArray[np.float64],
    items: str,
    protocol: str,
    version: int,
    clusters: Sequence[int] | NDArray[np.int64] | None = None,
    chance: float | None = None,
    taken: Sequence[int] | NDArray[np.int64] | None = None,
) -> Measurement:
    """Build a `Measurement` whose arrays are float64 and int64, and cannot be written to.

    Raises:
        ValueError: not one cluster label an item, or not one position.
    """
    array = np.array(outcomes, dtype=np.float64).reshape(-1)
    array.flags.writeable = False
    labels, places = (_per_item(metric, raw, array.size) for raw in (clusters, taken))
    return Measurement(metric, array, items, protocol, version, labels, chance, places)


def digest(parts: Iterable[str | bytes]) -> str:
    """The first 16 hex digits of a SHA-256 over length-prefixed parts: order and boundaries count."""
    sha = hashlib.sha256()
    for part in parts:
        raw = part if isinstance(part, bytes) else part.encode()
        sha.update(len(raw).to_bytes(8, "little"))
        sha.update(raw)
    return sha.hexdigest()[:16]


def _per_item(metric: str, raw: Sequence[int] | NDArray[np.int64] | None, n: int) -> NDArray[np.int64] | None:
    if raw is None:
        return None
    array = np.array(raw, dtype=np.int64).reshape(-1)
    if array.size != n:
        raise ValueError(f"{metric}: {array.size} cluster labels or positions for {n} items")
    array.flags.writeable = False
    return array


def _mean(values: NDArray[np.float64]) -> float:
    try:
        return math.fsum(values) / values.size if values.size else math.nan
    except (OverflowError, ValueError):  # beyond the largest float, or Inf beside -Inf
        return math.nan


def _exp(mean: float) -> float:
    try:
        return math.exp(mean)
    except OverflowError:
        return math.inf
