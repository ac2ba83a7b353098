"""Why a gate ended otherwise than before: which figure passed which bound, and which of the two moved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quantcheck.judging.evidence import Verdict
from quantcheck.record import GateRecord
from quantcheck.report.figures import figure, signed


@dataclass(frozen=True)
class Side:
    """One bound of a gate, and the field of the record that is held to it."""

    name: str
    value: str
    bound: str
    limit: str


SIDES = (
    Side("lower bound of the difference", "lower", "floor", "floor"),
    Side("upper bound of the difference", "upper", "floor", "floor"),
    Side("drift", "drift", "drift margin", "drift_margin"),
)
LIMITS = tuple(dict.fromkeys((side.bound, side.limit) for side in SIDES))


def explain(old: GateRecord, new: GateRecord) -> Iterator[str]:
    """One line for each bound that was passed or moved, and for what else decides a verdict."""
    passed = [(side, line) for side in SIDES if (line := _passed(side, old, new))]
    yield from (line for _, line in passed)
    told = {side.limit for side, _ in passed}
    for name, limit in LIMITS:
        before, now = getattr(old, limit), getattr(new, limit)
        if before != now and limit not in told:
            yield f"the {name} went from {_limit(before)} to {_limit(now)}"
    yield from _evidence(old, new)
    if old.known != new.known:
        yield f"known failure: {_listed(old)} -> {_listed(new)}"
    if new.verdict.green and not old.verdict.green:
        yield from (f"no more: {reason}" for reason in old.reasons)


def _passed(side: Side, old: GateRecord, new: GateRecord) -> str | None:
    """What happened where a figure lies on the other side of its bound than it did."""
    before, now = getattr(old, side.value), getattr(new, side.value)
    was, limit = getattr(old, side.limit), getattr(new, side.limit)
    if before is None or now is None or _beyond(before, was) == (beyond := _beyond(now, limit)):
        return None
    how = "beyond" if beyond else "within"
    figure_alone, limit_alone = _beyond(now, was) == beyond, _beyond(before, limit) == beyond
    moved = f"the {side.name} went from {signed(before)} to {signed(now)}"
    rebound = f"from {_limit(was)} to {_limit(limit)}"
    if figure_alone and not limit_alone:
        return f"{moved}, {how} the {side.bound} of {_limit(limit)}"
    if limit_alone and not figure_alone:
        return f"the {side.bound} went {rebound}, the {side.name} of {signed(now)} is {how} it"
    return f"{moved}, the {side.bound} {rebound}: {how} it now"


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


def _beyond(value: float, limit: float | None) -> bool:
    return limit is not None and not value <= limit


def _limit(value: float | None) -> str:
    return "none (declared collapsed)" if value is None else f"{value:.3g}"


def _flips(gate: GateRecord) -> str:
    return "-" if gate.harmful is None else f"{gate.harmful} harmful, {gate.beneficial} beneficial"


def _listed(gate: GateRecord) -> str:
    if gate.known is None:
        return "not listed"
    return f"{gate.known}{'' if gate.verdict is Verdict.KNOWN else ', not as listed'}: {gate.known_reason}"
