"""What the whole run tells: Holm's rule over its gates finds more than their static shares, never less."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcheck.gate import Verdict
from quantcheck.record import GateRecord
from quantcheck.run_verdicts import found_by_the_run, of_the_run, shared_over
from quantcheck.statistics.budget import BUDGET, share
from unit.builders import gate_record

P_VALUES = st.none() | st.floats(0, 1) | st.floats(0, 2 * BUDGET)


def gate(number: int, p: float | None, **changes: Any) -> GateRecord:
    verdict = changes.pop("verdict", Verdict.INCONCLUSIVE if p is not None else Verdict.PASS)
    right = {"metric": f"ppl/{number}", "p_worse": p, "alarm": 0.001, "reasons": ("items cannot tell",)}
    return gate_record(verdict=verdict, **{**right, **changes})


def verdicts(*gates: GateRecord, planned: tuple[str, ...] = ()) -> list[Verdict]:
    return [found.verdict for found in of_the_run(gates, planned)]


def test_a_gate_that_could_not_tell_is_below_its_floor_where_the_others_leave_it_enough() -> None:
    sure, unsure = gate(1, 0.001, verdict=Verdict.BELOW_FLOOR), gate(2, 0.008)
    found = of_the_run([unsure, sure], [])
    assert [each.verdict for each in found] == [Verdict.BELOW_FLOOR] * 2
    assert found[0].reasons == (
        "beyond the floor under Holm's rule over 2 gates, p = 0.008",
        "items cannot tell",
    )
    assert found[1] is sure
    assert [found_by_the_run(each) for each in found] == [True, False]
    assert verdicts(unsure) == [Verdict.BELOW_FLOOR]


def test_it_stays_undecided_where_they_do_not() -> None:
    assert verdicts(gate(1, 0.008), gate(2, 0.5)) == [Verdict.INCONCLUSIVE] * 2


def test_gates_that_were_planned_and_have_no_record_take_their_share() -> None:
    one, two = gate(1, 0.004), gate(2, None)
    assert shared_over([one, two], [one.id, two.id]) == 1
    assert shared_over([one, two], [one.id, two.id, "a", "b"]) == 3
    assert shared_over([one, two], []) == 1
    assert verdicts(one, two, planned=(one.id, two.id)) == [Verdict.BELOW_FLOOR, Verdict.PASS]
    assert verdicts(one, two, planned=(one.id, two.id, "a", "b")) == [Verdict.INCONCLUSIVE, Verdict.PASS]


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"verdict": Verdict.NO_BASELINE}, Verdict.NO_BASELINE),
        ({"verdict": Verdict.STALE_BASELINE}, Verdict.STALE_BASELINE),
        ({"verdict": Verdict.REGRESSED}, Verdict.BELOW_FLOOR),
        ({"verdict": Verdict.KNOWN, "known": "REGRESSED"}, Verdict.BELOW_FLOOR),
        ({"verdict": Verdict.KNOWN, "known": "BELOW_FLOOR"}, Verdict.KNOWN),
        ({"verdict": Verdict.KNOWN, "known": "NON_FINITE"}, Verdict.KNOWN),
    ],
)
def test_the_first_verdict_of_the_order_counts_and_an_entry_excuses_what_it_lists(
    changes: dict[str, Any], verdict: Verdict
) -> None:
    assert verdicts(gate(1, 0.0, **changes)) == [verdict]


def test_a_run_without_floors_shares_nothing() -> None:
    assert of_the_run([], []) == []
    assert verdicts(gate(1, None)) == [Verdict.PASS]
    assert shared_over([gate(1, None)], []) == 0


@pytest.mark.parametrize("changes", [{"p_worse": None}, {"alarm": None}, {"verdict": Verdict.REGRESSED}])
def test_only_what_holm_found_is_the_runs(changes: dict[str, Any]) -> None:
    assert not found_by_the_run(gate(1, 0.004, **{"verdict": Verdict.BELOW_FLOOR, **changes}))


@given(st.lists(P_VALUES, max_size=8), st.integers(0, 5))
def test_no_gate_turns_green_and_whatever_its_share_would_call_an_alarm_is_one(
    p_values: list[float | None], unseen: int
) -> None:
    gates = [gate(number, p) for number, p in enumerate(p_values)]
    planned = [*(each.id for each in gates), *(f"unseen {number}" for number in range(unseen))]
    found = of_the_run(gates, planned)
    assert [each.id for each in found] == [each.id for each in gates]
    for before, after in zip(gates, found, strict=True):
        assert after.verdict is before.verdict or after.verdict is Verdict.BELOW_FLOOR
        if before.p_worse is not None and before.p_worse <= share(len(planned)):
            assert after.verdict is Verdict.BELOW_FLOOR
        if before.p_worse is None or before.p_worse > BUDGET:
            assert after is before


@given(st.lists(P_VALUES, max_size=8), st.integers(0, 5))
def test_a_gate_that_was_not_seen_makes_no_other_one_an_alarm(
    p_values: list[float | None], unseen: int
) -> None:
    gates = [gate(number, p) for number, p in enumerate(p_values)]
    planned = [f"unseen {number}" for number in range(unseen)]
    fewer = [each.verdict is Verdict.BELOW_FLOOR for each in of_the_run(gates, planned)]
    more = [each.verdict is Verdict.BELOW_FLOOR for each in of_the_run(gates, [])]
    assert all(b for a, b in zip(fewer, more, strict=True) if a)
