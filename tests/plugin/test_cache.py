"""The cache as a user meets it: reuse, code that changed, a killed run, folders that cannot be used."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mutants.methods import ScalesOff, Sound

from plugin.project import STORED, Project, entries, files, refused, said

WAITING = """
    import os, time
    from pathlib import Path
    from quantcheck.methods.rtn import Rtn
    from quantcheck.registry import Capabilities

    class Waiting(Rtn):
        def quantize_weight(self, weight, spec, scale_dtype):
            if os.environ.get("WAIT_FOR_THE_KILL") and spec.bits == 3:
                Path(__file__).with_name("reached.txt").touch()
                time.sleep(600)
            return super().quantize_weight(weight, spec, scale_dtype)

    def pytest_quantcheck_register_methods(methods):
        methods.register("mine", Waiting(), Capabilities(bits=(3, 8)), origin="conftest.py")
"""


def figures(project: Project) -> dict[str, tuple[object, ...]]:
    return {name: (gate["verdict"], gate["value"], gate["worse"]) for name, gate in project.gates().items()}


@pytest.fixture
def own(project: Project, tmp_path: Path) -> Project:
    """A project with a cache of its own."""
    return Project(project.pytester, project.model, tmp_path / "own-cache")


def test_a_rerun_reuses_everything_and_says_so(own: Project) -> None:
    own.run(specs="rtn-w3,rtn-w8")
    first, stored = own.report(), files(own.cache / "entries")

    own.run(specs="rtn-w3,rtn-w8")

    rerun = own.report()
    assert all(gate["seconds"] > 0 for gate in first["gates"])
    assert all(gate["seconds"] == 0 for gate in rerun["gates"])
    assert [{**gate, "seconds": 0} for gate in first["gates"]] == rerun["gates"]
    assert files(own.cache / "entries") == stored


def test_a_rerun_neither_loads_nor_quantizes(own: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    own.accept(specs="rtn-w3,gptq-w3")
    monkeypatch.setattr("quantcheck.runner.load_model", None)
    monkeypatch.setattr("quantcheck.runner.quantize", None)
    monkeypatch.setattr("quantcheck.runner.measure", None)

    assert own.run(specs="rtn-w3,gptq-w3").ret == pytest.ExitCode.OK


def test_gates_of_what_is_stored_evaluate_nothing(own: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantcheck.runner.measure", None)

    own.run("-k", "artifact or bpw", specs="gptq-w3")

    assert own.verdicts() == {f"gptq-w3/{metric}": "NO_BASELINE" for metric in STORED}
    kinds = ("artifact", "facts", "measurement", "reference")
    assert [len(entries(own.cache, kind)) for kind in kinds] == [1, 1, 0, 0]


def test_a_method_whose_code_changed_is_not_answered_for(own: Project) -> None:
    own.accept(specs="mine-w3", methods={"mine": Sound()})

    own.run(specs="mine-w3", methods={"mine": ScalesOff()})

    assert own.gates()["mine-w3/kld/eval"]["verdict"] == "REGRESSED"
    assert len(entries(own.cache, "artifact")) == 2


@pytest.mark.parametrize(
    "option",
    ["--quantcheck-seed=3", "--quantcheck-dtype=float16", "--quantcheck-calibration-windows=3"],
)
def test_another_setting_is_not_answered_for(own: Project, option: str) -> None:
    own.run(specs="gptq-w8")
    own.run(option, specs="gptq-w8")

    assert len(entries(own.cache, "artifact")) == 2
    assert all(gate["seconds"] > 0 for gate in own.report()["gates"])


def test_a_text_that_changed_is_measured_anew_on_the_same_artifact(own: Project) -> None:
    own.run()
    text = own.path / "eval.txt"
    text.write_text(text.read_text(encoding="utf-8").replace("fox", "ant"), encoding="utf-8")

    own.run()

    assert len(entries(own.cache, "artifact")) == 1
    assert len(entries(own.cache, "measurement")) == 2


def test_a_damaged_entry_is_made_anew_and_reported(own: Project) -> None:
    own.run()
    before = figures(own)
    for path in (own.cache / "entries").glob("*/payload/figures.json"):
        path.write_text(path.read_text(encoding="utf-8").replace("1", "2"), encoding="utf-8")

    result = own.run()

    assert figures(own) == before
    result.stdout.fnmatch_lines(["*discarded a damaged measurement from the cache*"])


def test_a_killed_run_leaves_nothing_that_a_later_run_misreads(own: Project, warm_cache: Path) -> None:
    own.pytester.makeconftest(WAITING)
    specs = "mine-w8,mine-w3"
    command = [sys.executable, "-m", "pytest", *own.options, f"--quantcheck-specs={specs}"]
    reached = own.path / "reached.txt"
    with subprocess.Popen(
        command, cwd=own.path, env={**os.environ, "WAIT_FOR_THE_KILL": "1"}, stdout=subprocess.DEVNULL
    ) as running:
        while not reached.exists() and running.poll() is None:
            time.sleep(0.05)
        os.kill(running.pid, signal.SIGKILL)
    assert running.returncode == -signal.SIGKILL
    assert len(entries(own.cache, "artifact")) == 1

    own.run(specs=specs)
    after = figures(own)
    assert {gate["spec"] for gate in own.report()["gates"] if gate["seconds"] == 0} == {"mine-w8"}

    own.run("--quantcheck-cache=off", specs=specs)
    assert after == figures(own)


def test_a_cache_folder_that_is_a_file_is_refused(own: Project) -> None:
    own.cache.parent.mkdir(exist_ok=True)
    own.cache.write_text("", encoding="utf-8")

    refused(own.run(), f"the cache folder {own.cache} cannot be used", "--quantcheck-cache off")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to read-only folders")
def test_a_cache_folder_that_is_read_only_is_refused(own: Project) -> None:
    own.cache.mkdir()
    own.cache.chmod(0o500)

    refused(own.run(), f"the cache folder {own.cache} cannot be used", "--quantcheck-cache off")


def test_a_cache_folder_that_becomes_full_ends_the_gates_with_what_to_do(
    own: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("quantcheck.cache._seal", full)

    result = own.run()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "is full" in said(result)
    assert "make room there" in said(result)
