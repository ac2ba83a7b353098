"""Two records of the same gates: what got worse is said first, and nothing passes by absence."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantcheck.errors import QuantcheckError
from quantcheck.gate import Verdict
from quantcheck.record import GateRecord
from quantcheck.report.comparison import Change, compare, lines, summary
from quantcheck.report.reader import read_run
from unit.builders import gate_record, run_record

OLD = gate_record()
VALUES = st.none() | st.floats(allow_nan=True) | st.floats(1.0, 100.0)


def text(old: list[GateRecord], new: list[GateRecord]) -> list[str]:
    return list(lines(compare(run_record(*old), run_record(*new))))


def worse(old: list[GateRecord], new: list[GateRecord]) -> int:
    return compare(run_record(*old), run_record(*new)).worse


def test_the_same_record_twice_has_nothing_worse() -> None:
    gates = [gate_record(metric=f"ppl/{verdict}", verdict=verdict) for verdict in Verdict]
    gates.append(gate_record(metric="acc/pooled", value=None))
    assert text(gates, gates) == [f"{len(gates)} unchanged: nothing worse"]
    assert text([], []) == ["no gates: nothing worse"]


def test_a_gate_that_turned_red_stands_first_with_its_reasons() -> None:
    green = gate_record(metric="acc/pooled", value=0.75)
    red = replace(green, verdict=Verdict.BELOW_FLOOR, value=0.5, reasons=("it is far below the floor",))
    title, head, row, complaint, reason, *_, last = text([OLD, green], [replace(OLD, value=4.6), red])
    assert title == "another verdict:"
    assert head.split() == ["verdict", "gate", "old", "new", "worse", "by", "margin"]
    cells = "! PASS -> BELOW_FLOOR builtin-llama/gptq-w3-g128/acc/pooled ↑ 75.0% 50.0% +0.25 fraction 0.0198"
    assert row.split() == cells.split()
    assert (complaint.strip(), reason.strip()) == ("was PASS", "it is far below the floor")
    assert last == "1 with another verdict, 1 drifted: 2 worse"


def test_drifts_are_listed_the_worse_first_and_flagged_beyond_their_margin() -> None:
    drifts = {"little": 1.001, "worst": 1.1, "beyond": 1.03, "better": 0.9}
    old = [gate_record(metric=f"ppl/{name}", value=4.0) for name in drifts]
    new = [gate_record(metric=f"ppl/{name}", value=4.0 * by) for name, by in drifts.items()]
    assert worse(old, new) == 2
    rows = [line for line in text(old, new) if "ppl/" in line]
    assert [row.split("ppl/")[1].split()[0] for row in rows] == ["worst", "beyond", "little", "better"]
    assert [row.startswith("!") for row in rows] == [True, True, False, False]
    assert "+0.0953 nat" in rows[0]


@pytest.mark.parametrize(
    ("metric", "old", "new", "worse_by"),
    [
        ("ppl/web", 4.0, 5.0, math.log(5 / 4)),
        ("acc/pooled", 0.75, 0.5, 0.25),
        ("kld/web", 0.25, 0.5, 0.25),
        ("bpw/stored", 4.5, 4.25, -0.25),
        ("ppl/web", None, 5.0, -math.inf),
        ("ppl/web", 5.0, math.nan, math.inf),
        ("ppl/web", 5.0, 0.0, math.inf),
        ("acc/pooled", 0.5, 0.0, 0.5),
        ("ppl/web", math.inf, None, 0.0),
    ],
)
def test_how_much_worse_a_figure_is(
    metric: str, old: float | None, new: float | None, worse_by: float
) -> None:
    change = Change(gate_record(metric=metric, value=old), gate_record(metric=metric, value=new))
    assert change.worse_by == pytest.approx(worse_by)


@given(VALUES, VALUES)
def test_what_is_worse_forward_is_better_backward(one: float | None, other: float | None) -> None:
    first, second = gate_record(value=one), gate_record(value=other)
    assert Change(first, second).worse_by == -Change(second, first).worse_by


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ({}, {}, None),
        ({"verdict": Verdict.REGRESSED}, {}, None),
        ({"verdict": Verdict.IMPROVED}, {"verdict": Verdict.PASS}, None),
        ({}, {"verdict": Verdict.INCONCLUSIVE}, "was PASS"),
        ({"verdict": Verdict.REGRESSED}, {"verdict": Verdict.NO_BASELINE}, None),
        ({"verdict": Verdict.REGRESSED}, {"verdict": Verdict.BELOW_FLOOR, "value": 9.0}, "worse by more"),
        ({}, {"value": 4.5}, None),
        ({}, {"value": 4.6}, "worse by more than its drift margin"),
        ({}, {"value": 4.481, "drift_margin": None}, "worse by more than its drift margin"),
        ({}, {"verdict": Verdict.KNOWN, "known": "REGRESSED"}, "was PASS, and is a known failure now"),
        ({"verdict": Verdict.KNOWN}, {"verdict": Verdict.REGRESSED}, "was KNOWN"),
        ({"verdict": Verdict.KNOWN}, {"verdict": Verdict.KNOWN}, None),
        ({"verdict": Verdict.REGRESSED}, {"verdict": Verdict.KNOWN, "known": "REGRESSED"}, None),
        ({}, {"items": "others"}, "cannot be compared: other items"),
        ({}, {"protocol": "other windows", "dtype": "bfloat16"}, "cannot be compared: other protocol, dtype"),
    ],
)
def test_why_a_gate_counts_as_worse(old: dict[str, Any], new: dict[str, Any], complaint: str | None) -> None:
    found = Change(gate_record(**old), gate_record(**new)).complaint
    assert found is complaint if complaint is None else found and found.startswith(complaint)


def test_what_moved_stands_below_the_verdict_that_it_changed() -> None:
    red = replace(OLD, verdict=Verdict.BELOW_FLOOR, value=9.0, lower=0.9, upper=1.0, reasons=("too far",))
    _, _, _, *below, _, _ = text([replace(OLD, lower=0.2, upper=0.3)], [red])
    assert [line.strip() for line in below] == [
        "was PASS",
        "too far",
        "the difference went from [+0.2, +0.3] to [+0.9, +1], beyond the floor of 0.693",
    ]


def test_a_gate_held_to_other_bounds_is_neither_unchanged_nor_worse() -> None:
    shown = text([OLD, gate_record(spec="rtn-w4")], [replace(OLD, floor=None), gate_record(spec="rtn-w4")])
    title, _, row, why, _, last = shown
    assert title == "other bounds:"
    assert "builtin-llama/gptq-w3-g128/ppl/web" in row
    assert why.strip() == "the floor went from 0.693 to none (declared collapsed)"
    assert last == "1 with other bounds, 1 unchanged: nothing worse"


def test_a_gate_that_vanished_is_worse_and_a_new_one_only_when_it_is_red() -> None:
    other = gate_record(metric="acc/pooled", value=0.75)
    assert worse([OLD, other], [OLD]) == 1
    assert worse([OLD], [OLD, other]) == 0
    assert worse([OLD], [OLD, replace(other, verdict=Verdict.NO_BASELINE)]) == 1
    shown = text([OLD, other], [OLD, gate_record(spec="rtn-w4")])
    assert shown[0] == "appeared:"
    assert shown[1].split() == ["PASS", "builtin-llama/rtn-w4/ppl/web", "↓", "4.48", "(smoke,", "cpu)"]
    assert shown[3] == "vanished:"
    assert shown[-1] == "1 unchanged, 1 appeared, 1 vanished: 1 worse"


@pytest.mark.parametrize("other", [{"tier": "standard"}, {"device": "cuda"}])
def test_another_tier_or_device_is_another_gate(other: dict[str, str]) -> None:
    found = compare(run_record(OLD), run_record(replace(OLD, **other)))  # type: ignore[arg-type]
    assert (len(found.appeared), len(found.vanished)) == (1, 1)


def test_what_else_differs_between_the_runs_is_told() -> None:
    old = run_record(OLD)
    new = replace(old, quantcheck="0.2.0", header={"tier": "smoke", "seed": 7}, libraries={"torch": "2.14.0"})
    found = compare(old, new)
    assert found.circumstances == (
        'quantcheck: "0.1.0" -> "0.2.0"',
        "header seed: - -> 7",
        'libraries torch: "2.13.0" -> "2.14.0"',
    )
    title, *told, blank, last = lines(found)
    assert (title, blank, last) == ("what else differs:", "", summary(found))
    assert [line.strip() for line in told] == list(found.circumstances)
    assert summary(found) == "1 unchanged: nothing worse"


@settings(max_examples=30)
@given(st.sets(st.sampled_from("abc")), st.sets(st.sampled_from("abc")))
def test_every_gate_is_counted_once(before: set[str], now: set[str]) -> None:
    old, new = ([gate_record(metric=f"ppl/{name}") for name in run] for run in (before, now))
    found = compare(run_record(*old), run_record(*new))
    both = len(found.changed) + len(found.drifted) + len(found.rebound) + found.unchanged
    assert (both + len(found.vanished), both + len(found.appeared)) == (len(before), len(now))
    assert found.worse == len(found.vanished)


def test_a_report_reads_back(tmp_path: Path) -> None:
    run = run_record(OLD, gate_record(metric="acc/pooled", value=math.nan))
    path = tmp_path / "run.json"
    path.write_text(run.dumps(), encoding="utf-8")
    assert repr(read_run(path)) == repr(run)


WRITTEN = json.loads(run_record(OLD).dumps())


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        ("{", "is not JSON"),
        ("\udcff", "is not JSON"),
        ("[]", "is no report of quantcheck"),
        ("{}", "is no report of quantcheck"),
        (json.dumps({**WRITTEN, "schema": 99}), "schema 99"),
        (json.dumps({**WRITTEN, "schema": "1"}), "is no report of quantcheck"),
        (json.dumps({**WRITTEN, "gates": [{}]}), "is damaged"),
        (json.dumps({**WRITTEN, "gates": [1]}), "is damaged"),
        (json.dumps({key: WRITTEN[key] for key in ("schema", "gates")}), "KeyError: 'created'"),
        (
            json.dumps({**WRITTEN, "gates": [{**WRITTEN["gates"][0], "metric": "x/y"}]}),
            "metric 'x/y' is of no known kind",
        ),
        (json.dumps({**WRITTEN, "gates": WRITTEN["gates"] * 2}), "lists a gate twice: builtin-llama"),
    ],
)
def test_what_is_no_report_is_refused_by_name(raw: str, cause: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(raw.encode("utf-8", "surrogateescape"))
    with pytest.raises(QuantcheckError) as caught:
        read_run(path)
    assert str(path) in str(caught.value)
    assert cause in str(caught.value)


def test_a_report_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(QuantcheckError, match=r"run\.json cannot be read: No such file"):
        read_run(tmp_path / "run.json")
