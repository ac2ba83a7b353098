"""What the interop tests compared, counted; ``--interop-table FILE`` writes it between the file's markers."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path

import pytest
import torch

from .peers import Tally

LIBRARIES = (
    "bitsandbytes",
    "compressed-tensors",
    "gguf",
    "gptqmodel",
    "hqq",
    "optimum-quanto",
    "torch",
    "torchao",
)
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
COUNTS = ("reads ours", "packs the same", "quantizes for us")
ROWS = pytest.StashKey[list[tuple[Tally, bool]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--interop-table", metavar="FILE", help="write the table of what was compared into FILE")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


def pytest_report_header() -> str:
    return "interop: " + ", ".join(f"{name} {installed(name)}" for name in LIBRARIES)


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Counts what a test compares; one that compares nothing fails."""
    counted = Tally()
    request.node.tally = counted
    yield counted
    assert counted.cases or not request.node.passed, f"{request.node.nodeid} compared nothing"


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leaves out what says the same as plain code, and takes a minute to compile."""
    monkeypatch.setenv("GPTQMODEL_DISABLE_PACK_EXT", "1")
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if call.when == "call" and hasattr(item, "tally"):
        item.passed = call.excinfo is None
        item.config.stash[ROWS].append((item.tally, item.passed))
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("interop_table")
    if path and session.config.stash[ROWS]:
        text = Path(path).read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        lines = table(session.config.stash[ROWS])
        Path(path).write_text(before + "\n".join((BEGIN, *lines, END)) + after, encoding="utf-8")


def table(rows: list[tuple[Tally, bool]]) -> Iterator[str]:
    """Write a row for each library, format and functions, with the tensors compared in each direction."""
    yield "| library | version | format | its code | bits | " + " | ".join(COUNTS) + " | result |"
    yield "|---|---|---|---|---|" + "--:|" * len(COUNTS) + "---|"

    def key(row: tuple[Tally, bool]) -> tuple[str, ...]:
        tally = row[0]
        return tally.library, tally.version, tally.codec, tally.what

    for names, group in groupby(sorted(rows, key=lambda row: (key(row), row[0].bits)), key):
        library, release, codec, what = names
        found = list(group)
        widths = ", ".join(str(bits) for bits in sorted({tally.bits for tally, _ in found}))
        counts = [
            sum(tally.cases for tally, _ in found if tally.direction == direction) or ""
            for direction in COUNTS
        ]
        result = "bit for bit" if all(passed for _, passed in found) else "**differs**"
        cells = (library, release, codec, what, widths, *counts, result)
        yield "| " + " | ".join(map(str, cells)) + " |"
