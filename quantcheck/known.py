"""Known failures: by exact id, each with a reason and an issue; one that no longer fails is an error.

``known.toml`` stands beside the accepted baselines::

    schema = 1

    [[failure]]
    id = "mine-w3::test_codes_out_of_range_are_refused"
    reason = "codes above 7 wrap; the file was written by a checked caller"
    issue = "https://github.com/mine/mine/issues/12"

The id is what is under test, then the name of the promise that it breaks. Gates of models stand in
``[[gate]]`` entries of the same file (`quantcheck.known_gates`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantcheck.errors import BaselineError

FILE = "known.toml"
SCHEMA = 1
KEYS = ("id", "reason", "issue")
SECTIONS = ("failure", "gate")
WILDCARDS = "*?"


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
    """Read the promises that the files of all folders list, by id.

    Raises:
        BaselineError: as `read_entries`; an id is not exact, or stands there twice.
    """
    found: dict[str, KnownFailure] = {}
    for path, values in read_entries(folders, "failure", KEYS):
        failure = KnownFailure(*values)
        if "::" not in failure.id or any(sign in failure.id for sign in WILDCARDS):
            raise BaselineError(f"{path}: {failure.id!r} is no exact id of the form 'mine-w3::test_promise'")
        if failure.id in found:
            raise BaselineError(f"{path}: {failure.id!r} is listed twice; remove one")
        found[failure.id] = failure
    return found


def read_entries(
    folders: Iterable[Path], section: str, keys: Sequence[str]
) -> Iterator[tuple[Path, list[str]]]:
    """Yield the entries of one section with their file, as the values of ``keys`` in this order.

    A folder without a file has no known failures.

    Raises:
        BaselineError: a file is no such file, or an entry has other keys or says nothing under one.
    """
    for path in dict.fromkeys(folder / FILE for folder in folders):
        for entry in _content(path).get(section, []) if path.is_file() else ():
            values = [entry.get(key) for key in keys] if isinstance(entry, dict) else []
            texts = [value for value in values if isinstance(value, str) and value.strip()]
            if len(texts) < len(keys) or set(entry) != set(keys):
                raise BaselineError(
                    f"{path}: each [[{section}]] has {', '.join(keys)}, as text; got {entry!r}"
                )
            yield path, texts


def stale(known: Iterable[KnownFailure], collected: Iterable[str]) -> list[str]:
    """Return the listed ids whose subject was collected without any test of that id."""
    ids = set(collected)
    subjects = {id.partition("::")[0] for id in ids}
    return sorted(each.id for each in known if each.subject in subjects and each.id not in ids)


def _content(path: Path) -> dict[str, list[dict[str, object]]]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BaselineError(f"{path} is no TOML file: {error}") from error
    if content.pop("schema", None) != SCHEMA:
        raise BaselineError(f"{path}: schema must be {SCHEMA}")
    for name, entries in content.items():
        if name not in SECTIONS or not isinstance(entries, list):
            raise BaselineError(f"{path}: {name!r} is none of [[failure]] and [[gate]]")
    return content
