"""Known failures: exact ids with a reason and an issue, and none that is stale."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantcheck.errors import BaselineError
from quantcheck.known import FILE, KnownFailure, read_known, stale

ENTRY = '[[failure]]\nid = "{id}"\nreason = "codes wrap"\nissue = "docs/findings.md#wrap"\n'


def write(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_text(text, encoding="utf-8")
    return folder


def test_entries_of_all_folders_are_read_by_id(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine", "schema = 1\n" + ENTRY.format(id="mine-w3::test_a"))
    ours = write(tmp_path / "ours", "schema = 1\n" + ENTRY.format(id="ours-w4::test_b"))
    known = read_known([mine, ours, tmp_path / "absent", mine])
    assert known == {
        id: KnownFailure(id, "codes wrap", "docs/findings.md#wrap")
        for id in ("mine-w3::test_a", "ours-w4::test_b")
    }
    assert known["mine-w3::test_a"].subject == "mine-w3"


def test_a_file_without_entries_lists_nothing(tmp_path: Path) -> None:
    assert read_known([write(tmp_path / "mine", "schema = 1\n")]) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schema", "is no TOML file"),
        ("", "schema must be 1"),
        ("schema = 2\n", "schema must be 1"),
        ("schema = 1\n[other]\n", "'other' is none of"),
        ('schema = 1\n[[failure]]\nid = "mine-w3::test_a"\n', "has id, reason, issue, as text"),
        (f"schema = 1\n{ENTRY.format(id='mine-w3::a')}more = 1\n", "has id, reason, issue, as text"),
        (
            "schema = 1\n" + ENTRY.format(id="mine-w3::a").replace("codes wrap", " "),
            "has id, reason, issue, as text",
        ),
        ("schema = 1\n" + ENTRY.format(id="mine-w3"), "'mine-w3' is no exact id"),
        ("schema = 1\n" + ENTRY.format(id="mine-w*::test_a"), r"'mine-w\*::test_a' is no exact id"),
        ("schema = 1\n" + 2 * ENTRY.format(id="mine-w3::a"), "'mine-w3::a' is listed twice"),
    ],
)
def test_a_file_that_says_too_little_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BaselineError, match=message):
        read_known([write(tmp_path / "mine", text)])


def test_an_entry_is_stale_where_its_subject_has_no_such_test() -> None:
    known = [KnownFailure(id, "", "") for id in ("mine-w3::test_a", "mine-w3::test_gone", "other-w4::test_a")]
    assert stale(known, ["mine-w3::test_a", "mine-w3::test_b"]) == ["mine-w3::test_gone"]
    assert stale(known, []) == []
