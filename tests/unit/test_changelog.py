"""The changelog beside the baselines: one row a figure, by whom, from what to what, and why."""

from __future__ import annotations

import getpass
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcheck import changelog
from quantcheck.changelog import ACTORS, FILE, Change, append, who
from quantcheck.errors import BaselineError

CHANGE = Change(
    "2026-01-31",
    "A <a@b.c>",
    "mine/rtn-w3/ppl/web",
    "cpu",
    "smoke",
    "none",
    "3.35",
    "NO_BASELINE",
    "first one",
)
ROW = "| 2026-01-31 | A <a@b.c> | mine/rtn-w3/ppl/web | cpu | smoke | none | 3.35 | NO_BASELINE | first one |"


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No identity but what a test gives."""
    for name in ACTORS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    who.cache_clear()


def rows(folder: Path) -> list[str]:
    return (folder / FILE).read_text(encoding="utf-8").splitlines()


def test_a_row_has_a_cell_for_each_column(tmp_path: Path) -> None:
    append(tmp_path / "baselines", CHANGE.row())
    title, _, intro, _, head, rule, row = rows(tmp_path / "baselines")
    assert title == "# Accepted figures"
    assert "newest last" in intro
    assert head == "| date | who | gate | device | tier | before | after | verdict | reason |"
    assert rule == "|---|---|---|---|---|---|---|---|---|"
    assert row == ROW == CHANGE.row()


def test_rows_are_added_at_the_end_and_none_is_changed(tmp_path: Path) -> None:
    append(tmp_path, CHANGE.row())
    (tmp_path / FILE).write_text("\n".join(rows(tmp_path)), encoding="utf-8")  # without its last line break
    before = rows(tmp_path)
    append(tmp_path, replace(CHANGE, reason="again").row())
    assert rows(tmp_path) == [*before, ROW.replace("first one", "again")]


@given(st.text(), st.text())
def test_whatever_is_said_stays_one_row_of_as_many_cells(name: str, reason: str) -> None:
    row = replace(CHANGE, who=name, reason=reason).row()
    assert len(row.splitlines()) == 1
    assert row.replace(r"\|", "").count("|") == ROW.count("|")


def test_a_changelog_that_cannot_be_written_keeps_figures_from_being_accepted(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(BaselineError, match="nothing is accepted that it does not say"):
        append(tmp_path, ROW)


def test_who_accepts_is_the_identity_that_git_has_for_the_baselines(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    folder = tmp_path / "baselines" / "not there yet"
    git = ["git", "-C", str(tmp_path), "config"]
    subprocess.run([*git, "user.name", "Ada"], check=True)
    assert who(folder, ci=False) == "Ada"
    who.cache_clear()
    subprocess.run([*git, "user.email", "ada@example.org"], check=True)
    assert who(folder, ci=False) == "Ada <ada@example.org>"


@pytest.mark.parametrize("actor", ACTORS)
def test_under_ci_it_is_who_started_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, actor: str) -> None:
    monkeypatch.setenv(actor, "ada")
    monkeypatch.setattr(getpass, "getuser", lambda: "runner")
    assert who(tmp_path, ci=True) == "ada"
    assert who(tmp_path, ci=False) == "runner"


def test_without_git_it_is_the_login_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(getpass, "getuser", lambda: "ada")
    assert who(tmp_path, ci=True) == "ada"


def test_a_user_without_a_name_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr(getpass, "getuser", nameless)
    monkeypatch.setattr(changelog, "_git_config", lambda folder, name: "")
    assert who(tmp_path, ci=False) == "unknown"
