"""Known failures of gates: green exactly as listed, red otherwise, and never where something is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantcheck.errors import BaselineError
from quantcheck.gate import AcceptedFigure, Bounds, Judgement, Verdict, judge
from quantcheck.known import FILE
from quantcheck.known_gates import LISTABLE, KnownGate, check_current, expect, read_known_gates
from unit.builders import evidence

RIGHT = {
    "id": "mine/rtn-w3-g128/ppl/web",
    "tier": "smoke",
    "device": "cpu",
    "verdict": "BELOW_FLOOR",
    "reason": "scales are rounded",
    "issue": "docs/findings.md#scales",
}
KNOWN = KnownGate(**{**RIGHT, "verdict": Verdict.BELOW_FLOOR})
FIELDS = {"": "verdict", "_reason": "reason", "_issue": "issue"}
FLOOR = Bounds(floor=0.2, drift=0.1, reason="a quarter of a nat is beyond it")


def listed(verdict: Verdict) -> KnownGate:
    return KnownGate(**{**RIGHT, "verdict": verdict})


def write(folder: Path, *entries: dict[str, str], more: str = "") -> Path:
    lines = ["schema = 1"]
    for entry in entries:
        lines += ["[[gate]]", *(f'{key} = "{value}"' for key, value in entry.items())]
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_text("\n".join([*lines, more, ""]), encoding="utf-8")
    return folder


def test_gates_are_read_beside_contracts_from_all_folders(tmp_path: Path) -> None:
    contract = '[[failure]]\nid = "mine-w3::test_a"\nreason = "why"\nissue = "where"'
    mine = write(tmp_path / "mine", RIGHT, more=contract)
    ours = write(tmp_path / "ours", {**RIGHT, "tier": "full"}, {**RIGHT, "device": "cuda"})
    found = read_known_gates([mine, ours, tmp_path / "absent"])
    assert list(found) == [
        (RIGHT["id"], "smoke", "cpu"),
        (RIGHT["id"], "full", "cpu"),
        (RIGHT["id"], "smoke", "cuda"),
    ]
    assert found[KNOWN.key] == KNOWN
    assert KNOWN.subject == "mine/rtn-w3-g128"
    assert KNOWN.fields == {f"known{name}": RIGHT[key] for name, key in FIELDS.items()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "mine/rtn-w*/ppl/web"}, "is no exact id of the form 'mine/rtn-w3/ppl/web'"),
        ({"id": "mine/rtn-w3-g128"}, "is no exact id"),
        ({"id": "/rtn-w3/bpw"}, "is no exact id"),
        ({"id": "mine/rtn-w3.0/bpw"}, "is no exact id"),
        ({"id": "mine/w3/bpw"}, "is no exact id"),
        ({"id": "mine/rtn-w3/mos/web"}, "is no exact id"),
        ({"id": "mine/rtn-w3/ppl/we?"}, "is no exact id"),
        ({"tier": "nightly"}, "with tier 'nightly'; it takes smoke, standard, full"),
        ({"device": "gpu"}, "with device 'gpu'; it takes cpu, cuda"),
        ({"verdict": "WORSE"}, "with verdict 'WORSE'; it takes NON_FINITE, BELOW_FLOOR, REGRESSED"),
        ({"reason": " "}, "has id, tier, device, verdict, reason, issue, as text"),
        ({"more": "1"}, "has id, tier, device, verdict, reason, issue, as text"),
    ],
)
def test_an_entry_that_no_gate_could_end_as_is_refused(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(BaselineError) as caught:
        read_known_gates([write(tmp_path / "mine", {**RIGHT, **changes})])
    assert message in str(caught.value)
    assert str(tmp_path / "mine" / FILE) in str(caught.value)


@pytest.mark.parametrize("verdict", [verdict for verdict in Verdict if verdict not in LISTABLE])
def test_what_is_green_or_missing_is_never_known(tmp_path: Path, verdict: Verdict) -> None:
    with pytest.raises(BaselineError, match="cannot be known with verdict"):
        read_known_gates([write(tmp_path / "mine", {**RIGHT, "verdict": verdict})])


def test_an_ordering_is_listed_by_both_of_its_specs(tmp_path: Path) -> None:
    id = "mine/gptq-w3-g128-over-awq-w3-g128/ppl/web"
    assert (id, "smoke", "cpu") in read_known_gates([write(tmp_path / "mine", {**RIGHT, "id": id})])
    for other in (id.replace("awq", "AWQ"), id.replace("-over-", "-over-over-")):
        with pytest.raises(BaselineError, match="is no exact id"):
            read_known_gates([write(tmp_path / "mine", {**RIGHT, "id": other})])


def test_a_gate_is_listed_once_in_all_folders(tmp_path: Path) -> None:
    mine, ours = (write(tmp_path / name, {**RIGHT, "reason": name}) for name in ("mine", "ours"))
    with pytest.raises(BaselineError, match="mine/rtn-w3-g128/ppl/web smoke cpu is listed twice"):
        read_known_gates([mine, ours])


def test_an_entry_is_stale_where_its_model_and_spec_run_without_its_metric() -> None:
    planned = ["mine/rtn-w3-g128/ppl/other", "mine/rtn-w3/ppl/web"]
    with pytest.raises(BaselineError, match="'mine/rtn-w3-g128/ppl/web' names no gate of the smoke tier"):
        check_current([KNOWN], "smoke", planned)
    check_current([KNOWN], "standard", planned)
    check_current([KNOWN], "smoke", [*planned, KNOWN.id])
    check_current([KNOWN], "smoke", ["mine/rtn-w4/ppl/web", "other/rtn-w3-g128/ppl/other"])


def test_a_gate_without_an_entry_stays_as_it_is() -> None:
    found = judge(evidence())
    assert expect(found, None) is found


@pytest.mark.parametrize("verdict", LISTABLE)
def test_a_gate_that_ends_as_listed_is_known_and_keeps_its_reasons(verdict: Verdict) -> None:
    worlds = {
        Verdict.NON_FINITE: evidence(candidate=None),
        Verdict.BELOW_FLOOR: evidence(bounds=FLOOR),
        Verdict.REGRESSED: evidence(baseline=AcceptedFigure(2.0)),
    }
    found = judge(worlds[verdict])
    assert found.verdict is verdict
    known = expect(found, listed(verdict))
    assert (known.verdict, known.reasons) == (Verdict.KNOWN, found.reasons)
    assert (known.difference, known.drift, known.test) == (found.difference, found.drift, found.test)
    assert known.verdict.green
    assert not known.verdict.updatable


def test_a_metric_that_vanished_does_not_end_as_listed() -> None:
    found = expect(judge(evidence(candidate=None)), listed(Verdict.NON_FINITE), measured=False)
    assert found.verdict is Verdict.NON_FINITE


def test_a_listed_gate_that_passes_is_red_until_its_entry_goes() -> None:
    found = expect(judge(evidence()), KNOWN)
    assert found.verdict is Verdict.STALE_KNOWN
    assert not found.verdict.green
    assert not found.verdict.updatable
    assert found.reasons == ("listed as BELOW_FLOOR in known.toml, and ended PASS: remove the entry",)


def test_an_improvement_is_no_known_failure_either() -> None:
    found = expect(judge(evidence(baseline=AcceptedFigure(2.5))), listed(Verdict.REGRESSED))
    assert found.verdict is Verdict.STALE_KNOWN
    assert "ended IMPROVED: remove the entry" in found.reasons[0]
    assert "better than the accepted baseline" in found.reasons[1]


@pytest.mark.parametrize(
    "verdict", [verdict for verdict in Verdict if not verdict.green and verdict is not Verdict.REGRESSED]
)
def test_a_gate_that_fails_otherwise_keeps_its_verdict_and_names_both(verdict: Verdict) -> None:
    found = expect(Judgement(verdict, ("why",)), listed(Verdict.REGRESSED))
    assert found.verdict is verdict
    assert found.reasons == ("why", f"listed as REGRESSED in known.toml, and ended {verdict}")


@pytest.mark.parametrize("baseline", [None, AcceptedFigure(2.25, ("dtype: other",))])
def test_a_gate_below_its_floor_is_as_listed_without_a_figure_that_could_be_accepted(
    baseline: AcceptedFigure | None,
) -> None:
    below = judge(evidence(bounds=FLOOR, baseline=baseline))
    assert below.verdict in {Verdict.NO_BASELINE, Verdict.STALE_BASELINE}
    assert expect(below, KNOWN).verdict is Verdict.KNOWN
    above = judge(evidence(baseline=baseline))
    assert expect(above, KNOWN).verdict is above.verdict


def test_a_collapsed_cell_has_no_floor_to_be_known_to_miss() -> None:
    found = judge(evidence(bounds=Bounds(None, 0.1, "collapsed"), baseline=None))
    assert expect(found, KNOWN).verdict is Verdict.NO_BASELINE
