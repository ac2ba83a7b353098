"""Every finding of docs/findings.md still holds of the versions that are installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .peers import REQUIRED, library

DOCS = Path(__file__).parents[2] / "docs" / "findings.md"
FINDING = re.compile(
    r"^## (?P<title>(?P<library>[\w-]+): .*?)$.*?^```python\n(?P<code>.*?)^```$", re.M | re.S
)
FINDINGS = [match.groupdict() for match in FINDING.finditer(DOCS.read_text(encoding="utf-8"))]


@pytest.mark.skipif(not REQUIRED, reason="findings are about the pinned versions: make interop")
@pytest.mark.parametrize("finding", FINDINGS, ids=lambda finding: finding["title"])
def test_a_finding_still_holds(finding: dict[str, str]) -> None:
    library(finding["library"].replace("-", "_"))
    exec(compile(finding["code"], finding["title"], "exec"), {"__name__": "finding"})


def test_every_section_is_a_finding_that_runs() -> None:
    sections = re.findall(r"^## (.*)$", DOCS.read_text(encoding="utf-8"), re.M)
    assert [finding["title"] for finding in FINDINGS] == sections
