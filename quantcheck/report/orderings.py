"""Orderings of a run's figures as notes: found in its records, and told in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from quantcheck.orderings import Ordering, Rule, Side, Standing, notes
from quantcheck.record import GateRecord
from quantcheck.report.figures import signed
from quantcheck.spec import QuantSpec

NUMBERS = ("estimate", "lower", "upper", "margin", "alarm")


def found(gates: Sequence[GateRecord]) -> tuple[Ordering, ...]:
    """What is expected to be ordered among the gates of a run that took all items, and whether it is."""
    whole = (gate for gate in gates if not gate.against and gate.of is None)
    return notes([side for gate in whole for side in _sides(gate)])


def lines(orderings: Sequence[Ordering]) -> Iterator[str]:
    """One line for each violated ordering, and one that counts them all; none where nothing is ordered."""
    for each in orderings:
        if each.standing is Standing.VIOLATED:
            between = f"{signed(each.lower)} to {signed(each.upper)}"
            yield (
                f"ordering violated ({each.rule}): {each.better} is worse than {each.worse} by "
                f"{each.metric}, {signed(each.estimate)} ({between}, n = {each.n}, margin {each.margin:.3g})"
            )
    standings = [each.standing for each in orderings]
    counts = [f"{standings.count(one)} {one}" for one in Standing if one in standings]
    if counts:
        yield f"{len(orderings)} orderings: {', '.join(counts)} (notes, no verdicts)"


def read(raw: Mapping[str, Any]) -> Ordering:
    """One ordering of a JSON report."""
    numbers = {name: float(raw[name]) for name in NUMBERS}
    return Ordering(**{**raw, **numbers, "rule": Rule(raw["rule"]), "standing": Standing(raw["standing"])})


def _sides(gate: GateRecord) -> Iterator[Side]:
    """One that was decided before all of its items were taken has not enough in common with others."""
    measured, reference = gate.measurements()
    if measured is not None and gate.of is None:
        spec, margin = QuantSpec.parse(gate.spec), gate.drift_margin or 0.0
        yield Side(gate.model, spec, measured, reference, margin, gate.weights)
