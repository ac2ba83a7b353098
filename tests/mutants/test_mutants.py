"""A gate is worth what it catches: each broken method turns it red, by the verdict that says why."""

from __future__ import annotations

import pytest
from plugin.project import Project, matched

from mutants import methods

# What is broken, the metric that must notice, and how, where a sound baseline was accepted before.
BELOW_ANY_FLOOR = [
    (methods.ScalesOff, "kld/eval"),
    (methods.ZeroPointsShifted, "kld/eval"),
    (methods.CodesTransposed, "kld/eval"),
    (methods.RowsSwapped, "kld/eval"),
]
NEVER_QUANTIZED = [
    (methods.FewerBits, "2 bits a weight are stored where the spec asks for 3"),
    (methods.MoreBits, "8 bits a weight are stored where the spec asks for 3"),
    (methods.LayerLeftOut, "model.layers.1.mlp.down_proj"),
    (methods.NothingQuantized, "must return every decoder Linear"),
    (methods.Crashing, "mine raised RuntimeError: out of luck (methods.py, line"),
    (methods.FloatKept, "more levels than its width can tell apart"),
    (methods.OtherThanStored, "not what its stored tensors decode to"),
]
NOT_FINITE = [methods.ScalesNaN, methods.ScalesInf]


def name(mutant: object) -> str:
    return mutant.__name__ if isinstance(mutant, type) else ""


def test_the_sound_method_is_green(project: Project) -> None:
    project.accept(specs="mine-w3,mine-w8", methods={"mine": methods.Sound()})

    result = project.run(specs="mine-w3,mine-w8", methods={"mine": methods.Sound()})

    assert result.ret == pytest.ExitCode.OK
    assert set(project.verdicts().values()) == {"PASS"}


@pytest.mark.parametrize(("mutant", "metric"), BELOW_ANY_FLOOR, ids=name)
def test_a_mutant_regresses_where_there_is_no_floor(project: Project, mutant: type, metric: str) -> None:
    project.accept(specs="mine-w3", methods={"mine": methods.Sound()})

    result = project.run(specs="mine-w3", methods={"mine": mutant()})

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert project.verdicts()[f"mine-w3/{metric}"] == "REGRESSED"
    matched(result, f"REGRESSED: {metric} of tiny quantized by mine-w3")


@pytest.mark.parametrize(("mutant", "metric"), BELOW_ANY_FLOOR, ids=name)
def test_a_mutant_below_the_floor_cannot_be_accepted(project: Project, mutant: type, metric: str) -> None:
    result = project.run("--snapshot-update", specs="mine-w8", methods={"mine": mutant()})

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert project.verdicts()[f"mine-w8/{metric}"] == "BELOW_FLOOR"
    assert f'"smoke {metric}"' not in project.baseline("mine-w8").read_text(encoding="utf-8")


@pytest.mark.parametrize(("mutant", "reason"), NEVER_QUANTIZED, ids=name)
def test_a_mutant_that_does_not_quantize_is_told_so(project: Project, mutant: type, reason: str) -> None:
    result = project.run("--snapshot-update", specs="mine-w3", methods={"mine": mutant()})

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert set(project.verdicts().values()) == {"NOT_QUANTIZED"}
    assert reason in project.gates()["mine-w3/ppl/eval"]["reasons"][0]
    assert not project.baseline("mine-w3").exists()


@pytest.mark.parametrize("mutant", NOT_FINITE, ids=name)
def test_a_mutant_that_is_not_finite_is_told_so(project: Project, mutant: type) -> None:
    result = project.run("--snapshot-update", specs="mine-w3", methods={"mine": mutant()})

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert set(project.verdicts().values()) == {"NON_FINITE"}
    assert not project.baseline("mine-w3").exists()
