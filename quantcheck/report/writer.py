"""Report files: ``--quantcheck-report KIND:PATH``."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quantcheck.errors import QuantcheckError
from quantcheck.record import RunRecord

RENDERERS: dict[str, Callable[[RunRecord], str]] = {"json": RunRecord.dumps}


@dataclass(frozen=True)
class ReportTarget:
    """Where a report of one kind goes."""

    kind: str
    path: Path

    @classmethod
    def parse(cls, text: str) -> ReportTarget:
        """Read ``KIND:PATH``.

        Raises:
            QuantcheckError: an unknown kind, no path, or a path that is a folder.
        """
        kind, colon, path = text.partition(":")
        if kind not in RENDERERS or not colon or not path:
            raise QuantcheckError(
                f"{text!r} is no report; expected KIND:PATH with KIND one of {', '.join(RENDERERS)}"
            )
        if Path(path).is_dir():
            raise QuantcheckError(f"report path {path!r} is a folder; name a file in it")
        return cls(kind, Path(path))

    def write(self, run: RunRecord) -> None:
        """Write the report atomically, creating its folder."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        temporary.write_text(RENDERERS[self.kind](run), encoding="utf-8")
        os.replace(temporary, self.path)
