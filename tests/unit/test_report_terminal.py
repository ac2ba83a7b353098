"""The table in the terminal: failures first and in full, then every spec, collapsed ones apart."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from quantcheck.artifact_facts import GAINS, WEIGHTS
from quantcheck.gate import Verdict
from quantcheck.measurement import KINDS
from quantcheck.orderings import Ordering, Rule, Standing
from quantcheck.published import Citation
from quantcheck.report.terminal import ACCEPT, COLLAPSED, LEGEND, accepted_lines, lines, summary
from unit.builders import gate_record, run_record

USABLE = f"builtin-llama: usable; {LEGEND}"
GREEN = gate_record()
RED = gate_record(
    spec="rtn-w4",
    metric="acc/pooled",
    verdict=Verdict.BELOW_FLOOR,
    value=0.5,
    reference=0.75,
    worse=0.25,
    worse_stderr=0.0123,
    n=800,
    floor=0.15,
    drift=-0.01,
    drift_margin=0.02,
)
FALLEN = gate_record(spec="rtn-w2", floor=None, value=512.0)


def shown(*gates: object) -> list[str]:
    return [text for text, _ in lines(run_record(*gates))]  # type: ignore[arg-type]


def styles(*gates: object) -> dict[str, str]:
    return {text.split()[0]: style for text, style in lines(run_record(*gates)) if text}  # type: ignore[arg-type]


def test_a_failure_stands_first_with_every_figure_behind_it() -> None:
    head, row, blank, *_ = shown(GREEN, RED)
    titles = ["verdict", "gate", "measured", "reference", "worse ± se (n)", "floor", "drift", "margin"]
    figures = ["BELOW_FLOOR", "builtin-llama/rtn-w4/acc/pooled ↑", "50.0%", "75.0%", "+0.25 ± 0.0123 (800)"]
    for title, figure in zip(titles, [*figures, "0.15", "-0.01", "0.02"], strict=True):
        assert row[head.index(title) :].startswith(figure)
    assert blank == ""


def test_every_gate_that_was_judged_red_is_among_the_failures_and_no_green_one() -> None:
    gates = [
        gate_record(metric=f"ppl/{verdict.lower()}", verdict=verdict, reasons=("why",)) for verdict in Verdict
    ]
    head = list(itertools.takewhile(bool, shown(*gates)))[1:]
    assert [row.split()[0] for row in head] == [
        verdict for verdict in Verdict if not verdict.green and verdict is not Verdict.NO_BASELINE
    ]


def test_a_green_run_has_no_failures() -> None:
    assert shown(GREEN)[0] == USABLE
    assert "BELOW_FLOOR" not in "\n".join(shown(GREEN))


def test_each_spec_has_a_line_under_the_reference() -> None:
    accuracy = gate_record(
        metric="acc/pooled", value=0.5, reference=0.75, worse=0.25, worse_stderr=0.0123, n=800
    )
    title, head, reference, *rows, blank, _ = shown(GREEN, accuracy, gate_record(spec="rtn-w4", value=3.75))
    assert (title, blank) == (USABLE, "")
    cells = [cell.strip() for cell in head.split("  ") if cell]
    assert cells == ["spec", "ppl/web ↓ n=16", "acc/pooled ↑ n=800", "verdict"]
    assert reference.split() == ["full", "precision", "3.5", "75.0%"]
    assert [row.split() for row in rows] == [
        ["gptq-w3-g128", "4.48", "+0.25±0.012", "50.0%", "+25.0±1.2", "pass"],
        ["rtn-w4", "3.75", "+0.25±0.012", "pass"],
    ]


@pytest.mark.parametrize(
    ("changes", "cells"),
    [
        ({"metric": "kld/web", "value": 0.25, "worse": 0.25}, ["0.25", "±0.012"]),
        ({"metric": "top1/web", "value": 0.75, "worse": 0.25}, ["75.0%", "±1.2"]),
        ({"metric": "bpw", "value": 3.25, "worse": 0.25, "worse_stderr": 0.0}, ["3.25"]),
        ({"worse": -0.25}, ["4.48", "-0.25±0.012"]),
        ({"worse_stderr": None}, ["4.48", "+0.25"]),
        ({"worse": None}, ["4.48"]),
        ({"value": None}, ["-"]),
    ],
)
def test_beside_a_figure_stands_how_much_worse_it_is_and_how_certain(
    changes: dict[str, object], cells: list[str]
) -> None:
    assert shown(gate_record(**changes))[3].split()[1:-1] == cells


def test_every_figure_stands_below_its_metric() -> None:
    metrics = [f"{kind}/web" for kind in ("acc", "top1", "kld", "ppl", "bpw")]
    gates = [gate_record(metric=metric, value=0.5, reference=0.5) for metric in metrics]
    _, head, reference, row, *_ = shown(*gates)
    kinds = [name.partition("/")[0] for name in head.split() if "/" in name]
    assert kinds == ["bpw", "ppl", "kld", "top1", "acc"]
    for metric in metrics:
        expected = "50.0%" if KINDS[metric.partition("/")[0]].unit == "fraction" else "0.5"
        for line in (reference, row):
            assert line[head.index(metric) :].split()[0] == expected


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_metric_has_a_column(kind: str) -> None:
    metric = WEIGHTS if KINDS[kind].by_layer else f"{kind}/web"
    assert f"{metric} {'↑' if KINDS[kind].higher_is_better else '↓'}" in shown(gate_record(metric=metric))[1]


def test_of_what_is_told_of_layers_one_column_is_enough() -> None:
    red = gate_record(metric=GAINS, verdict=Verdict.REGRESSED)
    text = shown(gate_record(metric=WEIGHTS), red)
    assert any(line.startswith("REGRESSED") and GAINS in line for line in text)
    assert not any(GAINS in line for line in text if line.startswith("spec"))


def test_collapsed_cells_have_a_section_of_their_own() -> None:
    text = shown(FALLEN, GREEN)
    usable, collapsed = text.index(USABLE), text.index(f"builtin-llama: {COLLAPSED}; {LEGEND}")
    assert usable < collapsed
    assert any(row.startswith("gptq-w3-g128") for row in text[usable:collapsed])
    assert any(row.startswith("rtn-w2") for row in text[collapsed:])
    assert not any(row.startswith("rtn-w2") for row in text[:collapsed])
    assert shown(FALLEN)[0] == f"builtin-llama: {COLLAPSED}; {LEGEND}"


def test_a_red_gate_is_named_in_its_specs_line_too() -> None:
    both = [RED, gate_record(spec="rtn-w4", verdict=Verdict.REGRESSED)]
    assert "BELOW_FLOOR, REGRESSED" in next(row for row in shown(*both) if row.startswith("rtn-w4"))


def test_models_have_tables_of_their_own() -> None:
    text = shown(gate_record(model="b"), gate_record(model="a"))
    titles = [line.partition(";")[0] for line in text if LEGEND in line]
    assert titles == ["a: usable", "b: usable"]


def test_a_count_of_items_that_differs_between_specs_is_not_shown_as_one() -> None:
    gates = [gate_record(spec="rtn-w3", n=16), gate_record(spec="rtn-w4", n=8)]
    assert "n=" not in shown(*gates)[1]


def test_references_that_differ_between_specs_are_not_shown_as_one() -> None:
    gates = [
        gate_record(metric="bpw", spec=spec, reference=bits)
        for spec, bits in [("rtn-w3", 3.0), ("rtn-w4", 4.0)]
    ]
    assert shown(*gates)[2].split() == ["full", "precision", "-"]
    assert shown(gate_record(reference=None))[2].split() == ["full", "precision", "-"]


def test_an_improvement_asks_to_be_accepted_until_it_is() -> None:
    improved = gate_record(verdict=Verdict.IMPROVED, reasons=("0.1 better: accept a new baseline",))
    assert f"IMPROVED {improved.id}: 0.1 better: accept a new baseline" in shown(improved)
    accepted = gate_record(verdict=Verdict.IMPROVED, reasons=("why",), accepted="4.5 -> 4.4")
    assert not any(line.startswith("IMPROVED") for line in shown(accepted))


def test_what_was_accepted_is_shown_old_and_new() -> None:
    accepted = gate_record(accepted="4.47 -> 4.48")
    expected = "accepted builtin-llama/gptq-w3-g128/ppl/web (smoke): 4.47 -> 4.48"
    assert list(accepted_lines([GREEN, accepted])) == [expected]
    assert expected in shown(accepted)


KNOWN = gate_record(
    spec="rtn-w4",
    verdict=Verdict.KNOWN,
    known="BELOW_FLOOR",
    known_reason="scales are rounded",
    known_issue="docs/findings.md#scales",
)


def test_known_failures_have_a_section_with_reason_and_issue() -> None:
    told = shown(GREEN, KNOWN)
    at = told.index("known failures (green as long as they end as listed):")
    cells = [cell.strip() for cell in told[at + 1].split("  ") if cell.strip()]
    assert cells == ["BELOW_FLOOR", KNOWN.id, "scales are rounded", "docs/findings.md#scales"]
    assert next(row for row in told if row.startswith("rtn-w4")).split()[-1] == "KNOWN"
    assert told[-1] == "2 gates: 1 KNOWN, 1 PASS"
    assert not any(line.startswith("known failures") for line in shown(GREEN))


def test_what_only_the_whole_run_found_is_told_with_its_reason() -> None:
    found = gate_record(verdict=Verdict.BELOW_FLOOR, p_worse=0.002, alarm=0.001, reasons=("Holm's rule",))
    assert f"BELOW_FLOOR {found.id}: Holm's rule" in shown(found)
    static = gate_record(verdict=Verdict.BELOW_FLOOR, p_worse=0.001, alarm=0.001, reasons=("why",))
    assert f"BELOW_FLOOR {static.id}: why" not in shown(static)


def test_the_summary_says_over_how_many_tests_the_budget_was_shared() -> None:
    run = run_record(GREEN)
    shared = replace(run, header={**run.header, "tested": 40})
    assert summary(shared) == "1 gates: 1 PASS; false alarms in 1% of runs, shared over 40 tests of floors"
    assert summary(replace(run, header={**run.header, "tested": 0})) == "1 gates: 1 PASS"


def test_the_summary_counts_every_verdict() -> None:
    assert summary(run_record(GREEN, RED, GREEN)) == "3 gates: 1 BELOW_FLOOR, 2 PASS"
    assert summary(run_record()) == "0 gates: none"
    assert shown(GREEN)[-1] == "1 gates: 1 PASS"


def test_colours_tell_red_runs_from_green_ones() -> None:
    assert styles(GREEN)["1"] == "green"
    red = styles(RED)
    assert (red["1"], red["BELOW_FLOOR"], red["builtin-llama:"]) == ("red", "red", "")
    assert styles(gate_record(accepted="1 -> 2"))["accepted"] == "yellow"


def test_a_first_run_says_how_to_accept_it() -> None:
    missing = gate_record(verdict=Verdict.NO_BASELINE, model="b")
    other = gate_record(verdict=Verdict.NO_BASELINE, model="a")
    last = shown(missing, other, RED)[-1]
    assert last == f"No baseline yet for a, b: review the figures above, then {ACCEPT}."
    assert shown(missing)[0] == f"b: usable; {LEGEND}"
    assert not shown(RED)[-1].startswith("No baseline")


def test_gates_without_figures_are_shown_with_dashes() -> None:
    nothing = dict.fromkeys(["value", "reference", "worse", "worse_stderr", "floor", "drift", "drift_margin"])
    row = shown(gate_record(verdict=Verdict.NON_FINITE, n=0, **nothing))[1]
    assert row.split()[3:] == ["-", "-", "-", "±", "-", "(0)", "none", "-", "-"]


def test_a_methods_fallback_is_told_once_a_spec() -> None:
    fallen_back = gate_record(notes=("no allocation: 2 groups a row",))
    told = [line for line in shown(fallen_back, fallen_back, GREEN) if line.startswith("note")]
    assert told == ["note builtin-llama/gptq-w3-g128: no allocation: 2 groups a row"]


def test_orderings_stand_under_the_tables_and_not_in_them() -> None:
    held = gate_record(against="rtn-w3", reference=9.0)
    text = shown(GREEN, held)
    assert text.count(USABLE) == 1
    assert text[2].split() == ["full", "precision", "3.5"]
    assert text[-2:] == ["1 of 1 orderings that the policy names hold", "2 gates: 2 PASS"]
    red = gate_record(against="rtn-w3", verdict=Verdict.BELOW_FLOOR)
    assert any(
        row.startswith("BELOW_FLOOR  builtin-llama/gptq-w3-g128-over-rtn-w3/ppl/web") for row in shown(red)
    )
    assert "0 of 1 orderings that the policy names hold" in shown(red)
    alike = [("rtn-w4", Standing.HOLDS), ("rtn-w8", Standing.HOLDS)]
    noted = [
        Ordering(f"m/{spec}", "m/rtn-w3", "ppl/x", Rule.BITS, standing, -0.1, -0.2, -0.05, 16, 0.02, 0.001)
        for spec, standing in alike
    ]
    run = replace(run_record(GREEN), orderings=noted)
    assert ("2 orderings: 2 holds (notes, no verdicts)", "yellow") in list(lines(run))


def test_a_gate_that_a_published_figure_decided_says_so() -> None:
    cited = Citation("Table 1", "6.5", "6.1", "agrees", ("window",))
    gate = gate_record(model="llama3-8b", spec="gptq-w4-g128", published=cited)
    assert (
        "published llama3-8b/gptq-w4-g128/ppl/web: PASS, agrees: 6.5 of Table 1 (6.1 at full precision; "
        "caveats: window)"
    ) in shown(gate)
