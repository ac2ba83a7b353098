"""Read a JSON report back: what the command line explains and compares. Schema: ``docs/record.md``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantcheck.errors import QuantcheckError
from quantcheck.measurement import kind_of
from quantcheck.record import SCHEMA, GateRecord, RunRecord
from quantcheck.report import orderings as orderings_report


def read_run(path: Path) -> RunRecord:
    """The record that ``--quantcheck-report json:PATH`` wrote.

    Raises:
        QuantcheckError: the file cannot be read, is no such report, is of a later schema, or lists a gate
            twice.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise QuantcheckError(f"record {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise QuantcheckError(f"record {path} is not JSON: {error}") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("schema"), int) or "gates" not in raw:
        raise QuantcheckError(f"record {path} is no report of quantcheck: write one with {WRITE}")
    if raw["schema"] > SCHEMA:
        raise QuantcheckError(
            f"record {path} has schema {raw['schema']}, this version of quantcheck reads up to {SCHEMA}: "
            f"update quantcheck"
        )
    try:
        gates = tuple(_gate(entry) for entry in raw["gates"])
        orderings = tuple(orderings_report.read(entry) for entry in raw.get("orderings", ()))
        run = RunRecord(
            raw["created"],
            raw["quantcheck"],
            raw["header"],
            raw["libraries"],
            raw["machine"],
            gates,
            orderings,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise QuantcheckError(
            f"record {path} is damaged ({type(error).__name__}: {error}): write it anew with {WRITE}"
        ) from error
    keys = [key(gate) for gate in gates]
    if twins := sorted({" ".join(entry) for entry in keys if keys.count(entry) > 1}):
        raise QuantcheckError(f"record {path} lists a gate twice: {twins[0]}")
    return run


def key(gate: GateRecord) -> tuple[str, str, str]:
    """What makes it the same gate in another run: cell, tier and kind of device."""
    return gate.id, gate.tier, gate.device


WRITE = "--quantcheck-report json:PATH"


def _gate(entry: Mapping[str, Any]) -> GateRecord:
    gate = GateRecord.from_json(entry)
    kind_of(gate.metric)
    return gate
