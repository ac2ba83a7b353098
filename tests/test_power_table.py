"""The tables of planted faults: what counts as large, as caught, as a false alarm."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from mutants.model.fault import Fault, Kind
from mutants.model.trial import Trial

from quantcheck.measurement import measurement


@pytest.fixture(scope="module")
def table(repository: Path) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(repository)
        yield importlib.import_module("benchmarks.power_table")


def trial(right: int = 900, nll: float = 1.0, **changes: Any) -> Trial:
    """A green run of 1,000 questions and 16 windows; the reference has 950 right."""
    figures = {
        "ppl/text": measurement("ppl/text", [nll] * 16, "items", "protocol", 1),
        "acc/pooled": measurement("acc/pooled", [1.0] * right + [0.0] * (1000 - right), "items", "p", 1),
    }
    full = {**figures, "acc/pooled": measurement("acc/pooled", [1.0] * 950 + [0.0] * 50, "items", "p", 1)}
    values: dict[str, Any] = {
        "verdicts": dict.fromkeys((*figures, "bpw"), "PASS"),
        "reasons": {},
        "candidate": figures,
        "reference": full,
        "items": {"ppl/text": 16, "acc/pooled": 1000, "bpw": 1},
        "seconds": 3.2,
    }
    return Trial("rtn-w4", "smoke", **{**values, **changes})


def red(verdicts: dict[str, str], **changes: Any) -> Trial:
    reasons = {metric: ["why"] for metric, verdict in verdicts.items() if verdict != "PASS"}
    return trial(verdicts=verdicts, reasons=reasons, **changes)


def row(table: ModuleType, *trials: Trial, sound: Trial | None = None, early: Trial | None = None) -> Any:
    fault = Fault("name", Kind.STORED, "rtn-w4", "what is broken", lambda _: nullcontext())
    accepted = sound or trial()
    return table.Row(fault, accepted, accepted, {each.tier: each for each in trials}, trials[0], early)


@pytest.mark.parametrize(
    ("right", "perplexity", "large"),
    [
        (900, 1.0, False),
        (891, 1.0, False),
        (890, 1.0, True),
        (910, 1.0, True),
        (900, 1.0049, False),
        (900, 1.0051, True),
        (900, 0.9949, True),
        (900, math.nan, True),
    ],
)
def test_a_fault_is_large_from_a_point_or_half_a_percent_on(
    table: ModuleType, right: int, perplexity: float, large: bool
) -> None:
    now = trial(right, 1.0 + math.log(perplexity))

    assert table.Change.between(trial(), now).large is large


def test_a_rule_that_fails_the_sound_model_catches_nothing(table: ModuleType) -> None:
    recovery = next(rule for rule in table.RULES if rule.name == "recovery")

    assert row(table, trial(880)).caught_by(recovery)
    assert not row(table, trial(880), sound=trial(890)).caught_by(recovery)
    assert table.fails_sound(recovery, trial(890))


def test_the_verdict_is_the_first_that_applies_and_needs_the_fewest_items(table: ModuleType) -> None:
    late = red({"acc/pooled": "REGRESSED", "ppl/text": "BELOW_FLOOR", "bpw": "PASS"})
    early = red({"acc/pooled": "REGRESSED", "bpw": "REGRESSED", "ppl/text": "PASS"})

    assert table.verdict(late) == "`BELOW_FLOOR` ppl/text and 1 more"
    assert row(table, late).items == 16
    assert table.verdict(early) == "`REGRESSED` bpw and 1 more"
    assert row(table, early).items == 0
    assert row(table, red({"ppl/text": "NOT_QUANTIZED"})).items == 0
    assert table.verdict(trial()) == "**missed**"
    assert row(table, trial()).items is None
    assert row(table, late, early=red({"ppl/text": "BELOW_FLOOR"}, items={"ppl/text": 4})).items == 4
    assert table.verdict(trial(verdicts={}, refused="because")) == "refused"
    assert row(table, trial(verdicts={}, refused="because")).items == 0


def test_sums_count_what_rows_say(table: ModuleType) -> None:
    rows = [
        row(table, red({"acc/pooled": "REGRESSED"}, candidate=trial(800).candidate)),
        row(table, trial(899)),
    ]
    runs = [(trial(), trial(898, 1.125)), (trial(), red({"ppl/text": "REGRESSED"}))]
    alarms = table.Alarms(runs, runs[:1], [])
    lines = list(table.sums_table(rows, alarms))
    found = {
        cells[1].strip(): [cell.strip() for cell in cells[2:]]
        for cells in (line.split("|") for line in lines if line.startswith("|"))
    }

    assert found["**quantcheck**"][:7] == ["1", "1", "0", "1", "0", "0", "0"]
    assert found["last good"][:7] == ["1", "1", "0", "1", "", "0", "0"]
    assert found["recovery"][:3] == ["1", "1", "0"]
    assert found["2 points"][6] == "1"
    assert lines[-1] == (
        "In the 2 reruns of all items a window's mean NLL moved by 0.1 nat at most, in 16 of 32 windows at "
        "all, and 2 of 2000 answers turned."
    )


def test_misses_name_who_is_ahead(table: ModuleType) -> None:
    rows = [row(table, trial(899)), row(table, trial(850))]
    quiet = table.Alarms([(trial(), trial())] * 2, [], [])
    noisy = table.Alarms([(trial(), trial(890))] * 2, [], [])

    assert "Missed by every gate at every tier: `name`, `name`." in list(table.misses(rows, quiet))
    assert "last good" in list(table.misses(rows, quiet))[-1]
    assert "last good" not in list(table.misses(rows, noisy))[-1]
    assert next(iter(table.misses([], quiet))).endswith("none.")
