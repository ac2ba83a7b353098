"""Published figures as plain text: as the study's tables, or beside the figures of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from quantcheck.errors import QuantcheckError
from quantcheck.measurement import kind_of
from quantcheck.published import Answer, Bound, Effect, Finding, Published, PublishedFigure, bound
from quantcheck.published.bound import TASKS
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
    figure: PublishedFigure
    reference: PublishedFigure
    limits: Bound | None
    finding: Finding


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
    for gate in run.gates:
        source = models.get(gate.model, {}).get("source") or ""
        for file in (file for file in published if file.is_of(gate.model, source)):
            for found in file.of(gate.spec, gate.metric):
                reference = file.reference(found)
                if reference is not None:
                    yield _compared(gate, found, reference)


def lines(found: Sequence[Beside]) -> Iterator[str]:
    """A line for each comparison, the worse first; reasons unless the two agree; the caveats' texts last."""
    order = (Answer.WORSE, Answer.CANNOT_TELL, Answer.BETTER, Answer.AGREES)
    ordered = sorted(found, key=lambda entry: (order.index(entry.finding.answer), entry.gate.id))
    titles = ("answer", "gate", "published", "at full precision", "run", "at full precision", "agrees")
    head, *table = columns([titles, *map(_row, ordered)])
    yield head
    for line, entry in zip(table, ordered, strict=True):
        yield line
        if entry.finding.answer is not Answer.AGREES:
            yield from (f"    {reason}" for reason in entry.finding.reasons)
            yield f"    caveats: {', '.join(caveat.id for caveat in entry.figure.caveats)}"
    yield from _glossary(entry.figure for entry in ordered if entry.finding.answer is not Answer.AGREES)
    counts = [(answer, sum(entry.finding.answer is answer for entry in found)) for answer in order]
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


def _compared(gate: GateRecord, found: PublishedFigure, reference: PublishedFigure) -> Beside:
    try:
        limits = bound(found, reference, math.nan if gate.reference is None else gate.reference)
    except QuantcheckError as error:
        finding = Finding(Answer.CANNOT_TELL, math.nan, (str(error),))
        return Beside(gate, found, reference, None, finding)
    finding = limits.judge(math.nan if gate.value is None else gate.value, _stderr(gate))
    return Beside(gate, found, reference, limits, finding)


def _stderr(gate: GateRecord) -> float:
    """A run over all items of a task saw what the study saw: its items are no sample of them."""
    whole = gate.metric in TASKS and gate.n >= TASKS[gate.metric].items
    return 0.0 if whole or gate.worse_stderr is None else gate.worse_stderr


def _row(entry: Beside) -> tuple[str, ...]:
    gate = entry.gate
    return (
        entry.finding.answer.value,
        f"{gate.id} {arrow(kind_of(gate.metric).higher_is_better)}",
        entry.figure.printed,
        entry.reference.printed,
        figure(gate.metric, gate.value),
        figure(gate.metric, gate.reference),
        _agrees(gate.metric, entry.limits),
    )


def _agrees(metric: str, limits: Bound | None) -> str:
    if limits is None or not math.isfinite(limits.best):
        return "-"
    best, worst = (figure(metric, end) for end in limits.interval)
    return f"{best} to {worst}" if math.isfinite(limits.worst) else f"{best} or worse"
