"""What the whole run tells and no gate by itself: differences beyond their floors under Holm's rule.

Each gate is tested at its static share of the run's budget of false alarms, before the others are known. Once
they are, Holm's step-down (`quantcheck.statistics.budget`) may allow a gate more than its share. It calls
whatever the share called an alarm, and sometimes a gate that could not tell: that one is BELOW_FLOOR in the
run's record, and the run is red. No gate turns green by it.

The p-values are those of the gates that have a floor to test. A gate that was planned and has no record, be
it deselected or never reached, counts as one that shows nothing: how strictly a gate is judged must not
depend on where the ones before it stopped the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from quantcheck.judging.evidence import Verdict
from quantcheck.record import GateRecord
from quantcheck.statistics.budget import BUDGET, alarms

ORDER = tuple(Verdict)


def shared_over(gates: Sequence[GateRecord], planned: Iterable[str]) -> int:
    """How many gates the budget is shared over: those tested, and those planned that have no record."""
    tested = sum(gate.p_worse is not None for gate in gates)
    return tested + len(set(planned) - {gate.id for gate in gates})


def of_the_run(
    gates: Sequence[GateRecord], planned: Iterable[str], budget: float = BUDGET
) -> list[GateRecord]:
    """The records in their order, BELOW_FLOOR where Holm's rule over all of them says so.

    Args:
        gates: of the whole run, with their verdicts at their static shares.
        planned: ids of the gates that the run's matrix has.
        budget: of false alarms.
    """
    tested = [gate.p_worse for gate in gates if gate.p_worse is not None]
    family = shared_over(gates, planned)
    found = iter(alarms([*tested, *[1.0] * (family - len(tested))], budget))
    return [_with_alarm(gate, family) if gate.p_worse is not None and next(found) else gate for gate in gates]


def found_by_the_run(gate: GateRecord) -> bool:
    """Whether a gate is below its floor by Holm's rule alone, at more than its static share."""
    return (
        gate.verdict is Verdict.BELOW_FLOOR
        and gate.p_worse is not None
        and gate.alarm is not None
        and gate.p_worse > gate.alarm
    )


def _with_alarm(gate: GateRecord, family: int) -> GateRecord:
    listed = gate.known if gate.verdict is Verdict.KNOWN else None
    if ORDER.index(Verdict(listed or gate.verdict)) <= ORDER.index(Verdict.BELOW_FLOOR):
        return gate
    reason = f"beyond the floor under Holm's rule over {family} gates, p = {gate.p_worse:.2g}"
    return replace(gate, verdict=Verdict.BELOW_FLOOR, reasons=(reason, *gate.reasons))
