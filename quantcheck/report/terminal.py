"""The table in the terminal: failures first and in full, then one line a spec."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from quantcheck.artifact_facts import WEIGHTS
from quantcheck.gate import Verdict
from quantcheck.measurement import kind_of
from quantcheck.record import GateRecord, RunRecord
from quantcheck.report import orderings
from quantcheck.report.figures import arrow, columns, figure, signed, with_error
from quantcheck.run_verdicts import found_by_the_run
from quantcheck.statistics.budget import BUDGET

COLLAPSED = "declared collapsed (no floor; drift, artifact and finiteness gate)"
LEGEND = "beside each figure: worse than full precision by, ± standard error (nat, points)"
PLAIN = (Verdict.PASS, Verdict.IMPROVED)
ACCEPT = "accept with the same command and --snapshot-update"


def lines(run: RunRecord) -> Iterator[tuple[str, str]]:
    """Lines and their style (``red``, ``green``, ``yellow`` or empty), in printing order."""
    red = [gate for gate in run.gates if not gate.verdict.green]
    judged = [gate for gate in red if gate.verdict is not Verdict.NO_BASELINE]
    if judged:
        yield from ((line, "red") for line in _failures(judged))
        yield "", ""
    figures = sorted((gate for gate in run.gates if not gate.against), key=lambda gate: gate.model)
    for model, gates in groupby(figures, key=lambda gate: gate.model):
        yield from _model_tables(model, list(gates))
    improved = [gate for gate in run.gates if gate.verdict is Verdict.IMPROVED and not gate.accepted]
    for gate in improved:
        yield f"IMPROVED {gate.id}: {gate.reasons[0]}", "yellow"
    yield from ((line, "red") for line in run_lines(run.gates))
    yield from ((line, "yellow") for line in known_lines(run.gates))
    yield from ((line, "yellow") for line in accepted_lines(run.gates))
    yield from ((line, "yellow") for line in note_lines(run.gates))
    yield from ((line, "yellow") for line in published_lines(run.gates))
    yield from ((line, "yellow") for line in orderings.lines(run.orderings))
    yield from ((line, "") for line in _named_orderings(run.gates))
    yield summary(run), "red" if red else "green"
    if models := _listed(red, Verdict.NO_BASELINE):
        yield f"No baseline yet for {models}: review the figures above, then {ACCEPT}.", "yellow"


def summary(run: RunRecord) -> str:
    """One sentence: how many gates, how they ended, and over how many false alarms were shared out."""
    counts = ", ".join(f"{number} {verdict}" for verdict, number in run.counts().items())
    return f"{len(run.gates)} gates: {counts or 'none'}{_budget(run)}"


def run_lines(gates: Sequence[GateRecord]) -> Iterator[str]:
    """One line for each gate that only the whole run found below its floor."""
    for gate in filter(found_by_the_run, gates):
        yield f"{gate.verdict} {gate.id}: {gate.reasons[0]}"


def known_lines(gates: Sequence[GateRecord]) -> Iterator[str]:
    """The gates that failed exactly as listed, each with its reason and issue."""
    known = [gate for gate in gates if gate.verdict is Verdict.KNOWN]
    if known:
        yield "known failures (green as long as they end as listed):"
        yield from columns(
            [(f"  {gate.known}", gate.id, gate.known_reason, gate.known_issue) for gate in known]
        )


def accepted_lines(gates: Sequence[GateRecord]) -> Iterator[str]:
    """One line for each baseline that this run stored, old and new figure."""
    for gate in gates:
        if gate.accepted:
            yield f"accepted {gate.id} ({gate.tier}): {gate.accepted}"


def note_lines(gates: Sequence[GateRecord]) -> Iterator[str]:
    """One line for each fallback that a method reports, once a spec."""
    for model, spec, note in dict.fromkeys(
        (gate.model, gate.spec, note) for gate in gates for note in gate.notes
    ):
        yield f"note {model}/{spec}: {note}"


def published_lines(gates: Sequence[GateRecord]) -> Iterator[str]:
    """One line for each gate that a published figure decided, for want of a baseline."""
    for gate in gates:
        if gate.published is not None:
            yield f"published {gate.id}: {gate.verdict}, {gate.published.answer}: {gate.published}"


def _named_orderings(gates: Sequence[GateRecord]) -> Iterator[str]:
    """One line that counts the gates of orderings; those that fail stand among the failures."""
    named = [gate for gate in gates if gate.against]
    if named:
        held = sum(gate.verdict.green for gate in named)
        yield f"{held} of {len(named)} orderings that the policy names hold"


def _failures(gates: Sequence[GateRecord]) -> Iterator[str]:
    rows = [("verdict", "gate", "measured", "reference", "worse ± se (n)", "floor", "drift", "margin")]
    for gate in gates:
        rows.append(
            (
                gate.verdict.value,
                gate.id + " " + arrow(gate.higher_is_better),
                figure(gate.metric, gate.value),
                figure(gate.metric, gate.reference),
                f"{with_error(gate.worse, gate.worse_stderr)} ({gate.n})",
                "none" if gate.floor is None else f"{gate.floor:.3g}",
                signed(gate.drift),
                "-" if gate.drift_margin is None else f"{gate.drift_margin:.3g}",
            )
        )
    yield from columns(rows)


def _model_tables(model: str, gates: Sequence[GateRecord]) -> Iterator[tuple[str, str]]:
    metrics = sorted({gate.metric for gate in gates if _has_column(gate.metric)}, key=_metric_order)
    without_floors = {gate.spec for gate in gates if gate.collapsed}
    for collapsed in (False, True):
        section = [gate for gate in gates if (gate.spec in without_floors) is collapsed]
        if not section:
            continue
        yield f"{model}: {COLLAPSED if collapsed else 'usable'}; {LEGEND}", ""
        shown = [metric for metric in metrics if any(gate.metric == metric for gate in section)]
        rows = [("spec", *(_header(section, metric) for metric in shown), "verdict")]
        rows.append(("full precision", *(_reference(section, metric) for metric in shown), ""))
        for spec, row in groupby(sorted(section, key=lambda gate: gate.spec), key=lambda gate: gate.spec):
            rows.append(_spec_row(spec, list(row), shown))
        yield from ((line, "") for line in columns(rows))
        yield "", ""


def _has_column(metric: str) -> bool:
    """Of what is told of layers one column is enough: where another moved, its verdict says so."""
    return metric == WEIGHTS or not kind_of(metric).by_layer


def _spec_row(spec: str, gates: Sequence[GateRecord], metrics: Sequence[str]) -> tuple[str, ...]:
    by_metric = {gate.metric: gate for gate in gates}
    cells = [_cell(by_metric[metric]) if metric in by_metric else "" for metric in metrics]
    told = sorted({gate.verdict.value for gate in gates if gate.verdict not in PLAIN})
    return (spec, *cells, ", ".join(told) or "pass")


def _cell(gate: GateRecord) -> str:
    """The figure and, behind it, how much worse it is than the reference, with the standard error."""
    shown = figure(gate.metric, gate.value)
    kind = kind_of(gate.metric)
    if kind.exact or gate.worse is None or gate.value is None:
        return shown
    scale, digits = (100, ".1f") if kind.unit == "fraction" else (1, ".2g")
    error = "" if gate.worse_stderr is None else f"±{scale * gate.worse_stderr:{digits}}"
    return f"{shown} {error}" if kind.relative else f"{shown} {scale * gate.worse:+{digits}}{error}"


def _header(gates: Sequence[GateRecord], metric: str) -> str:
    items = {gate.n for gate in gates if gate.metric == metric}
    count = f" n={items.pop()}" if len(items) == 1 and not kind_of(metric).exact else ""
    return f"{metric} {arrow(kind_of(metric).higher_is_better)}{count}"


def _reference(gates: Sequence[GateRecord], metric: str) -> str:
    values = {gate.reference for gate in gates if gate.metric == metric and gate.reference is not None}
    return figure(metric, values.pop()) if len(values) == 1 else "-"


def _budget(run: RunRecord) -> str:
    tested = run.header.get("tested")
    return f"; false alarms in {BUDGET:.0%} of runs, shared over {tested} tests of floors" if tested else ""


def _metric_order(metric: str) -> tuple[int, str]:
    return (["artifact", "bpw", "ppl", "kld", "top1", "acc"].index(kind_of(metric).name), metric)


def _listed(gates: Sequence[GateRecord], verdict: Verdict) -> str:
    models = sorted({gate.model for gate in gates if gate.verdict is verdict})
    return ", ".join(models)
