"""Orderings in reports: from the records of a run to notes, to lines, to JSON and back."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantcheck.measurement import measurement
from quantcheck.orderings import Ordering, Rule, Standing
from quantcheck.outcomes import pack, pack_labels
from quantcheck.record import GateRecord
from quantcheck.report import orderings
from quantcheck.report.reader import read_run
from unit.builders import gate_record, run_record

VIOLATED = Ordering(
    "m/rtn-w4", "m/rtn-w3", "ppl/web", Rule.BITS, Standing.VIOLATED, 0.25, 0.125, 0.5, 16, 0.02, 0.001
)
HOLDS = replace(VIOLATED, metric="acc/pooled", standing=Standing.HOLDS, estimate=-0.25, upper=-0.1)
ACCURATE, LOSSY = [1.0] * 30 + [0.0], [1.0] * 15 + [0.0] * 16


def record(
    spec: str, outcomes: list[float], metric: str = "ppl/web", *, labels: Any = None, **changes: Any
) -> GateRecord:
    made = measurement(metric, outcomes, "items", "windows of 512", 1, labels)
    kept = gate_record(
        spec=spec,
        metric=metric,
        value=made.value,
        n=made.n,
        outcomes=pack(made),
        clusters=pack_labels(made.clusters),
        drift_margin=0.02,
    )
    return replace(kept, **changes)


def test_a_run_s_records_are_compared_by_the_outcomes_that_they_keep() -> None:
    fine, damaged = [1.25, 2.5, 3.5, 1.0], [1.5, 3.0, 3.75, 1.5]
    (found,) = orderings.found([record("rtn-w4", damaged), record("rtn-w3", fine)])
    assert (found.better, found.worse) == ("builtin-llama/rtn-w4", "builtin-llama/rtn-w3")
    assert found.estimate == pytest.approx(0.375, abs=1e-3)
    assert (found.n, found.margin) == (4, 0.02)


def test_windows_of_a_document_are_compared_together() -> None:
    values = [1.25, 2.5, 3.5, 1.0], [1.25, 2.5, 4.0, 1.5]
    alone, together = (
        orderings.found([record("rtn-w4", values[0], labels=each), record("rtn-w3", values[1], labels=each)])
        for each in (None, [0, 0, 1, 1])
    )
    assert together[0].upper > alone[0].upper


def test_models_are_compared_by_what_each_loses_of_its_own_full_precision() -> None:
    full = pack(measurement("acc/piqa", [1.0] * 31, "items", "", 1))
    about = {"reference": 1.0, "reference_outcomes": full}
    large = record("gptq-w3", ACCURATE, "acc/piqa", model="large", weights=70, **about)
    small = record("gptq-w3", LOSSY, "acc/piqa", model="small", weights=8, **about)
    (found,) = orderings.found([small, large])
    assert (found.rule, found.better, found.standing) == (Rule.SIZE, "large/gptq-w3", Standing.HOLDS)
    assert orderings.found([small, replace(large, reference_outcomes="")]) == ()


def test_a_gate_of_an_ordering_and_one_without_outcomes_are_not_compared() -> None:
    fine = record("rtn-w4", [1.0, 2.0])
    assert orderings.found([fine, record("rtn-w3", [1.0, 2.0], against="rtn-w2")]) == ()
    other = record("rtn-w3", [1.0, 2.0])
    assert orderings.found([fine, replace(other, outcomes="")]) == ()
    assert orderings.found([fine, replace(other, value=None)]) == ()
    assert orderings.found([fine, replace(other, of=9)]) == ()
    assert len(orderings.found([fine, other])) == 1


def test_violated_orderings_are_told_and_all_are_counted() -> None:
    assert list(orderings.lines([VIOLATED, HOLDS, HOLDS])) == [
        "ordering violated (more bits): m/rtn-w4 is worse than m/rtn-w3 by ppl/web, +0.25 (+0.125 to +0.5, "
        "n = 16, margin 0.02)",
        "3 orderings: 1 violated, 2 holds (notes, no verdicts)",
    ]
    assert list(orderings.lines([])) == []


def test_orderings_are_read_back_from_the_report_as_written(tmp_path: Path) -> None:
    unknown = replace(VIOLATED, standing=Standing.CANNOT_TELL, lower=-math.inf, upper=math.inf, n=1)
    run = replace(run_record(gate_record()), orderings=(VIOLATED, HOLDS, unknown))
    path = tmp_path / "run.json"
    path.write_text(run.dumps(), encoding="utf-8")
    raw = json.loads(path.read_text(encoding="utf-8"))["orderings"]
    assert (raw[0]["standing"], raw[0]["rule"], raw[2]["upper"]) == ("violated", "more bits", "inf")
    assert read_run(path).orderings == run.orderings


def test_a_report_from_before_there_were_orderings_is_read(tmp_path: Path) -> None:
    raw = json.loads(run_record(gate_record()).dumps())
    del raw["orderings"]
    (tmp_path / "run.json").write_text(json.dumps(raw), encoding="utf-8")
    assert read_run(tmp_path / "run.json").orderings == ()
