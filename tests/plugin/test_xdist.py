"""With workers: the same verdicts, each spec quantized once, every figure stored, every failure reported."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from plugin.project import GATES, Project, all_ended, entries, files, matched

SPECS = "rtn-w2,rtn-w3,rtn-w8"
COUNTING = """
    from pathlib import Path
    from quantcheck.methods.rtn import Rtn
    from quantcheck.registry import Capabilities

    class Counting(Rtn):
        def quantize(self, model, spec, **kwargs):
            with Path(__file__).with_name("quantized.txt").open("a") as log:
                log.write(f"{spec}\\n")
            return super().quantize(model, spec, **kwargs)

    def pytest_quantcheck_register_methods(methods):
        methods.register("mine", Counting(), Capabilities(bits=(3, 8)), origin="conftest.py")
"""


def figures(project: Project) -> dict[str, tuple[object, ...]]:
    """What must not depend on how the gates are shared out."""
    return {
        name: (gate["verdict"], gate["value"], gate["worse"], gate["items"])
        for name, gate in project.gates().items()
    }


def test_workers_accept_what_one_process_accepts(project: Project, tmp_path: Path) -> None:
    own = f"--quantcheck-cache={tmp_path / 'cache'}"

    result = project.run("-n2", "--snapshot-update", own, specs=SPECS)

    assert result.ret == pytest.ExitCode.OK
    count = 3 * len(GATES)
    result.assert_outcomes(passed=count)
    matched(result, "accepted tiny/rtn-w2/bpw (smoke): none -> *", all_ended("PASS", specs=3))
    assert len(entries(tmp_path / "cache", "artifact")) == 3
    assert len(entries(tmp_path / "cache", "reference")) == 1
    shared, stored = figures(project), files(project.baselines)
    told = stored["CHANGELOG.md"].decode().splitlines()[6:]
    assert sorted(row.split(" | ")[2] for row in told) == sorted(f"tiny/{name}" for name in shared)
    assert len(shared) == count
    for spec in SPECS.split(","):
        accepted = json.loads(stored[f"tiny/cpu/{spec}.json"])["figures"]
        assert set(accepted) == {f"smoke {metric}" for metric in GATES}

    project.accept(specs=SPECS)

    assert figures(project) == shared
    assert files(project.baselines) == stored


def test_workers_report_every_failure_and_share_what_is_made_without_a_cache(project: Project) -> None:
    project.pytester.makeconftest(COUNTING)
    project.pytester.makepyfile(test_skip="import pytest\n@pytest.mark.skip\ndef test_mine(gate): gate(None)")
    args = ("--quantcheck-cache=off", "--junitxml=junit.xml")
    serial = project.run(*args, specs="mine-w3,mine-w8")
    alone = figures(project)
    (project.path / "quantized.txt").unlink()

    result = project.run("-n2", "--dist=worksteal", *args, specs="mine-w3,mine-w8")

    assert serial.ret == result.ret == pytest.ExitCode.TESTS_FAILED
    count = 2 * len(GATES)
    result.assert_outcomes(failed=count, errors=1)
    matched(
        result,
        "test_mine asked for a gate and was skipped",
        all_ended("NO_BASELINE", specs=2),
        "No baseline yet for tiny",
    )
    assert figures(project) == alone
    assert sorted((project.path / "quantized.txt").read_text().split()) == ["mine-w3", "mine-w8"]
    suite = ElementTree.parse(project.path / "junit.xml").getroot()[0]
    counts = [suite.get(name) for name in ("tests", "failures", "errors", "skipped")]
    assert counts == [str(count + 1), str(count), "1", "0"]
    failure = suite.find("testcase[@name='test_gate[tiny/mine-w3/ppl/eval]']/failure")
    assert failure is not None and "NO_BASELINE: ppl/eval of tiny quantized by mine-w3" in failure.text


def test_the_controller_refuses_what_the_gates_would_fail_on(project: Project) -> None:
    (project.path / "calibration.txt").write_text("", encoding="utf-8")

    result = project.run("-n2", specs="gptq-w3")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "calibration.txt is empty" in result.stderr.str()


def test_listing_starts_no_workers(project: Project) -> None:
    result = project.run("-n2", "--quantcheck-list")

    assert result.ret == pytest.ExitCode.OK
    matched(result, "tiny/rtn-w8/bpw  quantcheck canary bits(w=8)")
    result.stdout.no_fnmatch_line("*2 workers*")


def test_gates_run_where_xdist_is_not_installed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "quantcheck.distribution", None)

    result = project.run("-p", "no:xdist", "-p", "no:xdist.looponfail", "--snapshot-update")

    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=len(GATES))
