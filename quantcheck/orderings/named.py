"""Orderings that a policy names: ``[[ordering]]`` entries of ``policy.toml``, each a gate a pair and metric.

    [[ordering]]
    better = "gptq-w3*"
    worse = "rtn-w3*"
    metric = "ppl"
    margin = 1.0
    reason = "..."

What a ``*`` stands for is the same text on both sides: ``gptq-w3-g128`` is held against ``rtn-w3-g128``, not
against ``rtn-w3``. ``metric`` is a kind, or one metric by its name. ``margin`` is in the unit of floors, a
ratio for perplexity and else a difference; 1.0 and 0.0 allow nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantcheck.errors import BaselineError
from quantcheck.measurement import KINDS, kind_of
from quantcheck.spec import QuantSpec

TEXTS = ("better", "worse", "metric", "reason")
KEYS = (*TEXTS, "margin")
STAR = "*"


@dataclass(frozen=True)
class NamedOrdering:
    """One entry.

    Attributes:
        better, worse: spec ids, or both with one ``*`` for the same text.
        metric: a kind or a metric's name.
        margin: how much worse the better one may be, in the outcomes' unit.
        reason: why it is a gate.
        where: the file and the number of the entry.
    """

    better: str
    worse: str
    metric: str
    margin: float
    reason: str
    where: str

    @property
    def sides(self) -> tuple[str, str]:
        """Both patterns."""
        return self.better, self.worse

    def covers(self, metric: str) -> bool:
        """Whether it is about a metric."""
        return self.metric in {metric, kind_of(metric).name}

    def pairs(self, specs: Sequence[QuantSpec]) -> Iterator[tuple[QuantSpec, QuantSpec]]:
        """The pairs of specs that it names, better one first."""
        by_rest = {_rest(self.worse, str(spec)): spec for spec in specs if matches(self.worse, spec)}
        for spec in specs:
            if matches(self.better, spec) and (worse := by_rest.get(_rest(self.better, str(spec)))):
                yield spec, worse


def matches(pattern: str, spec: QuantSpec) -> bool:
    """Whether a pattern with at most one ``*`` names a spec."""
    head, star, tail = pattern.partition(STAR)
    text = str(spec)
    if not star:
        return text == pattern
    return len(text) >= len(head) + len(tail) and text.startswith(head) and text.endswith(tail)


def read_named(raw: Any, path: object) -> tuple[NamedOrdering, ...]:
    """Check the ``[[ordering]]`` entries of a policy file.

    Raises:
        BaselineError: an entry is no table, lacks a key or has an unknown one, says nothing, has more than
            one ``*`` or one on one side only, names one spec twice, a kind that nothing samples, or a margin
            that is not finite or below what allows nothing.
    """
    if not isinstance(raw, list):
        raise BaselineError(f"policy {path}: orderings are tables that begin with [[ordering]], got {raw!r}")
    return tuple(_entry(entry, f"{path}, ordering {number}") for number, entry in enumerate(raw, 1))


def _entry(raw: Any, where: str) -> NamedOrdering:
    if not isinstance(raw, dict) or set(raw) != set(KEYS):
        raise BaselineError(f"policy {where}: takes {', '.join(KEYS)}, got {raw!r}")
    for key in TEXTS:
        if not isinstance(raw[key], str) or not raw[key].strip():
            raise BaselineError(f"policy {where}: {key} must say something, got {raw[key]!r}")
    better, worse = raw["better"], raw["worse"]
    if better == worse or better.count(STAR) != worse.count(STAR) or better.count(STAR) > 1:
        raise BaselineError(
            f"policy {where}: better and worse are two spec ids, or two with one * each, which stands for "
            f"the same text; got {better!r} and {worse!r}"
        )
    return NamedOrdering(better, worse, raw["metric"], _margin(raw, where), raw["reason"], where)


def _margin(raw: Mapping[str, Any], where: str) -> float:
    kind, margin = KINDS.get(raw["metric"].partition("/")[0]), raw["margin"]
    if kind is None or kind.exact:
        sampled = ", ".join(name for name, each in KINDS.items() if not each.exact)
        raise BaselineError(f"policy {where}: metric {raw['metric']!r} is none of the kinds {sampled}")
    least = 1.0 if kind.log else 0.0
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not least <= margin < math.inf:
        raise BaselineError(
            f"policy {where}: margin must be a finite number from {least:g} on, which allows nothing; got "
            f"{margin!r}"
        )
    return math.log(margin) if kind.log else float(margin)


def _rest(pattern: str, text: str) -> str:
    """What the ``*`` stands for in a text that matches; nothing where there is none."""
    head, _, tail = pattern.partition(STAR)
    return text[len(head) : len(text) - len(tail)]
