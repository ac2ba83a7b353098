"""What --snapshot-update stores is told beside the baselines: by whom, from what to what, and why."""

from __future__ import annotations

import pytest

from plugin.project import POLICY, Project, files, refused


def rows(project: Project) -> list[list[str]]:
    """The cells of each row, without date and name."""
    lines = (project.baselines / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()[6:]
    return [[cell.strip() for cell in line.strip("|").split("|")][2:] for line in lines]


def test_every_figure_that_is_stored_has_a_row(project: Project) -> None:
    project.accept("-k", "bpw or kld", "--quantcheck-reason=first figures")
    value = project.gates()["rtn-w8/kld/eval"]["value"]

    assert rows(project) == [
        ["tiny/rtn-w8/bpw", "cpu", "smoke", "none", "9.167", "NO_BASELINE", "first figures"],
        ["tiny/rtn-w8/kld/eval", "cpu", "smoke", "none", f"{value:.4g}", "NO_BASELINE", "first figures"],
    ]
    assert str(project.path) not in (project.baselines / "CHANGELOG.md").read_text(encoding="utf-8")


def test_a_run_that_changes_nothing_adds_nothing_and_one_that_does_adds_a_row_at_the_end(
    project: Project,
) -> None:
    project.accept("-k", "bpw")
    before = files(project.baselines)

    project.accept("-k", "bpw")
    project.run("-k", "bpw")

    assert files(project.baselines) == before
    text = project.baseline().read_text(encoding="utf-8")
    project.baseline().write_text(text.replace('"version": 1', '"version": 0'), encoding="utf-8")
    project.accept("-k", "bpw")
    assert rows(project)[0][-2:] == ["NO_BASELINE", "not given"]
    assert rows(project)[1:] == [
        ["tiny/rtn-w8/bpw", "cpu", "smoke", "9.167", "9.167", "STALE_BASELINE", "not given"]
    ]


def test_what_is_not_stored_is_not_told(project: Project) -> None:
    policy = POLICY.replace("bpw = 2.0", "bpw = 0.5")
    (project.baselines / "policy.toml").write_text(policy, encoding="utf-8")

    result = project.run("-k", "bpw", "--snapshot-update")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert not (project.baselines / "CHANGELOG.md").exists()


def test_two_tests_of_one_gate_tell_it_once(project: Project) -> None:
    test = "def test_{0}(quantized_model, gate): gate(quantized_model('rtn-w8'), 'bpw')\n"
    project.pytester.makepyfile(test_gates=test.format("one") + test.format("two"))

    project.accept()

    assert [row[0] for row in rows(project)] == ["tiny/rtn-w8/bpw"]


def test_a_reason_may_stand_in_the_ini_file_and_is_refused_when_empty(project: Project) -> None:
    project.pytester.makeini("[pytest]\nquantcheck_reason = a new release\n")
    project.accept("-k", "bpw")

    assert rows(project)[0][-1] == "a new release"
    for empty in ("", " "):
        refused(
            project.run("--snapshot-update", f"--quantcheck-reason={empty}"), "--quantcheck-reason is empty"
        )


def test_who_accepted_is_told(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("NAME", "Ada"), ("EMAIL", "ada@example.org")):
        project.pytester.run("git", "config", "--global", f"user.{name.lower()}", value)
    project.accept("-k", "bpw")
    monkeypatch.setenv("CI", "1")
    monkeypatch.setenv("GITHUB_ACTOR", "ada-at-work")
    project.accept("-k", "kld", "--quantcheck-update-in-ci")

    text = (project.baselines / "CHANGELOG.md").read_text(encoding="utf-8")
    assert [line.split(" | ")[1] for line in text.splitlines()[6:]] == [
        "Ada <ada@example.org>",
        "ada-at-work",
    ]
