"""Report files: KIND:PATH, checked at once, written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from quantcheck.errors import QuantcheckError
from quantcheck.report.writer import RENDERERS, ReportTarget
from unit.builders import gate_record, run_record


def test_a_report_is_written_into_a_new_folder(tmp_path: Path) -> None:
    path = tmp_path / "build" / "gate.json"
    ReportTarget.parse(f"json:{path}").write(run_record(gate_record()))
    assert path.read_text(encoding="utf-8") == run_record(gate_record()).dumps()
    assert len(json.loads(path.read_text(encoding="utf-8"))["gates"]) == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["gate.json"]


def test_a_later_report_replaces_an_earlier_one(tmp_path: Path) -> None:
    target = ReportTarget("json", tmp_path / "gate.json")
    target.write(run_record(gate_record(), gate_record()))
    target.write(run_record())
    assert json.loads(target.path.read_text(encoding="utf-8"))["gates"] == []


def test_a_report_that_cannot_be_finished_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = ReportTarget("json", tmp_path / "gate.json")
    target.write(run_record())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        target.write(run_record(gate_record()))
    assert json.loads(target.path.read_text(encoding="utf-8"))["gates"] == []


@pytest.mark.parametrize("text", ["", "json", "json:", "yaml:gate.yaml", ":gate.json", "JSON:gate.json"])
def test_what_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(QuantcheckError, match=f"{text!r} is no report; expected KIND:PATH with KIND one of"):
        ReportTarget.parse(text)


def test_a_folder_is_no_report_path(tmp_path: Path) -> None:
    with pytest.raises(QuantcheckError, match="is a folder; name a file in it"):
        ReportTarget.parse(f"json:{tmp_path}")


def test_paths_may_hold_colons() -> None:
    assert ReportTarget.parse("json:a:b.json") == ReportTarget("json", Path("a:b.json"))


@pytest.mark.parametrize("kind", sorted(RENDERERS))
def test_every_kind_renders_a_run_without_gates(kind: str) -> None:
    assert RENDERERS[kind](run_record())
