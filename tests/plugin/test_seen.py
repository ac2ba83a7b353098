"""What people see: progress, the table, messages that stand alone, the JSON record, an interrupted run."""

from __future__ import annotations

import json
import os
import re
import signal
from functools import partial
from pathlib import Path

import pytest
from mutants.methods import ScalesOff, Sound

from plugin.project import GATES, STORED, Project, all_ended, matched, said
from quantcheck.gate import Verdict
from quantcheck.progress import choose_mode
from quantcheck.record import GateRecord
from quantcheck.spec import QuantSpec

PROGRESS = "quantcheck: ["


class Slow(Sound):
    """Takes long enough to be worth a progress line."""

    def check(self, spec: QuantSpec) -> None:
        import time

        time.sleep(0.6)


@pytest.fixture
def slow(project: Project, tmp_path: Path):
    """A run with work that takes a moment, in a cache of its own."""
    return lambda *args: project.run(
        f"--quantcheck-cache={tmp_path / 'cache'}", *args, specs="mine-w8", methods={"mine": Slow()}
    )


def test_a_log_gets_a_line_for_work_that_took_long(slow) -> None:
    result = slow()

    matched(result, "quantcheck: [[]1/3[]] tiny mine-w8  done in 0:01")
    assert "\r" not in said(result)


@pytest.mark.parametrize(("args", "tasks"), [((), 3), (("--snapshot-update",), 5)])
def test_every_piece_of_work_is_counted(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], tasks: int
) -> None:
    monkeypatch.setattr("quantcheck.progress._WORTH_SECONDS", 0.0)

    result = project.run(f"--quantcheck-cache={tmp_path / 'cache'}", *args)

    counted = re.findall(rf"^{re.escape(PROGRESS)}(\d+)/(\d+)\]", said(result), re.MULTILINE)
    assert counted == [(str(number), str(tasks)) for number in range(1, tasks + 1)]


@pytest.mark.parametrize(("ci", "rewritten"), [("", True), ("true", False)])
def test_a_terminal_is_rewritten_in_place_and_a_ci_log_never(
    slow, monkeypatch: pytest.MonkeyPatch, ci: str, rewritten: bool
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(
        "quantcheck.state.choose_mode", lambda choice, **how: choose_mode(choice, **{**how, "isatty": True})
    )

    result = slow()

    assert ("\x1b[K" in said(result)) is rewritten
    assert (PROGRESS in said(result)) is not rewritten


def test_quiet_runs_show_no_progress(slow) -> None:
    assert PROGRESS not in said(slow("-q"))


def test_progress_can_be_asked_for_and_sent_away(slow) -> None:
    assert PROGRESS not in said(slow("--quantcheck-progress=off"))


def test_quiet_runs_show_progress_when_asked_by_name(slow) -> None:
    assert PROGRESS in said(slow("-q", "--quantcheck-progress=on"))


def test_the_message_of_a_failed_gate_stands_alone(project: Project) -> None:
    project.accept(specs="mine-w3", methods={"mine": Sound()})

    result = project.run("-k", "kld", specs="mine-w3", methods={"mine": ScalesOff()})

    figure = r"\d[\d.e+-]*"
    text = said(result).partition("= FAILURES =")[2]
    for line in (
        r"REGRESSED: kld/eval of tiny quantized by mine-w3 \(smoke tier\)",
        rf"  measured   {figure} nat, ↓ lower is better, n = 21",
        rf"  worse by   \+{figure} ± {figure} nat \(paired\), floor none \(declared collapsed\)",
        rf"  baseline   {figure}, drift \+{figure}, margin 0.01",
        r"  artifact   4.021 bits per weight stored, 3 nominal",
        rf"  because    {figure} worse than the accepted baseline, the drift margin is 0.01",
        r"  policy     a random model has nothing to lose",
        rf"  on         processor .*, threads 1, python {figure}, system .*",
        r"  now        mend what changed since the baseline; .* accept it .* --snapshot-update",
    ):
        assert re.search(f"^{line}$", text, re.MULTILINE), line


def test_the_table_shows_failures_first_and_every_spec(project: Project) -> None:
    project.accept(specs="rtn-w8,mine-w3", methods={"mine": Sound()})

    result = project.run(specs="rtn-w8,mine-w3", methods={"mine": ScalesOff()})

    regressed = [*sorted(metric for metric in STORED if metric != "bpw"), "kld/eval"]
    matched(
        result,
        "verdict * gate * measured * reference * worse",
        *(f"REGRESSED * tiny/mine-w3/{metric} ?" for metric in regressed),
        "tiny: usable",
        "spec * artifact/weights ↓ * bpw ↓ * ppl/eval ↓ * kld/eval ↓ * top1/eval ↑ * verdict",
        "full precision",
        "rtn-w8 * pass",
        "tiny: declared collapsed (no floor; drift, artifact and finiteness gate)",
        "mine-w3 * REGRESSED",
        f"{2 * len(GATES)} gates: 5 REGRESSED, {2 * len(GATES) - 5} PASS",
    )


def test_the_report_has_every_documented_field_and_no_other(project: Project, repository: Path) -> None:
    documented = (repository / "docs" / "record.md").read_text(encoding="utf-8")
    run_table, _, rest = documented.partition("A gate:")
    gate_table, _, ordering_table = rest.partition("An ordering:")

    def keys(table: str) -> set[str]:
        rows = (line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
        return {key for row in rows for key in re.findall("`([a-z0-9_]+)`", row)}

    project.run(specs="rtn-w8,rtn-w3")
    report = project.report()

    assert report["schema"] == 1
    assert report.keys() == keys(run_table)
    assert all(gate.keys() == keys(gate_table) for gate in report["gates"])
    assert report["orderings"]
    assert all(ordering.keys() == keys(ordering_table) for ordering in report["orderings"])
    assert report["verdicts"] == {"NO_BASELINE": 2 * len(GATES)}
    header_row = next(line for line in run_table.splitlines() if line.startswith("| `header`"))
    assert report["header"].keys() <= set(re.findall("`([a-z_]+)`", header_row))


def test_the_report_can_be_read_back(project: Project) -> None:
    project.accept(specs="mine-w3", methods={"mine": Sound()})
    project.run(specs="mine-w3", methods={"mine": ScalesOff()})

    gates = [GateRecord.from_json(gate) for gate in project.report()["gates"]]

    assert [gate.verdict.green for gate in gates] == sorted(gate.verdict.green for gate in gates)
    assert {gate.verdict for gate in gates} == {Verdict.REGRESSED, Verdict.PASS}
    (failed,) = (gate for gate in gates if gate.id == "tiny/mine-w3/kld/eval")
    assert failed.verdict is Verdict.REGRESSED
    assert failed.drift > failed.drift_margin == 0.01
    assert failed.floor is None and failed.reference is None and failed.accepted is None
    assert (failed.bpw, failed.nominal_bits) == (pytest.approx(4.0208, abs=1e-4), 3)
    assert failed.value > failed.baseline > 0
    kept, _ = failed.measurements()
    assert (kept.n, kept.mean) == (failed.n, pytest.approx(failed.value, abs=1e-4))
    assert json.loads(json.dumps([gate.to_json() for gate in gates])) == project.report()["gates"]


def test_what_was_accepted_stands_in_the_report(project: Project) -> None:
    project.accept()

    assert {gate["accepted"] for gate in project.gates().values() if gate["metric"] == "bpw"} == {
        "none -> 9.167"
    }


def test_reports_go_where_they_are_sent(project: Project) -> None:
    project.run("--quantcheck-report=json:out/deep/again.json")

    assert (project.path / "out" / "deep" / "again.json").read_bytes()
    assert (project.path / "report.json").is_file()


def test_a_report_below_a_file_is_refused_before_anything_runs(project: Project) -> None:
    (project.path / "taken").write_text("", encoding="utf-8")

    result = project.run("--quantcheck-report=json:taken/report.json")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "is no folder that can be written to" in said(result)


def test_junit_counts_every_failed_gate(project: Project) -> None:
    project.run("--junitxml=junit.xml")

    text = (project.path / "junit.xml").read_text(encoding="utf-8")
    assert f'failures="{len(GATES)}"' in text and 'skipped="0"' in text
    assert "NO_BASELINE: bpw of tiny quantized by rtn-w8" in text


def test_an_interrupted_run_reports_the_gates_that_finished(
    project: Project, request: pytest.FixtureRequest
) -> None:
    # Where this run itself is in the background of a shell, interrupts are ignored.
    request.addfinalizer(partial(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT)))
    signal.signal(signal.SIGINT, signal.default_int_handler)

    class Interrupted(Sound):
        def check(self, spec: QuantSpec) -> None:
            if spec.bits == 3:
                os.kill(os.getpid(), 2)

    result = project.run("--quantcheck-cache=off", specs="mine-w8,mine-w3", methods={"mine": Interrupted()})

    assert result.ret == pytest.ExitCode.INTERRUPTED
    matched(result, "mine-w8 * NO_BASELINE", all_ended("NO_BASELINE"), "KeyboardInterrupt")
    assert set(project.verdicts()) == {f"mine-w8/{metric}" for metric in GATES}


def test_a_run_stopped_at_the_first_failure_reports_it(project: Project) -> None:
    result = project.run("-x")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert project.verdicts() == {f"rtn-w8/{GATES[0]}": "NO_BASELINE"}


def test_collecting_alone_writes_no_report(project: Project) -> None:
    project.run("--collect-only")

    assert not (project.path / "report.json").exists()
