"""Published figures end to end: a run of a model that goes by a published name, without baselines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from plugin.project import Project, matched

METRIC = "ppl/wikitext2"


@pytest.fixture
def run_as(project: Project) -> Callable[..., pytest.RunResult]:
    """Gate the tiny model on a text called wikitext2, under any name."""
    text: Path = (project.path / "eval.txt").rename(project.path / "wikitext2.txt")

    def run(name: str, *args: str) -> pytest.RunResult:
        options = f"--quantcheck-model={name}={project.model}", f"--quantcheck-text={text.name}"
        return project.pytester.runpytest_inprocess(
            *("-p", "no:unraisableexception", *options, *project.folders, "--quantcheck-specs=rtn-w8", *args)
        )

    return run


@pytest.mark.parametrize("workers", [(), pytest.param(("-n2",), marks=pytest.mark.slow)])
def test_a_model_of_a_published_name_is_compared_and_another_full_precision_cannot_tell(
    project: Project, run_as: Callable[..., pytest.RunResult], workers: tuple[str, ...]
) -> None:
    result = run_as("llama3-8b", *workers)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    gate = project.gates()[f"rtn-w8/{METRIC}"]
    assert gate["verdict"] == "NO_BASELINE"
    assert gate["published"] == {
        "table": "Table 1",
        "printed": "6.2",
        "reference": "6.1",
        "answer": "cannot tell",
        "caveats": ["rounding", "window", "per_channel", "single_run"],
    }
    assert "cannot tell: the run's full precision is " in gate["reasons"][0]
    matched(
        result,
        "published  cannot tell: 6.2 of Table 1 (6.1 at full precision; caveats: rounding, window, *",
        "now        review the figures, then accept them with the same command and --snapshot-update",
        f"published llama3-8b/rtn-w8/{METRIC}: NO_BASELINE, cannot tell: 6.2 of Table 1 *",
    )
    assert project.gates()["rtn-w8/kld/wikitext2"]["published"] is None


def test_a_model_of_another_name_is_never_matched(
    project: Project, run_as: Callable[..., pytest.RunResult]
) -> None:
    run_as("llama3-8b-mine")

    gate = project.gates()[f"rtn-w8/{METRIC}"]
    assert (gate["verdict"], gate["published"], gate["reasons"]) == (
        "NO_BASELINE",
        None,
        ["no accepted baseline"],
    )


def test_once_accepted_the_own_baseline_decides(
    project: Project, run_as: Callable[..., pytest.RunResult]
) -> None:
    accepted = run_as("llama3-8b", "--snapshot-update")
    assert accepted.ret == pytest.ExitCode.OK, accepted.stdout.str()

    result = run_as("llama3-8b")

    assert result.ret == pytest.ExitCode.OK
    gate = project.gates()[f"rtn-w8/{METRIC}"]
    assert (gate["verdict"], gate["published"]) == ("PASS", None)
