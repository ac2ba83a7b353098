"""One budget over all gates of a run: Holm's rule."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcheck.statistics.budget import BUDGET, adjusted, alarms, share

P_VALUES = st.lists(st.floats(0, 1, allow_subnormal=False), max_size=12)
BUDGETS = st.floats(1e-4, 0.5)


def step_down(p_values: list[float], budget: float) -> set[int]:
    """Holm's procedure, word by word."""
    rejected: set[int] = set()
    for rank, gate in enumerate(sorted(range(len(p_values)), key=lambda gate: p_values[gate])):
        if p_values[gate] * (len(p_values) - rank) > budget:
            break
        rejected.add(gate)
    return rejected


@given(P_VALUES, BUDGETS)
def test_alarms_are_those_of_the_step_down_procedure(p_values: list[float], budget: float) -> None:
    assert {gate for gate, alarm in enumerate(alarms(p_values, budget)) if alarm} == step_down(
        p_values, budget
    )


@given(P_VALUES, BUDGETS)
def test_whatever_keeps_to_its_static_share_is_an_alarm(p_values: list[float], budget: float) -> None:
    static = share(len(p_values), budget) * (1 - 1e-12)
    assert all(alarm for p, alarm in zip(p_values, alarms(p_values, budget), strict=True) if p <= static)


@given(P_VALUES.flatmap(lambda values: st.tuples(st.just(values), st.permutations(range(len(values))))))
def test_the_order_of_the_gates_does_not_matter(given_: tuple[list[float], list[int]]) -> None:
    p_values, order = given_
    shuffled = adjusted([p_values[gate] for gate in order])
    assert shuffled == tuple(adjusted(p_values)[gate] for gate in order)


@given(st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=12), st.floats(0, 1))
def test_more_gates_never_make_an_alarm_easier(p_values: list[float], another: float) -> None:
    with_another = adjusted([*p_values, another])
    assert all(
        new >= old or another <= p
        for p, old, new in zip(p_values, adjusted(p_values), with_another, strict=False)
    )
    assert all(p <= new for p, new in zip(p_values, with_another, strict=False))


def test_the_chance_of_any_false_alarm_stays_within_the_budget() -> None:
    """Twenty gates without a fault, independent or all alike, beside five with one."""
    random, budget, runs = np.random.default_rng(5), 0.05, 4000
    for common in (0.0, 1.0):
        uniform = random.uniform(size=(runs, 20))
        uniform = common * uniform[:, :1] + (1 - common) * uniform
        faulty = random.uniform(0, 1e-4, size=(runs, 5))
        any_false = np.mean(
            [any(alarms(list(row), budget)[5:]) for row in np.concatenate([faulty, uniform], axis=1)]
        )
        assert any_false <= budget + 3 * math.sqrt(budget * (1 - budget) / runs)


def test_no_gates_leave_the_budget_whole() -> None:
    assert alarms([]) == ()
    assert share(0) == BUDGET == 0.01
    assert share(40) == 0.01 / 40


@pytest.mark.parametrize(("gates", "budget"), [(-1, 0.01), (3, 0.0), (3, 1.0), (3, math.nan)])
def test_a_budget_is_a_probability_over_a_number_of_gates(gates: int, budget: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        share(gates, budget)


@pytest.mark.parametrize("wrong", [math.nan, -0.1, 1.1])
def test_what_is_no_p_value_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="p-values lie between 0 and 1"):
        alarms([0.5, wrong])
