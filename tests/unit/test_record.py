"""The record of a run: valid JSON of a stated schema that reads back to what was written."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcheck.gate import AcceptedFigure, Bounds, Verdict, judge
from quantcheck.measurement import KINDS
from quantcheck.published import Citation
from quantcheck.record import GateRecord, figure_fields
from unit.builders import evidence, gate_record, measured, run_record

FIGURES = "value stderr reference worse worse_stderr floor baseline drift drift_margin bpw nominal_bits"
NUMBERS = st.none() | st.floats()
FINITE = st.none() | st.floats(allow_nan=False, allow_infinity=False)


def records(numbers: st.SearchStrategy[float | None]) -> st.SearchStrategy[GateRecord]:
    return st.builds(
        GateRecord,
        model=st.text(),
        spec=st.text(),
        metric=st.sampled_from([f"{kind}/x" for kind in KINDS]),
        tier=st.text(),
        device=st.text(),
        dtype=st.text(),
        verdict=st.sampled_from(Verdict),
        reasons=st.lists(st.text(), max_size=3).map(tuple),
        n=st.integers(0, 10**6),
        seconds=st.floats(0, 1e6),
        accepted=st.none() | st.text(),
        policy=st.text(),
        notes=st.lists(st.text(), max_size=2).map(tuple),
        **dict.fromkeys(FIGURES.split(), numbers),
    )


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@given(records(FINITE))
def test_a_record_reads_back_as_written(record: GateRecord) -> None:
    assert GateRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


@given(records(NUMBERS))
def test_non_finite_numbers_survive_as_their_names(record: GateRecord) -> None:
    text = json.dumps(record.to_json(), allow_nan=False)
    again = GateRecord.from_json(json.loads(text, parse_constant=refuse))
    assert repr(again) == repr(record)


def test_a_non_finite_number_is_written_by_name() -> None:
    raw = gate_record(value=math.inf, stderr=math.nan, drift=-math.inf).to_json()
    assert (raw["value"], raw["stderr"], raw["drift"]) == ("inf", "nan", "-inf")


def test_keys_of_a_later_version_are_ignored() -> None:
    assert GateRecord.from_json({**gate_record().to_json(), "confidence": 0.99}) == gate_record()


def test_a_record_says_its_unit_and_direction() -> None:
    raw = gate_record(metric="acc/pooled").to_json()
    assert (raw["unit"], raw["higher_is_better"]) == ("fraction", True)
    assert (gate_record().unit, gate_record().higher_is_better) == ("perplexity", False)
    assert gate_record().id == "builtin-llama/gptq-w3-g128/ppl/web"


def test_the_id_of_an_ordering_names_both_specs() -> None:
    assert gate_record(against="rtn-w3-g128").id == "builtin-llama/gptq-w3-g128-over-rtn-w3-g128/ppl/web"


def test_a_cited_figure_reads_back_as_written() -> None:
    cited = gate_record(published=Citation("Table 1", "6.5", "6.1", "agrees", ("window", "rounding")))
    assert GateRecord.from_json(json.loads(json.dumps(cited.to_json()))) == cited


def test_a_record_keeps_the_outcomes_of_both_models_for_whoever_looks_again() -> None:
    world = evidence(candidate=measured("ppl/web", [1.5, 2.0, 4.0], clusters=np.array([3, 3, 5])))
    assert world.candidate is not None
    fields = figure_fields(judge(world), world.bounds, world.candidate, world.reference)
    kept, reference = gate_record(**fields).measurements()
    assert kept is not None
    assert reference is not None
    assert kept.outcomes == pytest.approx(world.candidate.outcomes, abs=1e-3)
    assert reference.outcomes == pytest.approx([1.0, 2.0, 3.0], abs=1e-3)
    assert (kept.metric, kept.items, list(kept.clusters)) == ("ppl/web", "items", [0, 0, 1])
    accuracy = measured("acc/x", [1.0, 0.0, 1.0])
    fields = figure_fields(judge(world), world.bounds, accuracy, None)
    kept, reference = gate_record(metric="acc/x", **fields).measurements()
    assert kept is not None
    assert (list(kept.outcomes), reference) == ([1.0, 0.0, 1.0], None)


def test_a_cell_without_a_floor_is_collapsed() -> None:
    assert gate_record(floor=None).collapsed
    assert not gate_record(floor=0.0).collapsed


@given(st.lists(records(NUMBERS), max_size=4))
def test_the_report_is_valid_json_with_its_schema_number(gates: list[GateRecord]) -> None:
    raw = json.loads(run_record(*gates).dumps(), parse_constant=refuse)
    assert raw["schema"] == 1
    assert [repr(GateRecord.from_json(gate)) for gate in raw["gates"]] == [repr(gate) for gate in gates]
    assert raw["verdicts"] == {
        verdict.value: count
        for verdict in Verdict
        if (count := sum(gate.verdict is verdict for gate in gates))
    }


def test_the_report_has_sorted_keys_and_one_gate_a_line() -> None:
    gates = [gate_record(), gate_record(metric="acc/pooled", verdict=Verdict.REGRESSED)]
    text = run_record(*gates).dumps()
    first, _, *lines, last, orderings, nothing, end, _ = text.split("\n")
    head = json.loads(first.removesuffix(",") + "}")
    assert list(head) == sorted(head)
    assert set(head) == {"schema", "quantcheck", "created", "header", "libraries", "machine", "verdicts"}
    assert [list(json.loads(line.rstrip(","))) for line in lines] == [sorted(gates[0].to_json())] * 2
    assert (last, orderings, nothing, end) == ("],", '"orderings": [', "", "]}")


def test_the_same_run_gives_the_same_text_whatever_order_its_parts_came_in() -> None:
    run = run_record(gate_record())
    turned = replace(run, header={"z": 1, "a": 2}), replace(run, header={"a": 2, "z": 1})
    assert turned[0].dumps() == turned[1].dumps()


def test_counts_leave_out_what_did_not_occur_and_keep_the_verdicts_order() -> None:
    verdicts = [Verdict.PASS, Verdict.BELOW_FLOOR, Verdict.PASS]
    counts = run_record(*(gate_record(verdict=verdict) for verdict in verdicts)).counts()
    assert list(counts.items()) == [("BELOW_FLOOR", 1), ("PASS", 2)]
    assert run_record().counts() == {}


def fields_of(**changes: Any) -> dict[str, Any]:
    world = evidence(**changes)
    return figure_fields(judge(world), world.bounds, world.candidate, world.reference)


def test_the_fields_of_a_decided_gate() -> None:
    found = fields_of(baseline=AcceptedFigure(2.0))
    assert found["verdict"] is Verdict.REGRESSED
    assert (found["value"], found["reference"]) == (math.exp(2.25), math.exp(2.0))
    assert (found["worse"], found["worse_stderr"], found["n"]) == (0.25, 0.0, 3)
    assert (found["floor"], found["drift"], found["drift_margin"]) == (0.5, 0.25, 0.1)
    assert (found["items"], found["protocol"]) == ("items", "windows of 512")
    assert (found["policy"], len(found["reasons"])) == ("four bits lose little", 1)


def test_layers_are_compared_with_the_accepted_ones_alone() -> None:
    errors = measured("artifact/weights", [0.01, 0.02])
    found = fields_of(
        metric="artifact/weights",
        candidate=errors,
        reference=None,
        baseline=AcceptedFigure(errors.mean, outcomes=errors.outcomes, tolerance=0 * errors.outcomes),
        bounds=Bounds(None, 0.02, "any"),
    )
    assert found["verdict"] is Verdict.PASS
    assert [found[name] for name in ("worse", "worse_stderr", "floor", "upper")] == [None] * 4
    assert (found["value"], found["n"], found["drift"], found["drift_margin"]) == (0.015, 2, 0.0, 0.02)


def test_the_fields_of_a_gate_without_figures() -> None:
    found = fields_of(candidate=None, reference=None, bounds=Bounds(None, 0.1, "collapsed"))
    assert found["verdict"] is Verdict.NON_FINITE
    names = ("value", "stderr", "reference", "worse", "worse_stderr", "floor", "drift")
    assert [found[name] for name in names] == [None] * 7
    assert (found["n"], found["items"], found["protocol"]) == (0, "", "")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_figure_is_recorded_as_it_is(bad: float) -> None:
    record = gate_record(**fields_of(candidate=measured("ppl/web", [1.0, bad, 2.0])))
    assert record.verdict is Verdict.NON_FINITE
    again = GateRecord.from_json(json.loads(json.dumps(record.to_json(), allow_nan=False)))
    assert repr(again.value) == repr(bad)
