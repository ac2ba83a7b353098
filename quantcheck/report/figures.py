"""How numbers are printed, one rule for every report. Printing rounds; comparing never does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from quantcheck.measurement import kind_of


def figure(metric: str, value: float | None) -> str:
    """A figure in the way its kind is read: fractions in percent, the rest with four significant digits."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    if kind_of(metric).unit == "fraction":
        return f"{100 * value:.1f}%"
    return f"{value:.4g}"


def signed(value: float | None) -> str:
    """A difference with its sign and three significant digits; ``-`` when there is none."""
    if value is None:
        return "-"
    return "n/a" if math.isnan(value) else f"{value:+.3g}"


def with_error(value: float | None, stderr: float | None) -> str:
    """A difference and its standard error, ``+0.31 ± 0.0512``."""
    if stderr is None or math.isnan(stderr):
        return f"{signed(value)} ± {signed(stderr)}"
    return f"{signed(value)} ± {stderr:.3g}"


def arrow(higher_is_better: bool | None) -> str:
    """The direction in which a figure gets better; of one that should stay, both."""
    if higher_is_better is None:
        return "↕"
    return "↑" if higher_is_better else "↓"


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a plain text table: every column as wide as its widest cell."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
