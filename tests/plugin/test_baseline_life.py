"""The life of a baseline: nothing accepted, accepted, unchanged, changed."""

from __future__ import annotations

import pytest

from plugin.project import Project, files, matched


def test_a_first_run_is_red_and_prints_how_to_accept(project: Project) -> None:
    result = project.run()

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=4)
    assert set(project.verdicts().values()) == {"NO_BASELINE"}
    matched(
        result,
        "NO_BASELINE: bpw of tiny quantized by rtn-w8 (smoke tier)",
        "now * review the figures, then accept them with the same command and --snapshot-update",
        "4 gates: 4 NO_BASELINE",
        "No baseline yet for tiny: review the figures above, then accept with the same command and --snapshot-update.",
    )
    assert files(project.baselines).keys() == {"policy.toml"}


def test_accepting_prints_old_and_new_and_makes_the_next_run_green(project: Project) -> None:
    accepted = project.run("--snapshot-update")

    assert accepted.ret == pytest.ExitCode.OK
    accepted.assert_outcomes(passed=4)
    matched(accepted, "accepted tiny/rtn-w8/bpw (smoke): none -> 9.167", "4 gates: 4 PASS")
    before = files(project.baselines)

    rerun = project.run()

    assert rerun.ret == pytest.ExitCode.OK
    rerun.assert_outcomes(passed=4)
    assert set(project.verdicts().values()) == {"PASS"}
    rerun.stdout.no_fnmatch_line("*accepted*")
    assert files(project.baselines) == before
