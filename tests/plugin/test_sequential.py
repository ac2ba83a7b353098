"""`--quantcheck-sequential`: gates that end as soon as they are decided."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mutants.methods import ScalesOff, Sound

from plugin.project import POLICY, Project, entries, matched, refused, words

OPTIONS = ("--quantcheck-sequential", "--quantcheck-window=16")
SPEC = "mine-w8"
METRICS = ("ppl", "kld", "top1")


@pytest.fixture
def long(project: Project) -> Project:
    """A project with a hundred windows, whose sound figures are accepted."""
    (project.path / "eval.txt").write_text(words(1, 800), encoding="utf-8")
    project.accept("--quantcheck-window=16", specs=SPEC, methods={"mine": Sound()})
    return project


def gates_of(project: Project) -> dict[str, dict[str, Any]]:
    return {metric: project.gates()[f"{SPEC}/{metric}/eval"] for metric in METRICS}


def test_an_unchanged_model_is_green_after_a_few_windows(long: Project) -> None:
    whole = gates_of(long)["ppl"]["n"]

    result = long.run(*OPTIONS, specs=SPEC, methods={"mine": Sound()})

    assert result.ret == pytest.ExitCode.OK
    for gate in gates_of(long).values():
        assert gate["verdict"] == "PASS"
        assert gate["n"] < 12 < whole == gate["of"]
        assert gate["drift"] == pytest.approx(0, abs=1e-4)


@pytest.mark.slow
def test_workers_stop_where_one_process_does(project: Project) -> None:
    (project.path / "eval.txt").write_text(words(1, 800), encoding="utf-8")
    project.accept("--quantcheck-window=16", specs="rtn-w8")
    taken = []
    for workers in ((), ("-n", "2")):
        result = project.run(*OPTIONS, "--quantcheck-cache=off", *workers, specs="rtn-w8")
        assert result.ret == pytest.ExitCode.OK
        taken.append({name: (gate["n"], gate["of"]) for name, gate in project.gates().items()})
    assert taken[0] == taken[1]
    assert taken[0]["rtn-w8/ppl/eval"][1] == 257


def test_a_fault_is_red_before_all_windows_are_measured(long: Project) -> None:
    result = long.run(*OPTIONS, specs=SPEC, methods={"mine": ScalesOff()})

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    gate = gates_of(long)["kld"]
    assert gate["verdict"] == "REGRESSED"
    assert gate["drift"] > gate["drift_margin"]
    assert gate["n"] < gate["of"]
    matched(
        result,
        "measured * n = * of *",
        "bounds that hold at any stop",
        f"because * worse than the accepted baseline on the same items, * after * of {gate['of']} items",
    )


def test_a_model_below_its_floor_is_called_so(long: Project) -> None:
    floor = POLICY.replace("kld = 0.01, top1 = 0.2", "kld = 0.002, top1 = 0.2")
    (long.baselines / "policy.toml").write_text(floor, encoding="utf-8")

    result = long.run(*OPTIONS, specs=SPEC, methods={"mine": ScalesOff()})

    gate = gates_of(long)["kld"]
    assert gate["verdict"] == "BELOW_FLOOR"
    assert gate["lower"] > gate["floor"]
    matched(result, "because * worse than the reference, * at least, the floor allows 0.002: decided after *")


def test_without_accepted_figures_all_windows_are_measured(project: Project) -> None:
    project.run(*OPTIONS, specs=SPEC, methods={"mine": Sound()})

    for gate in gates_of(project).values():
        assert (gate["verdict"], gate["of"]) == ("NO_BASELINE", None)


def test_the_ini_file_may_ask_for_it_and_what_was_measured_so_is_kept_apart(long: Project) -> None:
    long.pytester.makeini("[pytest]\nquantcheck_sequential = true\n")

    long.run("--quantcheck-window=16", specs=SPEC, methods={"mine": Sound()})
    assert gates_of(long)["ppl"]["of"] is not None

    whole = ("--quantcheck-window=16", "-o", "quantcheck_sequential=false")
    long.run(*whole, specs=SPEC, methods={"mine": Sound()})
    assert gates_of(long)["ppl"]["of"] is None


def test_figures_of_a_stale_baseline_take_all_windows(long: Project) -> None:
    long.run(*OPTIONS, "--quantcheck-seed=7", specs=SPEC, methods={"mine": Sound()})

    for gate in gates_of(long).values():
        assert (gate["verdict"], gate["of"]) == ("STALE_BASELINE", None)


def test_another_margin_is_another_rule(long: Project, tmp_path: Path) -> None:
    long = replace(long, cache=tmp_path / "cache")
    long.run(*OPTIONS, specs=SPEC, methods={"mine": Sound()})
    kept = len(entries(long.cache, "measurement"))

    (long.baselines / "policy.toml").write_text(
        POLICY.replace("ppl = 1.002", "ppl = 1.003"), encoding="utf-8"
    )
    long.run(*OPTIONS, specs=SPEC, methods={"mine": Sound()})

    assert len(entries(long.cache, "measurement")) == kept + 1


def test_accepting_on_a_part_of_the_items_is_refused(project: Project) -> None:
    refused(
        project.run("--quantcheck-sequential", "--snapshot-update"),
        "--snapshot-update is refused with --quantcheck-sequential",
        "an accepted figure needs all of its items",
    )
