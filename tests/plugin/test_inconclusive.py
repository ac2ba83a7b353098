"""A gate that cannot tell fails, names the items that would decide, and may warn at a desk alone."""

from __future__ import annotations

import pytest

from plugin.project import POLICY, Project, matched, refused


@pytest.fixture
def close(project: Project) -> Project:
    """A project whose floor of KL divergence is what the tiny model shows."""
    project.accept(specs="rtn-w8")
    shown = project.gates()["rtn-w8/kld/eval"]["worse"]
    text = POLICY.replace("kld = 0.01, top1 = 0.2", f"kld = {shown * 1.0001!r}, top1 = 0.2", 1)
    (project.baselines / "policy.toml").write_text(text, encoding="utf-8")
    return project


def test_a_gate_that_cannot_tell_is_red_and_says_what_would_decide(close: Project) -> None:
    result = close.run(specs="rtn-w8")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert close.verdicts()["rtn-w8/kld/eval"] == "INCONCLUSIVE"
    matched(result, "items cannot tell, about * items would decide")
    gate = close.gates()["rtn-w8/kld/eval"]
    assert gate["lower"] < gate["floor"] < gate["upper"]
    assert gate["needed"] > gate["n"]
    assert gate["alarm"] == 0.01 / 4  # bpw, ppl, kld and top1 may have floors


def test_it_may_warn_at_a_desk_and_is_shown_as_what_it_is(close: Project) -> None:
    result = close.run("--quantcheck-inconclusive=warn", specs="rtn-w8")

    assert result.ret == pytest.ExitCode.OK
    matched(result, "inconclusive gates warn", "INCONCLUSIVE *rtn-w8/kld/eval")


@pytest.mark.parametrize(
    "workers", [(), pytest.param(("-n2",), marks=pytest.mark.slow)], ids=["alone", "workers"]
)
def test_a_gate_that_only_the_whole_run_finds_below_its_floor_fails_it_though_its_test_warned(
    project: Project, workers: tuple[str, ...]
) -> None:
    project.accept(specs="rtn-w8")
    sure = project.gates()["rtn-w8/kld/eval"]["lower"]
    text = POLICY.replace("kld = 0.01, top1 = 0.2", f"kld = {sure * 1.001!r}, top1 = 0.2", 1)
    (project.baselines / "policy.toml").write_text(text, encoding="utf-8")

    result = project.run("--quantcheck-inconclusive=warn", *workers, specs="rtn-w8")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "failed" not in result.parseoutcomes()
    gate = project.gates()["rtn-w8/kld/eval"]
    assert gate["verdict"] == "BELOW_FLOOR"
    assert gate["alarm"] < gate["p_worse"] <= 0.01 / 3
    matched(
        result,
        "BELOW_FLOOR tiny/rtn-w8/kld/eval: beyond the floor under Holm's rule over 3 gates, p = 0.00",
        "1 BELOW_FLOOR, *; false alarms in 1% of runs, shared over 3 tests of floors",
    )


def test_warning_alone_is_refused_under_ci(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")

    refused(
        project.run("--quantcheck-inconclusive=warn"), "--quantcheck-inconclusive warn is refused under CI"
    )
