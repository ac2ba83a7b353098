"""What the benchmarks share: turns, medians with their ranges, and tables that stay in a document.

Everything compared takes turns in one process, and who goes first rotates with the rounds, so that what else
the machine does hits all alike; a ratio is that of the times within a round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Routine = Callable[[], Any]
"""One piece of work, with nothing left to prepare; what it returns is compared, not timed."""

Seconds = dict[str, list[float]]
"""Of each routine, a time a round."""


def nothing() -> None:
    """Wait for nothing: on a CPU, work is done when a call returns."""


def turns(routines: Mapping[str, Routine], rounds: int, wait: Callable[[], None] = nothing) -> Seconds:
    """Let the routines take turns, once to warm up and then ``rounds`` times; ``wait`` ends each."""
    names, seconds = list(routines), {name: list[float]() for name in routines}
    for turn in range(rounds + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            wait()
            start = time.perf_counter()
            routines[name]()
            wait()
            seconds[name] += [time.perf_counter() - start] if turn else []
    return seconds


def ratios(times: Sequence[float], base: Sequence[float]) -> list[float]:
    """Divide times by those of the same round."""
    return [one / other for one, other in zip(times, base, strict=True)]


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Show a median and a range."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def row(cells: Iterable[object]) -> str:
    """Lay out a row of a Markdown table."""
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def heads(titles: Sequence[str]) -> list[str]:
    """Lay out the first two rows of a Markdown table."""
    return [row(titles), f"|{'---|' * len(titles)}"]


def filled(text: str, name: str, lines: Iterable[str]) -> str:
    """Put lines into a document between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``.

    Raises:
        ValueError: the document has no such place.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, opened, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise ValueError(f"no place to fill: {begin} to {end}")
    return "\n".join((before + begin, *lines, end + after))


def publish(lines: Iterable[str], name: str, into: Path | None) -> None:
    """Print lines, or write them to their place in a document."""
    if into is None:
        print("\n".join(lines))
        return
    into.write_text(filled(into.read_text(encoding="utf-8"), name, lines), encoding="utf-8")
