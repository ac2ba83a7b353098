"""Accepted figures on disk: ``baselines/<model>/<device kind>/<spec>.json``, one metric a line.

A file holds one spec of one model on one kind of device. Tiers measure different item sets, so each keeps
its own figures. What the figures depend on is stored once under ``made`` and named by its content address,
so that a line stays short enough to review:

    {
    "schema": 1, "model": "builtin-llama", "device": "cpu", "spec": "gptq-w3-g128",
    "made": {
    "5c0f21aa": {"basis": {...}, "date": "2026-11-21", "libraries": {...}, "machine": {...}}
    },
    "figures": {
    "smoke ppl/encyclopedia": {"mean": 1.21, "value": 3.35, "stderr": 0.05, "n": 16, ...},
    ...
    }
    }
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from quantcheck.errors import BaselineError
from quantcheck.judging.drift import NOISE_FACTOR
from quantcheck.judging.evidence import AcceptedFigure
from quantcheck.measurement import KINDS, Measurement
from quantcheck.outcomes import tolerance, unpack
from quantcheck.provenance import Basis

SCHEMA = 1
REACCEPT = "restore it from version control, or delete it and accept the figures anew with --snapshot-update"


@dataclass(frozen=True)
class Figure:
    """One accepted figure, as stored.

    Attributes:
        mean: mean outcome, in the outcomes' unit (nats for perplexity).
        value: the figure as people read it.
        stderr: of the mean over items; ``None`` below two items.
        n: number of items.
        worse: paired difference from the reference, positive is worse.
        worse_stderr: of that difference; ``None`` below two items.
        items: digest of the ordered item ids.
        protocol: how they were scored.
        version: of the metric's code.
        made: key of the provenance entry.
        outcomes: of each item, as `quantcheck.outcomes` packs them; empty where they were not kept.
        artifact: digest of the artifact that was measured; empty where unknown.
        codes: digest of each of its layers, space between; of layers' errors alone.
        noise: largest change of one item when the same artifact was measured in other batches and sums.
        spread: standard deviation over calibrations with other samples, of the mean or of the logarithm of
            each layer's error; ``None`` where there is none.
        freedom: its degrees of freedom.
    """

    mean: float
    value: float
    stderr: float | None
    n: int
    worse: float
    worse_stderr: float | None
    items: str
    protocol: str
    version: int
    made: str
    outcomes: str = ""
    artifact: str = ""
    codes: str = ""
    noise: float = 0.0
    spread: float | tuple[float, ...] | None = None
    freedom: float = 0

    def __post_init__(self) -> None:
        if isinstance(self.spread, list):  # as JSON has it
            object.__setattr__(self, "spread", tuple(self.spread))

    def accepted(
        self,
        measured: Measurement | None,
        made: Mapping[str, Any],
        basis: Basis,
        reference: Measurement | None = None,
    ) -> AcceptedFigure:
        """The figure as the gate sees it, with everything that makes it stale for this run.

        Args:
            measured: the quantized model's measurement now; ``None`` where there is none.
            made: provenance of the accepted figure.
            basis: what a figure of this run depends on.
            reference: the full-precision model's measurement now, of all items; ``None`` where the metric
                has none.
        """
        stale = list(basis.differences(made["basis"]))
        if measured is not None:
            for name, now in (
                ("items", measured.items),
                ("protocol", measured.protocol),
                ("version", measured.version),
            ):
                if getattr(self, name) != now:
                    stale.append(f"{name}: accepted with {getattr(self, name)!r}, now {now!r}")
            if measured.taken is None and measured.n != self.n:
                stale.append(f"n: accepted with {self.n} items, now {measured.n}")
        if not stale and reference is not None and (moved := self._other_reference(reference)):
            stale.append(moved)
        outcomes = unpack(self.outcomes, self.n, self.mean) if self.outcomes else None
        return AcceptedFigure(
            self.mean,
            tuple(stale),
            outcomes,
            None if outcomes is None else tolerance(self.outcomes, outcomes, self.mean),
            self.artifact,
            tuple(self.codes.split()),
            self.noise,
            self.spread,
            self.freedom,
        )

    def _other_reference(self, reference: Measurement) -> str | None:
        """How the full-precision model's mean differs from then, which nothing but rounding may cause."""
        kind = reference.kind
        if kind.relative or kind.exact:
            return None
        then = self.mean + (self.worse if kind.higher_is_better else -self.worse)
        # As of items: two choices can be so near that another processor prefers the other.
        allowed = kind.rounding + NOISE_FACTOR * self.noise + (1.5 / self.n if kind.name == "acc" else 0.0)
        if abs(reference.mean - then) <= allowed:
            return None
        return (
            f"reference: accepted beside a full-precision mean of {then:.6g}, now {reference.mean:.6g}, "
            f"though model, items and protocol are the same"
        )


@dataclass(frozen=True)
class BaselineFile:
    """All accepted figures of one spec of one model on one kind of device.

    ``figures`` is keyed by ``"<tier> <metric>"``; ``made`` by its content address.
    """

    model: str
    device: str
    spec: str
    made: Mapping[str, Mapping[str, Any]]
    figures: Mapping[str, Figure]

    def metrics(self, tier: str) -> tuple[str, ...]:
        """The metrics that have an accepted figure at a tier."""
        return tuple(key.partition(" ")[2] for key in self.figures if key.startswith(f"{tier} "))

    def get(self, tier: str, metric: str) -> Figure | None:
        """The accepted figure, or ``None``."""
        return self.figures.get(f"{tier} {metric}")

    def with_figure(self, tier: str, metric: str, figure: Figure, made: Mapping[str, Any]) -> BaselineFile:
        """A copy with one figure replaced; provenance that nothing refers to any more is dropped."""
        figures = {**self.figures, f"{tier} {metric}": figure}
        used = {entry.made for entry in figures.values()}
        provenance = {key: entry for key, entry in {**self.made, figure.made: made}.items() if key in used}
        return replace(self, figures=figures, made=provenance)

    def dumps(self) -> str:
        """The text of the file: sorted, one metric and one provenance entry a line."""
        head = {"schema": SCHEMA, "model": self.model, "device": self.device, "spec": self.spec}
        lines = ["{", json.dumps(head)[1:-1] + ","]
        lines += ['"made": {', _lines(self.made.items()), "},"]
        lines += [
            '"figures": {',
            _lines((key, _stored(figure)) for key, figure in self.figures.items()),
            "}",
            "}",
        ]
        return "\n".join(lines) + "\n"


def baseline_path(root: Path, model: str, device: str, spec: str) -> Path:
    """Where a baseline lies below ``root``."""
    return root / model / device / f"{spec}.json"


def loads(text: str, where: str) -> BaselineFile:
    """Read the text of a baseline file.

    Raises:
        BaselineError: truncated, not finite, another schema version, or fields missing; the message names
            the file and the way out.
    """
    try:
        raw = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_refuse_twins)
    except ValueError as error:
        raise BaselineError(f"baseline {where} is damaged ({error}): {REACCEPT}") from error
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        schema = raw.get("schema") if isinstance(raw, dict) else None
        raise BaselineError(
            f"baseline {where} has schema {schema!r}, this version of quantcheck reads {SCHEMA}: {REACCEPT}"
        )
    try:
        figures = {key: _figure(entry) for key, entry in raw["figures"].items()}
        file = BaselineFile(raw["model"], raw["device"], raw["spec"], dict(raw["made"]), figures)
        unknown = [key for key in figures if key.partition(" ")[2].partition("/")[0] not in KINDS]
        orphans = [key for key, figure in figures.items() if not _has_basis(file.made[figure.made])]
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise BaselineError(
            f"baseline {where} is damaged ({type(error).__name__}: {error}): {REACCEPT}"
        ) from error
    if unknown:
        raise BaselineError(f"baseline {where} has a figure of an unknown kind, {unknown[0]!r}: {REACCEPT}")
    if orphans:
        raise BaselineError(f"baseline {where} is damaged (no provenance for {orphans[0]!r}): {REACCEPT}")
    return file


def read_baseline(roots: Iterable[Path], model: str, device: str, spec: str) -> BaselineFile | None:
    """The accepted figures of one spec, ``None`` when there are none; earlier roots shadow later ones.

    Raises:
        BaselineError: a file cannot be read, or says inside that it belongs elsewhere.
    """
    merged: BaselineFile | None = None
    for root in roots:
        file = _read(baseline_path(root, model, device, spec), (model, device, spec))
        if merged is None or file is None:
            merged = merged or file
            continue
        merged = replace(
            merged, figures={**file.figures, **merged.figures}, made={**file.made, **merged.made}
        )
    return merged


def write_baseline(root: Path, file: BaselineFile) -> Path:
    """Write a baseline file atomically below ``root`` and return its path.

    Raises:
        BaselineError: a figure is not finite, or the folder cannot be written to.
    """
    for key, figure in file.figures.items():
        if not _finite(figure):
            raise BaselineError(f"{file.model} {file.spec} {key}: a non-finite figure is never stored")
    path = baseline_path(root, file.model, file.device, file.spec)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(file.dumps(), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise BaselineError(
            f"baseline {path} cannot be written ({error}): name a folder of your own with "
            f"--quantcheck-baselines DIR"
        ) from error
    return path


def _read(path: Path, address: tuple[str, str, str]) -> BaselineFile | None:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise BaselineError(f"baseline {path} cannot be read ({error}): {REACCEPT}") from error
    file = loads(text, str(path))
    if (file.model, file.device, file.spec) != address:
        raise BaselineError(
            f"baseline {path} says inside that it is of {file.model}, {file.device}, {file.spec}: "
            "it was copied or renamed; move it back, or accept the figures anew with --snapshot-update"
        )
    return file


def _stored(figure: Figure) -> dict[str, Any]:
    """The fields of a figure, without those that say nothing."""
    defaults = {entry.name: entry.default for entry in fields(Figure)}
    return {name: value for name, value in asdict(figure).items() if value != defaults[name]}


def _figure(entry: Mapping[str, Any]) -> Figure:
    figure = Figure(**entry)
    if not _finite(figure):
        raise ValueError(f"non-finite or missing number in {dict(entry)}")
    if figure.spread is not None and figure.freedom < 1:
        raise ValueError(f"a spread without degrees of freedom in {dict(entry)}")
    if isinstance(figure.spread, tuple) and len(figure.spread) != figure.n:
        raise ValueError(f"{len(figure.spread)} spreads of {figure.n} layers in {dict(entry)}")
    if figure.outcomes:
        unpack(figure.outcomes, figure.n, figure.mean)
    return figure


def _finite(figure: Figure) -> bool:
    numbers = [figure.mean, figure.value, figure.worse, figure.noise]
    spreads = figure.spread if isinstance(figure.spread, tuple) else (figure.spread,)
    optional = (figure.stderr, figure.worse_stderr, *spreads)
    numbers += [number for number in optional if number is not None]
    return all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)


def _has_basis(made: Mapping[str, Any]) -> bool:
    return isinstance(made.get("basis"), Mapping)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no figure")


def _refuse_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if twins := [key for key in keys if keys.count(key) > 1]:
        raise ValueError(f"{twins[0]!r} stands twice")
    return dict(pairs)


def _lines(entries: Iterable[tuple[str, Any]]) -> str:
    return ",\n".join(
        f"{json.dumps(key)}: {json.dumps(value, sort_keys=True)}" for key, value in sorted(entries)
    )
