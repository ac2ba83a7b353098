"""What README and docs show works as it stands there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from plugin.project import Project, matched, said
from quantcheck.options import OPTIONS


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def test_the_method_of_the_docs_is_gated_by_its_conftest_alone(project: Project, repository: Path) -> None:
    example = next(
        block
        for block in blocks(repository / "docs" / "extending.md", "python")
        if "pytest_quantcheck_register_methods" in block
    )
    project.pytester.makeconftest(example)

    result = project.run("--quantcheck-methods=absmax", "--snapshot-update", specs="*")

    assert result.ret == pytest.ExitCode.OK, said(result)
    assert {name.partition("/")[0] for name in project.verdicts()} == {"absmax-w3", "absmax-w4", "absmax-w8"}


def test_the_three_lines_of_the_readme_gate_a_release(project: Project, repository: Path) -> None:
    example = next(
        block for block in blocks(repository / "README.md", "python") if "def test_release" in block
    )
    project.pytester.makepyfile(test_gates="", test_release=example)

    first = project.run("test_release.py", specs="rtn-w8")
    accepted = project.run("test_release.py", "--snapshot-update", specs="rtn-w8")

    assert first.ret == pytest.ExitCode.TESTS_FAILED
    matched(first, "gptq-w3-g128", "No baseline yet for tiny")
    assert accepted.ret == pytest.ExitCode.OK, said(accepted)


def test_every_option_that_the_pages_name_exists(repository: Path) -> None:
    known = {f"--quantcheck-{option.name}" for option in OPTIONS}
    pages = [
        repository / "README.md",
        repository / "CONTRIBUTING.md",
        *sorted((repository / "docs").glob("*.md")),
    ]

    named = {
        word for page in pages for word in re.findall(r"--quantcheck-[a-z-]*[a-z]", page.read_text("utf-8"))
    }

    assert named <= known


def test_every_link_between_the_pages_leads_somewhere(repository: Path) -> None:
    for page in [repository / "README.md", *sorted((repository / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_table_of_noise_is_that_of_the_baselines(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(repository)
    noises = importlib.import_module("benchmarks.noise").noises
    filled = importlib.import_module("benchmarks.timing").filled
    text = (repository / "docs" / "statistics.md").read_text(encoding="utf-8")

    assert filled(text, "noise", noises()) == text
