"""Two records of the same gates, explained: what got worse, what moved, what is new, what is gone.

A gate got worse when it was green and is red; when its figure is worse than it was by more than its drift
margin, or vanished; and when the two cannot be compared, since their items, protocol or dtype differ. A gate
that vanished is worse, too, and so is a new one that is red: nothing passes by absence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantcheck.judging.evidence import Verdict
from quantcheck.measurement import kind_of
from quantcheck.record import GateRecord, RunRecord
from quantcheck.report.explanation import explain
from quantcheck.report.figures import arrow, columns, figure, signed
from quantcheck.report.message import difference_unit
from quantcheck.report.reader import key

SETTINGS = ("items", "protocol", "dtype")
BOUNDS = ("floor", "drift_margin", "known")


@dataclass(frozen=True)
class Change:
    """One gate in both runs."""

    old: GateRecord
    new: GateRecord

    @property
    def same_verdict(self) -> bool:
        """Whether it ended as before."""
        return self.old.verdict is self.new.verdict

    @property
    def worse_by(self) -> float:
        """How much worse the figure is, in the outcomes' unit; infinite when it vanished."""
        before, now = _comparable(self.old), _comparable(self.new)
        if before is None:
            return 0.0 if now is None else -math.inf
        if now is None:
            return math.inf
        return before - now if self.new.higher_is_better else now - before

    @property
    def margin(self) -> float:
        """The drift margin of the new run; none is 0."""
        return self.new.drift_margin or 0.0

    @property
    def unlike(self) -> tuple[str, ...]:
        """The settings that keep the two figures from being compared."""
        return tuple(name for name in SETTINGS if getattr(self.old, name) != getattr(self.new, name))

    @property
    def moved(self) -> bool:
        """Whether the figure is another one, or of other settings."""
        return bool(self.worse_by or self.unlike)

    @property
    def rebound(self) -> bool:
        """Whether other bounds hold, or another entry among the known failures."""
        return any(getattr(self.old, name) != getattr(self.new, name) for name in BOUNDS)

    @property
    def complaint(self) -> str | None:
        """Why this gate counts as worse; ``None`` when it does not."""
        if self.old.verdict.green and not self.new.verdict.green:
            return f"was {self.old.verdict}"
        if self.new.verdict is Verdict.KNOWN and self.old.verdict in {Verdict.PASS, Verdict.IMPROVED}:
            return f"was {self.old.verdict}, and is a known failure now"
        if self.unlike:
            return f"cannot be compared: other {', '.join(self.unlike)}"
        if self.worse_by > self.margin:
            return "worse by more than its drift margin"
        return None


@dataclass(frozen=True)
class Comparison:
    """Two runs, gate by gate.

    Attributes:
        changed: gates with another verdict, the worse first.
        drifted: gates with the same verdict and another figure or other settings, the worse first.
        rebound: gates with the same verdict and figure, held to other bounds.
        unchanged: how many gates ended as they did, figure by figure.
        appeared, vanished: gates of one run alone.
        circumstances: what else differs between the runs.
    """

    changed: tuple[Change, ...]
    drifted: tuple[Change, ...]
    rebound: tuple[Change, ...]
    unchanged: int
    appeared: tuple[GateRecord, ...]
    vanished: tuple[GateRecord, ...]
    circumstances: tuple[str, ...]

    @property
    def worse(self) -> int:
        """How many gates got worse."""
        complaints = sum(change.complaint is not None for change in (*self.changed, *self.drifted))
        return complaints + len(self.vanished) + sum(not gate.verdict.green for gate in self.appeared)


def compare(old: RunRecord, new: RunRecord) -> Comparison:
    """Match the gates of two runs by cell, tier and kind of device."""
    before, now = ({key(gate): gate for gate in run.gates} for run in (old, new))
    both = [Change(before[name], now[name]) for name in now if name in before]
    both.sort(key=lambda change: (change.complaint is None, -change.worse_by, change.new.id))
    changed = tuple(change for change in both if not change.same_verdict)
    same = [change for change in both if change.same_verdict]
    moved = tuple(change for change in same if change.moved)
    rebound = tuple(change for change in same if change.rebound and not change.moved)
    return Comparison(
        changed,
        moved,
        rebound,
        len(same) - len(moved) - len(rebound),
        tuple(gate for name, gate in now.items() if name not in before),
        tuple(gate for name, gate in before.items() if name not in now),
        tuple(_circumstances(old, new)),
    )


def lines(comparison: Comparison) -> Iterator[str]:
    """Plain text: other verdicts, drifts, other bounds, gates of one run alone, circumstances, a sentence."""
    for title, changes in (
        ("another verdict", comparison.changed),
        ("drift", comparison.drifted),
        ("other bounds", comparison.rebound),
    ):
        if changes:
            yield f"{title}:"
            yield from _changes(changes)
            yield ""
    for title, gates in (("appeared", comparison.appeared), ("vanished", comparison.vanished)):
        if gates:
            yield f"{title}:"
            yield from columns([_alone(gate) for gate in gates])
            yield ""
    if comparison.circumstances:
        yield "what else differs:"
        yield from (f"  {line}" for line in comparison.circumstances)
        yield ""
    yield summary(comparison)


def summary(comparison: Comparison) -> str:
    """One sentence: how many gates of which kind, and whether something got worse."""
    counts = (
        (len(comparison.changed), "with another verdict"),
        (len(comparison.drifted), "drifted"),
        (len(comparison.rebound), "with other bounds"),
        (comparison.unchanged, "unchanged"),
        (len(comparison.appeared), "appeared"),
        (len(comparison.vanished), "vanished"),
    )
    found = ", ".join(f"{count} {what}" for count, what in counts if count) or "no gates"
    return f"{found}: {f'{comparison.worse} worse' if comparison.worse else 'nothing worse'}"


def _changes(changes: Sequence[Change]) -> Iterator[str]:
    titles = ("", "verdict", "gate", "old", "new", "worse by", "margin")
    head, *table = columns([titles, *map(_row, changes)])
    yield head
    for line, change in zip(table, changes, strict=True):
        yield line
        if change.complaint:
            yield f"    {change.complaint}"
        if not change.same_verdict:
            yield from (f"    {reason}" for reason in change.new.reasons)
        if change.rebound or not change.same_verdict:
            yield from (f"    {line}" for line in explain(change.old, change.new))


def _row(change: Change) -> tuple[str, ...]:
    old, new = change.old, change.new
    verdict = new.verdict.value if change.same_verdict else f"{old.verdict} -> {new.verdict}"
    return (
        "!" if change.complaint else " ",
        verdict,
        f"{new.id} {arrow(new.higher_is_better)}",
        figure(old.metric, old.value),
        figure(new.metric, new.value),
        f"{signed(change.worse_by)} {difference_unit(new)}",
        f"{change.margin:.3g}",
    )


def _alone(gate: GateRecord) -> tuple[str, ...]:
    shown = figure(gate.metric, gate.value)
    where = f"({gate.tier}, {gate.device})"
    return "", gate.verdict.value, f"{gate.id} {arrow(gate.higher_is_better)}", shown, where


def _comparable(gate: GateRecord) -> float | None:
    """The figure in the outcomes' unit, where differences are told; ``None`` when there is no such number."""
    if gate.value is None or not math.isfinite(gate.value):
        return None
    if not kind_of(gate.metric).log:
        return gate.value
    return math.log(gate.value) if gate.value > 0 else None


def _circumstances(old: RunRecord, new: RunRecord) -> Iterator[str]:
    yield from _differences("", {"quantcheck": old.quantcheck}, {"quantcheck": new.quantcheck})
    for name in ("header", "libraries", "machine"):
        yield from _differences(f"{name} ", getattr(old, name), getattr(new, name))


def _differences(what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*old, *new}):
        before, now = (json.dumps(values[name]) if name in values else "-" for values in (old, new))
        if before != now:
            yield f"{what}{name}: {before} -> {now}"
