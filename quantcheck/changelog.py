"""Who accepted which figure, from what to what, and why: ``CHANGELOG.md`` beside the accepted baselines.

One row a figure, the newest last: a branch that accepts figures adds rows and changes none, and a merge keeps
those of both sides (``baselines/CHANGELOG.md merge=union`` in ``.gitattributes`` does it by itself).
"""

from __future__ import annotations

import getpass
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import cache
from pathlib import Path

from quantcheck.errors import BaselineError

FILE = "CHANGELOG.md"
NOT_GIVEN = "not given"
ACTORS = (
    "GITHUB_ACTOR",
    "GITLAB_USER_LOGIN",
    "BUILDKITE_BUILD_CREATOR",
    "CIRCLE_USERNAME",
    "BUILD_REQUESTEDFOR",  # Azure Pipelines
)


@dataclass(frozen=True)
class Change:
    """One figure that was accepted; the fields are the columns.

    Attributes:
        date: ISO 8601.
        who: name and address, or login name, of who accepted it.
        gate: ``model/spec/metric``.
        device, tier: kind of device and tier, each of which has figures of its own.
        before, after: the figures as they are printed.
        verdict: how the gate ended before it was accepted.
        reason: in the words of who accepted it.
    """

    date: str
    who: str
    gate: str
    device: str
    tier: str
    before: str
    after: str
    verdict: str
    reason: str

    def row(self) -> str:
        """The change as one row of a Markdown table."""
        return _row(astuple(self))


def append(folder: Path, row: str) -> None:
    """Add a row to the changelog of ``folder``, and begin one where there is none; hold a lock around it.

    Raises:
        BaselineError: the file cannot be written.
    """
    path = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        gap = "" if text.endswith("\n") else "\n" if text else _head()
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{gap}{row}\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BaselineError(
            f"changelog {path} cannot be written ({error}): nothing is accepted that it does not say"
        ) from error


@cache
def who(folder: Path, *, ci: bool) -> str:
    """Who accepts figures into ``folder``.

    Under CI who started it; else, and where it does not say, the identity that git has for that folder; the
    login name where there is none.
    """
    return (_actor(os.environ) if ci else "") or _git_identity(folder) or _login()


def _actor(environ: Mapping[str, str]) -> str:
    return next((environ[name] for name in ACTORS if environ.get(name)), "")


def _git_identity(folder: Path) -> str:
    name, email = (_git_config(folder, f"user.{key}") for key in ("name", "email"))
    return f"{name} <{email}>" if name and email else name or email


def _git_config(folder: Path, name: str) -> str:
    here = next(path for path in (folder, *folder.parents) if path.is_dir())
    try:
        asked = subprocess.run(
            ["git", "-C", str(here), "config", "--get", name],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.strip() if asked.returncode == 0 else ""


def _login() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container's user may have no name
        return "unknown"


def _head() -> str:
    titles = [field.name for field in fields(Change)]
    return (
        "# Accepted figures\n\n"
        "A row for each figure that `--snapshot-update` stored, newest last.\n\n"
        f"{_row(titles)}\n|{'---|' * len(titles)}\n"
    )


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in cells) + " |"
