"""A run that decides a release moves no goalposts and lets no gate only warn."""

from __future__ import annotations

import pytest

from plugin.project import Project, files, refused


def test_a_release_run_refuses_to_accept_and_to_warn(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(project.baselines)

    refused(
        project.run("--quantcheck-release", "--snapshot-update"),
        "--snapshot-update is refused in a release run",
    )
    refused(
        project.run("--quantcheck-release", "--quantcheck-inconclusive=warn"),
        "--quantcheck-inconclusive warn is refused in a release run",
    )
    monkeypatch.setenv("CI", "true")
    refused(
        project.run("--quantcheck-release", "--snapshot-update", "--quantcheck-update-in-ci"),
        "--snapshot-update is refused in a release run",
    )
    assert files(project.baselines) == before


def test_otherwise_it_is_a_run_like_any_other_and_says_so_in_its_record(project: Project) -> None:
    project.accept("-k", "bpw")
    assert project.report()["header"]["release"] is False

    assert project.run("--quantcheck-release", "-k", "bpw").ret == pytest.ExitCode.OK
    assert project.report()["header"]["release"] is True
