"""Published figures as data, and how a run is judged against them. ``docs/published.md`` tells the rules."""

from __future__ import annotations

from quantcheck.published.answer import Citation, Match, RunFigure, decisive, matches
from quantcheck.published.bound import Answer, Bound, Finding, bound
from quantcheck.published.figures import (
    FULL_PRECISION,
    Caveat,
    Effect,
    Published,
    PublishedFigure,
    half_unit,
    load,
    loads,
    names,
    packaged,
)

__all__ = [
    "FULL_PRECISION",
    "Answer",
    "Bound",
    "Caveat",
    "Citation",
    "Effect",
    "Finding",
    "Match",
    "Published",
    "PublishedFigure",
    "RunFigure",
    "bound",
    "decisive",
    "half_unit",
    "load",
    "loads",
    "matches",
    "names",
    "packaged",
]
