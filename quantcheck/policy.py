"""The margins of every gate, read from one reviewed file.

``policy.toml`` is an ordered list of cells. The first whose ``specs`` glob matches a spec id counts; each is
*usable* (a floor per metric kind) or *collapsed* (no floor), has a drift margin per metric kind, and says
why. A margin may also be given for one metric by its name, which counts before that of its kind. Margins
of perplexity and of layers' errors are ratios (1.2 is 20 % more), all others are differences in the metric's
own unit.
``[[ordering]]`` entries name specs that ought not to be worse than others (`quantcheck.orderings.named`).
See ``docs/verdicts.md``.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from quantcheck.errors import BaselineError
from quantcheck.judging.evidence import Bounds
from quantcheck.measurement import KINDS, kind_of
from quantcheck.orderings import NamedOrdering, read_named
from quantcheck.spec import QuantSpec

SCHEMA = 1


@dataclass(frozen=True)
class PolicyCell:
    """One entry of the policy file; margins are by metric name or kind, in the file's units."""

    specs: tuple[str, ...]
    collapsed: bool
    floor: Mapping[str, float]
    drift: Mapping[str, float]
    reason: str

    def matches(self, spec_id: str) -> bool:
        """Whether one of the globs covers the spec."""
        return any(fnmatchcase(spec_id, glob) for glob in self.specs)


@dataclass(frozen=True)
class Policy:
    """All cells of a policy file, in their order, and the orderings that it names."""

    path: Path
    cells: tuple[PolicyCell, ...]
    orderings: tuple[NamedOrdering, ...] = ()

    def bounds(self, spec_id: str, metric: str) -> Bounds:
        """The bounds of one gate, in the outcomes' unit.

        Raises:
            BaselineError: no cell covers the spec, or its cell has no margin for this kind of metric.
        """
        cell = next((cell for cell in self.cells if cell.matches(spec_id)), None)
        if cell is None:
            raise BaselineError(
                f"{self.path}: no cell covers {spec_id}; add one with its floor, drift and reason"
            )
        drift = _margin(cell.drift, metric, spec_id, "drift", self.path)
        floorless = cell.collapsed or kind_of(metric).by_layer
        floor = None if floorless else _margin(cell.floor, metric, spec_id, "floor", self.path)
        return Bounds(floor, drift, cell.reason)

    def naming(self, better: QuantSpec, worse: QuantSpec) -> tuple[NamedOrdering, ...]:
        """The entries that say of two specs that one is not worse than the other.

        Raises:
            BaselineError: none does.
        """
        pair = better, worse
        found = tuple(entry for entry in self.orderings if pair in entry.pairs(pair))
        if not found:
            raise BaselineError(
                f"{self.path}: no ordering says that {better} is not worse than {worse}; add an [[ordering]] "
                f"with its metric, margin and reason"
            )
        return found

    def ordering(self, better: QuantSpec, worse: QuantSpec, metric: str) -> NamedOrdering:
        """The first of these that is about a metric, which `naming` must have been asked for."""
        return next(entry for entry in self.naming(better, worse) if entry.covers(metric))


def read_policy(path: Path) -> Policy:
    """Read and check a policy file.

    Raises:
        BaselineError: not TOML, another schema, an unknown key or kind, a margin that is not a positive
            finite number, no reason, or an ordering that `read_named` refuses.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BaselineError(f"policy {path} cannot be read: {error}") from error
    if raw.get("schema") != SCHEMA:
        raise BaselineError(
            f"policy {path} has schema {raw.get('schema')!r}, this version of quantcheck reads {SCHEMA}"
        )
    cells = raw.get("cell")
    if not isinstance(cells, list) or not cells:
        raise BaselineError(f"policy {path} has no [[cell]]; without margins no gate can decide")
    checked = tuple(_cell(entry, f"{path}, cell {number}") for number, entry in enumerate(cells, 1))
    return Policy(path, checked, read_named(raw.get("ordering", []), path))


def _cell(entry: Any, where: str) -> PolicyCell:
    known = {"specs", "status", "floor", "drift", "reason"}
    if not isinstance(entry, dict):
        raise BaselineError(f"policy {where}: must be a table that begins with [[cell]], got {entry!r}")
    if set(entry) - known:
        raise BaselineError(
            f"policy {where}: unknown keys {sorted(set(entry) - known)}; known: {sorted(known)}"
        )
    status, specs, reason = entry.get("status"), entry.get("specs"), entry.get("reason")
    if status not in {"usable", "collapsed"}:
        raise BaselineError(f"policy {where}: status must be 'usable' or 'collapsed', got {status!r}")
    if not isinstance(specs, list) or not specs or not all(isinstance(glob, str) for glob in specs):
        raise BaselineError(f"policy {where}: specs must be a list of globs over spec ids")
    if not isinstance(reason, str) or not reason.strip():
        raise BaselineError(f"policy {where}: every cell needs a reason")
    if status == "collapsed" and "floor" in entry:
        raise BaselineError(
            f"policy {where}: a collapsed cell has no floor; make it usable or drop the floor"
        )
    floor = _margins(entry.get("floor", {}), f"{where}, floor")
    return PolicyCell(
        tuple(specs), status == "collapsed", floor, _margins(entry.get("drift"), f"{where}, drift"), reason
    )


def _margins(raw: Any, where: str) -> dict[str, float]:
    if not isinstance(raw, dict):
        raise BaselineError(f"policy {where}: margins by metric kind are missing")
    for name, value in raw.items():
        kind = name.partition("/")[0]
        if kind not in KINDS:
            raise BaselineError(f"policy {where}: unknown metric kind {kind!r}; known: {', '.join(KINDS)}")
        least, most = _range(kind)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least < value < most:
            below = f" and below {most:g}" if most < math.inf else ""
            raise BaselineError(
                f"policy {where}: {name} must be a finite number above {least:g}{below}, got {value!r}"
            )
    return {name: float(value) for name, value in raw.items()}


def _range(kind: str) -> tuple[float, float]:
    """Margins lie between these: a ratio of 1 allows nothing, and no model loses a fraction of 1 and more."""
    if _ratio(kind):
        return 1.0, math.inf
    return 0.0, 1.0 if KINDS[kind].unit == "fraction" else math.inf


def _ratio(kind: str) -> bool:
    return KINDS[kind].log or KINDS[kind].by_layer


def _margin(margins: Mapping[str, float], metric: str, spec_id: str, which: str, path: Path) -> float:
    kind = kind_of(metric).name
    margin = margins.get(metric, margins.get(kind))
    if margin is None:
        raise BaselineError(
            f"{path}: the cell of {spec_id} has no {which} for {kind}; add one with its reason"
        )
    return math.log(margin) if _ratio(kind) else margin
