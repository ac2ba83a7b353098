"""Why a gate ended otherwise than before: which figure passed which bound, and which of the two moved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quantcheck.judging.evidence import Verdict
from quantcheck.record import GateRecord
from quantcheck.report.figures import figure, signed

Span = tuple[float, float]


@dataclass(frozen=True)
class Side:
    """One bound of a gate, and the fields of the record that are held to it."""

    name: str
    low: str
    high: str
    bound: str
    limit: str

    def span(self, gate: GateRecord) -> Span | None:
        """From where to where the figure lies; ``None`` where it is not known."""
        low, high = getattr(gate, self.low), getattr(gate, self.high)
        return None if low is None or high is None else (low, high)


SIDES = (
    Side("difference", "lower", "upper", "floor", "floor"),
    Side("drift", "drift", "drift", "drift margin", "drift_margin"),
)


def explain(old: GateRecord, new: GateRecord) -> Iterator[str]:
    """One line for each bound that was passed or moved, and for what else decides a verdict."""
    for side in SIDES:
        yield from _side(side, old, new)
    yield from _evidence(old, new)
    if old.known != new.known:
        yield f"known failure: {_listed(old)} -> {_listed(new)}"
    if new.verdict.green and not old.verdict.green:
        yield from (f"no more: {reason}" for reason in old.reasons)


def _side(side: Side, old: GateRecord, new: GateRecord) -> Iterator[str]:
    """What happened where a figure lies elsewhere beside its bound than it did, or the bound is another."""
    before, now = side.span(old), side.span(new)
    was, limit = getattr(old, side.limit), getattr(new, side.limit)
    rebound = f"from {_limit(was)} to {_limit(limit)}"
    if before is None or now is None or _place(before, was) == (place := _place(now, limit)):
        if was != limit:
            yield f"the {side.bound} went {rebound}"
        return
    by_figure, by_bound = _place(now, was) == place, _place(before, limit) == place
    moved = f"the {side.name} went from {_shown(before)} to {_shown(now)}"
    if by_figure and not by_bound:
        yield f"{moved}, {place} the {side.bound} of {_limit(limit)}"
    elif by_bound and not by_figure:
        yield f"the {side.bound} went {rebound}, the {side.name} of {_shown(now)} is {place} it"
    else:
        yield f"{moved}, the {side.bound} {rebound}: {place} it now"


def _evidence(old: GateRecord, new: GateRecord) -> Iterator[str]:
    if old.artifact and new.artifact:
        yield f"artifact: {'the same, bit for bit' if old.artifact == new.artifact else 'another one'}"
    for name, before, now in (
        ("items", str(old.n), str(new.n)),
        ("flips", _flips(old), _flips(new)),
        ("full precision", figure(old.metric, old.reference), figure(new.metric, new.reference)),
        ("accepted", figure(old.metric, old.baseline), figure(new.metric, new.baseline)),
    ):
        if before != now:
            yield f"{name}: {before} -> {now}"


def _place(span: Span, limit: float | None) -> str:
    low, high = span
    if limit is None or high <= limit:
        return "within"
    return "beyond" if low > limit else "on either side of"


def _shown(span: Span) -> str:
    low, high = map(signed, span)
    return low if low == high else f"[{low}, {high}]"


def _limit(value: float | None) -> str:
    return "none (declared collapsed)" if value is None else f"{value:.3g}"


def _flips(gate: GateRecord) -> str:
    return "-" if gate.harmful is None else f"{gate.harmful} harmful, {gate.beneficial} beneficial"


def _listed(gate: GateRecord) -> str:
    if gate.known is None:
        return "not listed"
    return f"{gate.known}{'' if gate.verdict is Verdict.KNOWN else ', not as listed'}: {gate.known_reason}"
