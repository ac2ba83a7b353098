"""Codecs: the time of pack and unpack beside the libraries' own code, and beside a plain copy.

Every registered codec packs and unpacks a weight of ``--rows`` by ``--cols``; of further numbers of rows, one
width of each format does. A peer does its own work on the same values; where it cannot do without rounding
weights to codes (``encode``), or without making weights of codes (``decode``), quantcheck does that, too.
Nothing is timed before both have made the same: stored tensors equal in every bit, codes and weights equal.

Ours include what a caller gets: the checks of dtypes, shapes and ranges, and all parts, where peers have
codes and zero points alone. The copy is ``torch.clone`` of all parts, a byte a code.

The peers live in an environment of their own (the extra ``interop``), with quantcheck on PYTHONPATH; those
that are not installed are left out with a word::

    PYTHONPATH=. interop/bin/python benchmarks/codecs.py --into docs/performance.md
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.codec_case import Case, Work
from benchmarks.codec_peers import peers
from benchmarks.timing import Routine, heads, publish, ratios, row, spread, turns
from quantcheck.codecs import CODECS
from quantcheck.codecs.affine import AffineFormat

CLONES, PYTHON, COMPILED = 10.0, 2.0, 1.0
"""Targets: times a clone at most; times faster than a peer's Python and than its compiled code at least."""

TITLES = (
    "codec",
    "work",
    "ms, median (range)",
    "clones",
    "peer's code",
    "times ours, median (range)",
    "target",
)
OURS, COPY = "quantcheck", "torch.clone"


class Different(Exception):
    """A peer has made something else."""


@dataclass(frozen=True)
class Line:
    """What was timed in one direction of one codec.

    Attributes:
        codec: its id.
        direction: as in `Work`.
        ours: seconds a round.
        copy: likewise, of the copy.
        peer: whose code it is compared with; empty: nobody has any.
        theirs: the peer's seconds.
        compiled: whether the peer's code is.
    """

    codec: str
    direction: str
    ours: list[float]
    copy: list[float]
    peer: str = ""
    theirs: list[float] = field(default_factory=list)
    compiled: bool = False

    @property
    def clones(self) -> float | None:
        """Times that a copy takes; ``None`` where weights are made or rounded, too."""
        copied = self.direction in ("pack", "unpack")
        return statistics.median(ratios(self.ours, self.copy)) if copied else None

    @property
    def near(self) -> bool:
        """Whether it is within the target of a copy."""
        return self.clones is None or self.clones <= CLONES

    @property
    def faster(self) -> bool:
        """Whether it is as much faster than the peer as it ought to be."""
        if not self.peer:
            return True
        return statistics.median(ratios(self.theirs, self.ours)) >= self.wanted

    @property
    def wanted(self) -> float:
        """How many times faster it ought to be."""
        return COMPILED if self.compiled else PYTHON

    @property
    def cells(self) -> Iterator[str]:
        """Lay out a row of the table."""
        yield from (f"`{self.codec}`", self.direction)
        yield spread([1000 * seconds for seconds in self.ours], ".1f")
        yield "" if self.clones is None else f"{self.clones:.1f}"
        if not self.peer:
            yield from ("", "")
        else:
            yield f"{self.peer} ({'compiled' if self.compiled else 'Python'})"
            yield spread(ratios(self.theirs, self.ours), ".1f")
        missed = [] if self.near else [f"over {CLONES:.0f} clones"]
        yield ", ".join(missed if self.faster else [*missed, f"under {self.wanted:.0f} times"]) or "met"


def compare(case: Case, works: Sequence[Work], rounds: int) -> Iterator[Line]:
    """Let ours, the copy and the peers take turns, one direction after the other.

    Raises:
        Different: a peer has made something else.
    """
    codec_id = case.codec.id
    expected = {"weights": case.codec.weights(case.parts, case.shape), **case.parts, **case.stored}
    for direction in dict.fromkeys(("pack", "unpack", *(work.direction for work in works))):
        chosen = [work for work in works if work.direction == direction]
        for work in chosen:
            confirm(work, expected, codec_id)
        routines = {OURS: ours(case, direction), COPY: lambda: [part.clone() for part in case.parts.values()]}
        seconds = turns({**routines, **{work.what: work.run for work in chosen}}, rounds)
        timed = codec_id, direction, seconds[OURS], seconds[COPY]
        yield from (Line(*timed, work.what, seconds[work.what], work.compiled) for work in chosen)
        if not chosen:
            yield Line(*timed)


def ours(case: Case, direction: str) -> Routine:
    """Prepare our side of a direction."""
    codec, parts, stored, shape = case.codec, case.parts, case.stored, case.shape
    match direction:
        case "pack":
            return lambda: codec.pack(parts, shape)
        case "unpack":
            return lambda: codec.unpack(stored, shape)
        case "decode":
            return lambda: codec.weights(codec.unpack(stored, shape), shape)
    assert isinstance(codec, AffineFormat)
    weights = codec.weights(parts, shape)
    return lambda: codec.pack({**parts, "codes": codec.encode(weights, parts, shape)}, shape)


def confirm(work: Work, expected: Mapping[str, Tensor], codec: str) -> None:
    """Let a peer work once, and compare.

    Raises:
        Different: it has made something else than ours.
    """
    found = work.read(work.run())
    for name, theirs in found.items():
        mine = expected[name]
        if theirs.shape != mine.shape or not bool((theirs == mine).all()):
            raise Different(f"{codec}: {name} of {work.what} is not ours")
    if not found:
        raise Different(f"{codec}: {work.what} has made nothing")


def measure(rows: int, cols: int, ids: Sequence[tuple[str, int]], rounds: int) -> tuple[list[Line], set[str]]:
    """Compare codecs by name and width, one at a time; also return what was left out."""
    lines, left_out = list[Line](), dict[str, str]()
    for name, bits in ids:
        print(f"{rows} x {cols}: {name} at {bits} bits", file=sys.stderr)
        case = Case.random(name, bits, rows, cols)
        lines += compare(case, peers(case, left_out), rounds)
    return lines, {f"{name} ({why})" for name, why in left_out.items()}


def widths(globs: Sequence[str], *, all_of_them: bool) -> list[tuple[str, int]]:
    """List codecs that a glob matches, at all of their widths or at one: 4 bits or the narrowest."""
    found = []
    for name in CODECS.names():
        bits = CODECS.entry(name).capabilities.bits
        chosen = bits if all_of_them else (4 if 4 in bits else bits[0],)
        ids = ((name, width) for width in chosen)
        found += [id_ for id_ in ids if any(fnmatchcase(f"{id_[0]}-w{id_[1]}", glob) for glob in globs)]
    return found


def report(shape: str, lines: Sequence[Line], left_out: set[str]) -> Iterator[str]:
    """Count what met its targets, and lay out the table."""
    copied = {(line.codec, line.direction): line for line in lines if line.clones is not None}.values()
    python, compiled = (
        [line for line in lines if line.peer and line.compiled is kind] for kind in (False, True)
    )
    yield f"**{shape}**: {_count(copied, 'near')} take at most {CLONES:.0f} clones;"
    yield f"{_count(python, 'faster')} are at least {PYTHON:.0f} times faster than peers' Python code,"
    yield f"{_count(compiled, 'faster')} no slower than their compiled code."
    yield from (f"Left out: {'; '.join(sorted(left_out))}.",) if left_out else ()
    yield from ("", "<details><summary>all lines</summary>", "")
    yield from heads(TITLES)
    yield from (row(line.cells) for line in lines)
    yield from ("", "</details>", "")


def _count(lines: Collection[Line], target: str) -> str:
    return f"{sum(getattr(line, target) for line in lines)} of {len(lines)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark; a peer that makes something else ends it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[4096, 14336], help="of each weight")
    parser.add_argument("--cols", type=int, default=4096, help="of all of them (default 4096)")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default 2)")
    parser.add_argument("--codecs", nargs="+", default=["*"], help="globs of ids, as gptq*-w4")
    parser.add_argument("--into", type=Path, help="document to write the tables into")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    lines, libraries = list[str](), set[str]()
    for place, rows in enumerate(options.rows):
        ids = widths(options.codecs, all_of_them=place == 0)
        found, left_out = measure(rows, options.cols, ids, options.rounds)
        libraries |= {line.peer.split()[0] for line in found if line.peer}
        lines += report(f"{rows} x {options.cols}", found, left_out)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", *sorted(libraries)))
    setting = f"{options.threads} threads, {options.rounds} rounds after one to warm up; {versions}."
    publish([setting, "", *lines], "codecs", options.into)


if __name__ == "__main__":
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    main()
