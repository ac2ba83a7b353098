"""A trained checkpoint of somebody else's, end to end: published figures, first run, accepted run.

The figures stand in ``../shared/models/README.md``: RTN by the width and grid, on 128 windows of TinyStories.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from plugin.project import Project, files, matched, said

FULL_PRECISION = 4.4932
PUBLISHED = {
    "rtn-w8-symr": 4.4964,
    "rtn-w6-symr": 4.5228,
    "rtn-w5-symr": 4.6229,
    "rtn-w4-symr": 5.3039,
    "rtn-w8": 4.4960,
    "rtn-w6": 4.5227,
    "rtn-w5": 4.6097,
    "rtn-w4": 5.0429,
    "rtn-w8-g32": 4.494,
    "rtn-w6-g32": 4.520,
    "rtn-w5-g32": 4.571,
    "rtn-w4-g32": 4.873,
    "rtn-w4-sym": 5.226,
}


def options(project: Project, shared: Path) -> list[str]:
    """The published protocol."""
    return [
        f"--quantcheck-model=stories={shared / 'models' / 'stories260K'}",
        f"--quantcheck-text={shared / 'data' / 'tinystories' / 'train_head.txt'}",
        "--quantcheck-text-separator=<|endoftext|>",
        "--quantcheck-windows=128",
        *project.folders,
    ]


def gate(project: Project, shared: Path, specs: str, *args: str) -> pytest.RunResult:
    return project.pytester.runpytest_inprocess(
        *options(project, shared), f"--quantcheck-specs={specs}", *args
    )


def perplexities(project: Project) -> dict[str, tuple[float, float]]:
    """Measured and full-precision perplexity of each spec."""
    return {
        gate["spec"]: (gate["value"], gate["reference"])
        for gate in project.report()["gates"]
        if gate["metric"].startswith("ppl/")
    }


def assert_published(project: Project, specs: list[str]) -> None:
    found = perplexities(project)
    assert sorted(found) == sorted(specs)
    for spec in specs:
        assert found[spec] == pytest.approx((PUBLISHED[spec], FULL_PRECISION), rel=1e-3), spec


def test_a_row_of_the_published_table_comes_out(project: Project, shared: Path) -> None:
    result = gate(project, shared, "rtn-w4-g32")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    matched(result, "No baseline yet for stories")
    assert_published(project, ["rtn-w4-g32"])
    protocol = project.gates()["rtn-w4-g32/ppl/train_head"]["protocol"]
    assert (
        "128 contiguous windows of 512, documents split at '<|endoftext|>', stripped, BOS before each"
        in protocol
    )


@pytest.mark.slow
def test_the_published_table_comes_out_and_its_baselines_live(project: Project, shared: Path) -> None:
    every = ",".join(PUBLISHED)
    first = gate(project, shared, every)
    assert_published(project, list(PUBLISHED))
    accepted = gate(project, shared, every, "--snapshot-update")
    stored = files(project.baselines)
    project.accept(specs="rtn-w4,rtn-w8")
    rerun = gate(project, shared, every)

    assert [first.ret, accepted.ret, rerun.ret] == [1, 0, 0], said(rerun)
    assert set(project.verdicts().values()) == {"PASS"}
    assert {name: files(project.baselines)[name] for name in stored} == stored


@pytest.mark.slow
def test_wikitext2_at_full_precision_comes_out(project: Project, shared: Path) -> None:
    raw = (shared / "data" / "wikitext2" / "wiki.test.raw").read_bytes().decode()
    (project.path / "wikitext2.txt").write_text(raw[:400_000], encoding="utf-8")

    project.pytester.runpytest_inprocess(
        f"--quantcheck-model=stories={shared / 'models' / 'stories260K'}",
        "--quantcheck-text=wikitext2.txt",
        "--quantcheck-windows=128",
        "--quantcheck-specs=rtn-w8",
        *project.folders,
    )

    assert perplexities(project)["rtn-w8"][1] == pytest.approx(142.8, rel=5e-3)
