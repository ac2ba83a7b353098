"""Why a verdict changed: the line names the figure and the bound, and which of the two moved."""

from __future__ import annotations

from typing import Any

import pytest

from quantcheck.gate import Verdict
from quantcheck.record import GateRecord
from quantcheck.report.explanation import explain
from unit.builders import gate_record


def gate(**changes: Any) -> GateRecord:
    right = {"floor": 0.35, "lower": 0.21, "upper": 0.28, "drift": 0.002, "drift_margin": 0.02}
    return gate_record(**{**right, **changes})


def told(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return list(explain(gate(**before), gate(**now)))


FAR = {"lower": 0.39, "upper": 0.44}


@pytest.mark.parametrize(
    ("before", "now", "line"),
    [
        ({}, FAR, "the difference went from [+0.21, +0.28] to [+0.39, +0.44], beyond the floor of 0.35"),
        (FAR, {}, "the difference went from [+0.39, +0.44] to [+0.21, +0.28], within the floor of 0.35"),
        (
            {},
            {"upper": 0.36},
            "the difference went from [+0.21, +0.28] to [+0.21, +0.36], on either side of the floor of 0.35",
        ),
        (
            {},
            {"floor": 0.15},
            "the floor went from 0.35 to 0.15, the difference of [+0.21, +0.28] is beyond it",
        ),
        (
            FAR,
            {**FAR, "floor": None},
            "the floor went from 0.35 to none (declared collapsed), the difference of [+0.39, +0.44] is "
            "within it",
        ),
        (
            {},
            {**FAR, "floor": 0.15},
            "the difference went from [+0.21, +0.28] to [+0.39, +0.44], the floor from 0.35 to 0.15: "
            "beyond it now",
        ),
        ({}, {"drift": 0.03}, "the drift went from +0.002 to +0.03, beyond the drift margin of 0.02"),
        (
            {},
            {"drift_margin": 0.001},
            "the drift margin went from 0.02 to 0.001, the drift of +0.002 is beyond it",
        ),
    ],
)
def test_a_bound_that_was_passed_is_named_with_what_moved(
    before: dict[str, Any], now: dict[str, Any], line: str
) -> None:
    assert told(before, now) == [line]


def test_a_bound_that_moved_without_being_passed_is_told() -> None:
    assert told({}, {"floor": 0.3}) == ["the floor went from 0.35 to 0.3"]
    assert told({"drift": None}, {"drift_margin": 0.05}) == ["the drift margin went from 0.02 to 0.05"]


def test_figures_that_are_not_there_pass_nothing() -> None:
    assert told({"lower": None, "upper": None, "drift": None}, {**FAR, "drift": 0.5}) == []
    assert told({}, {}) == []


def test_other_evidence_is_told() -> None:
    before = {"n": 16, "metric": "acc/pooled", "reference": 0.75, "baseline": None}
    now = {**before, "n": 800, "harmful": 12, "beneficial": 3, "reference": 0.5, "baseline": 0.25}
    assert told(before, now) == [
        "items: 16 -> 800",
        "flips: - -> 12 harmful, 3 beneficial",
        "full precision: 75.0% -> 50.0%",
        "accepted: - -> 25.0%",
    ]


def test_whether_the_artifact_is_the_same_is_told_where_both_are_known() -> None:
    assert told({"artifact": "a1"}, {"artifact": "a1"}) == ["artifact: the same, bit for bit"]
    assert told({"artifact": "a1"}, {"artifact": "b2"}) == ["artifact: another one"]
    assert told({"artifact": ""}, {"artifact": "b2"}) == []


def test_an_entry_among_the_known_failures_is_told() -> None:
    known = {"known": "BELOW_FLOOR", "known_reason": "scales are rounded"}
    assert told({}, {**known, "verdict": Verdict.KNOWN}) == [
        "known failure: not listed -> BELOW_FLOOR: scales are rounded"
    ]
    assert told({**known, "verdict": Verdict.STALE_KNOWN, "reasons": ("remove the entry",)}, {}) == [
        "known failure: BELOW_FLOOR, not as listed: scales are rounded -> not listed",
        "no more: remove the entry",
    ]
