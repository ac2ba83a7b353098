"""The methods side by side, as Markdown tables, from the records of one or more runs.

``python -m quantcheck.report.methods RECORD.json... --into docs/methods.md`` fills every table of the
document, from ``<!-- table MODEL SPECS METRICS -->`` to ``<!-- end -->``, with the specs and the metrics that
the globs, separated by commas, choose.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from quantcheck.errors import QuantcheckError
from quantcheck.measurement import kind_of
from quantcheck.record import GateRecord
from quantcheck.report.figures import figure

HEAD = ("bits", "spec")
TAIL = ("nominal bits", "stored bits", "seconds")
TABLE = re.compile(
    r"(?P<head><!-- table (?P<model>\S+) (?P<specs>\S+) (?P<metrics>\S+) -->\n)(?:.*?)<!-- end -->", re.DOTALL
)


def table(gates: Sequence[GateRecord]) -> Iterator[str]:
    """The table of one model: rows by width, the better perplexity first."""
    metrics = sorted({gate.metric for gate in gates if not kind_of(gate.metric).exact}, key=_order)
    reference = {gate.metric: gate.reference for gate in gates if gate.reference is not None}
    titles = [f"{metric} (n = {_count(gates, metric)})" for metric in metrics]
    yield _row((*HEAD, *titles, *TAIL))
    yield _row("---" if title in HEAD[1:] else "---:" for title in (*HEAD, *titles, *TAIL))
    full = (figure(metric, reference[metric]) if metric in reference else "" for metric in metrics)
    yield _row(("16", "full precision", *full, "", "", ""))
    yield from (_row(row) for row in _rows(gates, metrics))


def filled(text: str, gates: Sequence[GateRecord]) -> str:
    """Fill the tables of a document.

    Raises:
        QuantcheckError: the document has no table, or no gate belongs into one.
    """
    if not TABLE.search(text):
        raise QuantcheckError("no table to fill: <!-- table MODEL SPECS METRICS --> to <!-- end -->")
    return TABLE.sub(lambda match: _filled(match, gates), text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill the tables of a Markdown file."""
    parser = argparse.ArgumentParser(prog="python -m quantcheck.report.methods", description=__doc__)
    parser.add_argument("records", nargs="+", type=Path, help="JSON reports of runs with --quantcheck-report")
    parser.add_argument("--into", required=True, type=Path, help="Markdown file with tables to fill")
    options = parser.parse_args(arguments)
    raw = [json.loads(path.read_text(encoding="utf-8")) for path in options.records]
    gates = [GateRecord.from_json(gate) for run in raw for gate in run["gates"]]
    options.into.write_text(filled(options.into.read_text(encoding="utf-8"), gates), encoding="utf-8")


def _filled(match: re.Match[str], gates: Sequence[GateRecord]) -> str:
    specs, metrics = match["specs"].split(","), match["metrics"].split(",")
    chosen = [
        gate
        for gate in gates
        if gate.model == match["model"] and _any(gate.spec, specs) and _any(gate.metric, metrics)
        if not gate.against
    ]
    if not chosen:
        raise QuantcheckError(f"no gate of the records belongs into {match['head'].strip()}")
    return f"{match['head']}{''.join(f'{row}{chr(10)}' for row in table(chosen))}<!-- end -->"


def _any(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _rows(gates: Sequence[GateRecord], metrics: Sequence[str]) -> Iterator[tuple[str, ...]]:
    by_spec = {spec: [gate for gate in gates if gate.spec == spec] for spec in {gate.spec for gate in gates}}
    found = {spec: {gate.metric: gate for gate in mine} for spec, mine in by_spec.items()}
    for spec in sorted(found, key=lambda spec: (_width(found[spec]), _worse(found[spec], metrics), spec)):
        mine, some = found[spec], by_spec[spec][0]
        cells = (_cell(mine[metric]) if metric in mine else "" for metric in metrics)
        seconds = "" if some.quantize_seconds is None else f"{some.quantize_seconds:.1f}"
        yield f"{_width(mine):g}", f"`{spec}`", *cells, _bits(some.nominal_bits), _bits(some.bpw), seconds


def _width(gates: dict[str, GateRecord]) -> float:
    spec = next(iter(gates.values())).spec
    match = re.search(r"-w([0-9.]+)", spec)
    return float(match[1]) if match else 0.0


def _worse(gates: dict[str, GateRecord], metrics: Sequence[str]) -> float:
    first = gates.get(metrics[0]) if metrics else None
    return float("inf") if first is None or first.worse is None else first.worse


def _cell(gate: GateRecord) -> str:
    shown, kind = figure(gate.metric, gate.value), kind_of(gate.metric)
    if gate.worse_stderr is None or gate.worse is None:
        return shown
    scale, digits = (100, ".1f") if kind.unit == "fraction" else (1, ".2g")
    error = f"±{scale * gate.worse_stderr:{digits}}"
    return f"{shown} {error}" if kind.relative else f"{shown} ({scale * gate.worse:+{digits}}{error})"


def _bits(bits: float | None) -> str:
    return "" if bits is None else f"{bits:.3g}"


def _count(gates: Sequence[GateRecord], metric: str) -> str:
    return " / ".join(str(n) for n in sorted({gate.n for gate in gates if gate.metric == metric}))


def _order(metric: str) -> tuple[int, str]:
    return (("ppl", "acc", "kld", "top1").index(kind_of(metric).name), metric)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
