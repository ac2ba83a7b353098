"""Known failures: by exact id, each with a reason and an issue; one that no longer fails is an error.

``known.toml`` stands beside the accepted baselines::

    schema = 1

    [[failure]]
    id = "mine-w3::test_codes_out_of_range_are_refused"
    reason = "codes above 7 wrap; the file was written by a checked caller"
    issue = "https://github.com/mine/mine/issues/12"

The id is what is under test, then the name of the promise that it breaks.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from quantcheck.errors import BaselineError

FILE = "known.toml"
SCHEMA = 1
KEYS = ("id", "reason", "issue")


@dataclass(frozen=True)
class KnownFailure:
    """One promise that is known to be broken.

    Attributes:
        id: ``subject::promise``, exactly.
        reason: what is wrong.
        issue: where it is told in full.
    """

    id: str
    reason: str
    issue: str

    @property
    def subject(self) -> str:
        """What breaks the promise."""
        return self.id.partition("::")[0]


def read_known(folders: Iterable[Path]) -> dict[str, KnownFailure]:
    """Read the files of all folders, by id; a folder without one has no known failures.

    Raises:
        BaselineError: a file is no such file, an entry lacks its reason or issue, or an id stands there
            twice.
    """
    found: dict[str, KnownFailure] = {}
    for path in dict.fromkeys(folder / FILE for folder in folders):
        for failure in _entries(path) if path.is_file() else ():
            if failure.id in found:
                raise BaselineError(f"{path}: {failure.id!r} is listed twice; remove one")
            found[failure.id] = failure
    return found


def stale(known: Iterable[KnownFailure], collected: Iterable[str]) -> list[str]:
    """Return the listed ids whose subject was collected without any test of that id."""
    ids = set(collected)
    subjects = {id.partition("::")[0] for id in ids}
    return sorted(each.id for each in known if each.subject in subjects and each.id not in ids)


def _entries(path: Path) -> list[KnownFailure]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BaselineError(f"{path} is no TOML file: {error}") from error
    if content.get("schema") != SCHEMA:
        raise BaselineError(f"{path}: schema must be {SCHEMA}, got {content.get('schema')!r}")
    if unknown := sorted(content.keys() - {"schema", "failure"}):
        raise BaselineError(f"{path}: unknown key {unknown[0]!r}; it takes schema and [[failure]]")
    return [_entry(path, entry) for entry in content.get("failure", [])]


def _entry(path: Path, entry: dict[str, object]) -> KnownFailure:
    values = [entry.get(key) for key in KEYS]
    if set(entry) != set(KEYS) or not all(isinstance(value, str) and value.strip() for value in values):
        raise BaselineError(
            f"{path}: each [[failure]] has an id, a reason and an issue, as text; got {dict(entry)!r}"
        )
    known = KnownFailure(*(str(value) for value in values))
    if "::" not in known.id or any(sign in known.id for sign in "*?"):
        raise BaselineError(f"{path}: {known.id!r} is no exact id of the form 'mine-w3::test_promise'")
    return known
