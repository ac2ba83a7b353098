"""The tables of methods: every chosen gate has its cell, rows go by width and then by loss."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from quantcheck.errors import QuantcheckError
from quantcheck.record import GateRecord
from quantcheck.report.methods import filled, main, table
from unit.builders import gate_record, run_record

DOCUMENT = "before\n<!-- table builtin-llama * ppl/*,acc/* -->\nold\nrows\n<!-- end -->\nafter\n"


def spec(name: str, worse: float | None, **changes: object) -> GateRecord:
    return gate_record(spec=name, worse=worse, worse_stderr=0.01, quantize_seconds=1.25, **changes)


def test_rows_go_by_width_and_then_by_the_first_metrics_loss() -> None:
    gates = [spec("rtn-w4", 0.1), spec("gptq-w3", 0.5), spec("pbllm-w1.7", 2.0), spec("gptq-w4", 0.05)]
    title, rule, full, *rows = table([*gates, spec("lost-w3", None)])
    assert title == "| bits | spec | ppl/web (n = 16) | nominal bits | stored bits | seconds |"
    assert rule == "| ---: | --- | ---: | ---: | ---: | ---: |"
    assert full == "| 16 | full precision | 3.5 |  |  |  |"
    assert [row.split("`")[1] for row in rows] == ["pbllm-w1.7", "gptq-w3", "lost-w3", "gptq-w4", "rtn-w4"]
    assert rows[0] == "| 1.7 | `pbllm-w1.7` | 4.48 (+2±0.01) | 3 | 3.25 | 1.2 |"


def test_each_kind_of_metric_is_shown_as_it_is_read() -> None:
    accuracy = {"metric": "acc/pooled", "value": 0.5, "reference": 0.75, "n": 800}
    divergence = {"metric": "kld/web", "value": 0.31, "reference": None}
    gates = [spec("rtn-w4", 0.25, **accuracy), spec("rtn-w4", 0.31, **divergence), spec("rtn-w4", 0.1)]
    gates.append(gate_record(spec="gptq-w4", metric="acc/pooled", value=0.7, worse=None, worse_stderr=None))
    title, _, full, *rows = table(gates)
    titles = ["bits", "spec", "ppl/web (n = 16)", "acc/pooled (n = 16 / 800)", "kld/web (n = 16)"]
    assert title.startswith(f"| {' | '.join(titles)} |")
    assert full.startswith("| 16 | full precision | 3.5 |")
    assert rows[0] == "| 4 | `rtn-w4` | 4.48 (+0.1±0.01) | 50.0% (+25.0±1.0) | 0.31 ±0.01 | 3 | 3.25 | 1.2 |"
    assert rows[1] == "| 4 | `gptq-w4` |  | 70.0% |  | 3 | 3.25 |  |"


def test_a_record_without_an_artifact_and_a_width_still_has_a_row() -> None:
    assert "| 0 | `odd` | 4.48 (+0.1±0.01) |  |  | 1.2 |" in list(
        table([spec("odd", 0.1, bpw=None, nominal_bits=None)])
    )


def test_a_document_keeps_its_words_and_gets_the_chosen_rows() -> None:
    others = [spec("rtn-w3", 0.2, model="other"), spec("rtn-w2", 0.2, metric="kld/web")]
    text = filled(DOCUMENT, [spec("rtn-w4", 0.1), *others])
    assert text.startswith("before\n<!-- table builtin-llama * ppl/*,acc/* -->\n| bits |")
    assert text.endswith("| 1.2 |\n<!-- end -->\nafter\n")
    assert "rtn-w4" in text and "rtn-w3" not in text and "rtn-w2" not in text and "old" not in text
    assert filled(text, [spec("rtn-w4", 0.1)]) == text


def test_nothing_to_fill_or_to_fill_with_is_an_error() -> None:
    with pytest.raises(QuantcheckError, match="no table to fill"):
        filled("words", [spec("rtn-w4", 0.1)])
    with pytest.raises(QuantcheckError, match="no gate of the records belongs into <!-- table builtin-llama"):
        filled(DOCUMENT, [spec("rtn-w4", 0.1, model="other")])


def test_the_program_reads_records_and_writes_the_document(tmp_path: Path) -> None:
    record, document = tmp_path / "record.json", tmp_path / "methods.md"
    ordering = replace(spec("rtn-w4", -0.5), against="rtn-w3", reference=9.0)
    record.write_text(run_record(spec("rtn-w4", 0.1), ordering).dumps())
    document.write_text(DOCUMENT)
    main([str(record), "--into", str(document)])
    gate = GateRecord.from_json(json.loads(record.read_text())["gates"][0])
    assert document.read_text() == filled(DOCUMENT, [gate])
