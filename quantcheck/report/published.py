"""Published figures as plain text: as the study's tables, or beside the figures of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from quantcheck.measurement import kind_of
from quantcheck.published import (
    Answer,
    Bound,
    Effect,
    Match,
    Published,
    PublishedFigure,
    RunFigure,
    matches,
)
from quantcheck.record import GateRecord, RunRecord
from quantcheck.report.figures import arrow, columns, figure

MARKS = {
    Effect.NOTE: "",
    Effect.WIDENS: " +-",
    Effect.SUSPECT: " ?",
    Effect.MAGNITUDE: " ~",
    Effect.EXCLUDED: " x",
}
LEGEND = (
    "x not compared, ~ compared as collapsed or not, ? suspect: only being worse counts, "
    "+- printed elsewhere with another value"
)
LOWER_IS_BETTER = ("ppl", "memory", "time")


@dataclass(frozen=True)
class Beside:
    """A gate of a run beside the published figure of its spec and metric."""

    gate: GateRecord
    match: Match


def tables(published: Published, figures: Sequence[PublishedFigure]) -> Iterator[str]:
    """The chosen figures of one model as the study prints them, and the caveats that they carry."""
    yield f"{published.title}: {published.study}"
    yield LEGEND
    for name, rows in groupby(figures, key=lambda entry: entry.table):
        yield ""
        yield from _table(name, list(rows))
    yield from _glossary(figures)


def beside(published: Sequence[Published], run: RunRecord) -> Iterator[Beside]:
    """Every gate of a run whose model, spec and metric have a published figure, compared with it."""
    models: Mapping[str, Mapping[str, str]] = run.header.get("models", {})
    for gate in (gate for gate in run.gates if not gate.against):
        source = models.get(gate.model, {}).get("source") or ""
        yield from (Beside(gate, match) for match in matches(published, _run_figure(gate, source)))


def lines(found: Sequence[Beside]) -> Iterator[str]:
    """A line for each comparison, the worse first; reasons unless the two agree; the caveats' texts last."""
    order = list(Answer)
    ordered = sorted(found, key=lambda entry: (order.index(entry.match.finding.answer), entry.gate.id))
    titles = ("answer", "gate", "published", "at full precision", "run", "at full precision", "agrees")
    head, *table = columns([titles, *map(_row, ordered)])
    yield head
    for line, entry in zip(table, ordered, strict=True):
        yield line
        if entry.match.finding.answer is not Answer.AGREES:
            yield from (f"    {reason}" for reason in entry.match.finding.reasons)
            yield f"    caveats: {', '.join(caveat.id for caveat in entry.match.figure.caveats)}"
    telling = (entry.match for entry in ordered if entry.match.finding.answer is not Answer.AGREES)
    yield from _glossary(match.figure for match in telling)
    counts = [(answer, sum(entry.match.finding.answer is answer for entry in found)) for answer in order]
    yield ", ".join(f"{count} {answer}" for answer, count in counts if count)


def _table(name: str, figures: Sequence[PublishedFigure]) -> Iterator[str]:
    metrics = list(dict.fromkeys(entry.metric for entry in figures))
    cells = {(entry.row, entry.metric): entry.printed + MARKS[entry.effect] for entry in figures}
    rows = [(name, *(f"{metric}{_percent(metric)} {_arrow(metric)}" for metric in metrics))]
    for row in dict.fromkeys(entry.row for entry in figures):
        rows.append((row, *(cells.get((row, metric), "") for metric in metrics)))
    yield from columns(rows)


def _glossary(figures: Iterable[PublishedFigure]) -> Iterator[str]:
    yield ""
    carried = dict.fromkeys(caveat for entry in figures for caveat in entry.caveats)
    yield from (f"{caveat.id} ({caveat.effect}): {caveat.text}" for caveat in carried)


def _percent(metric: str) -> str:
    return " %" if metric.startswith(("acc/", "score/")) and "/mme_" not in metric else ""


def _arrow(metric: str) -> str:
    return arrow(not any(word in metric for word in LOWER_IS_BETTER))


def _run_figure(gate: GateRecord, source: str) -> RunFigure:
    return RunFigure(
        gate.model,
        source,
        gate.spec,
        gate.metric,
        gate.value,
        gate.reference,
        gate.worse_stderr,
        gate.n,
    )


def _row(entry: Beside) -> tuple[str, ...]:
    gate = entry.gate
    return (
        entry.match.finding.answer.value,
        f"{gate.id} {arrow(kind_of(gate.metric).higher_is_better)}",
        entry.match.figure.printed,
        entry.match.reference.printed,
        figure(gate.metric, gate.value),
        figure(gate.metric, gate.reference),
        _agrees(gate.metric, entry.match.limits),
    )


def _agrees(metric: str, limits: Bound | None) -> str:
    if limits is None or not math.isfinite(limits.best):
        return "-"
    best, worst = (figure(metric, end) for end in limits.interval)
    return f"{best} to {worst}" if math.isfinite(limits.worst) else f"{best} or worse"
