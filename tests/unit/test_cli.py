"""The command line: what it prints, how it ends, and that it needs neither torch nor pytest."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from quantcheck import __version__
from quantcheck.cli import main
from quantcheck.gate import Verdict
from quantcheck.published import load
from quantcheck.record import GateRecord, RunRecord
from quantcheck.report.published import beside
from unit.builders import gate_record, run_record
from unit.test_published import one

GPTQ = gate_record(
    model="llama3-8b",
    metric="ppl/wikitext2",
    spec="gptq-w4-g128",
    value=6.55,
    reference=6.137,
    worse_stderr=0.002,
)
PIQA = gate_record(
    model="llama3-8b", metric="acc/piqa", spec="awq-w2", value=0.55, reference=0.80, n=1838, worse_stderr=0.01
)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "run.json"


def write(path: Path, *gates: GateRecord, source: str = "") -> Path:
    run: RunRecord = run_record(*gates)
    models = {gate.model: {"source": source, "revision": None} for gate in gates}
    path.write_text(replace(run, header={**run.header, "models": models}).dumps(), encoding="utf-8")
    return path


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"quantcheck {__version__}\n")


@pytest.mark.parametrize("arguments", [[], ["weigh"], ["diff"], ["published", "--size", "8"]])
def test_a_command_that_is_none_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: quantcheck" in capsys.readouterr().err


def test_published_figures_are_printed_as_in_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["published", "--model", "llama3-8b", "--method", "AWQ*-W2*"]) == 0
    text = printed(capsys)
    assert text[0].startswith("LLaMA3-8B: Huang et al.")
    assert text[3].split() == "Table 1 ppl/wikitext2 ↓ ppl/c4 ↓ ppl/ptb ↓".split()
    assert [line.split() for line in text[4:7]] == [
        ["FP16", "6.1", "9.2", "x", "10.6", "x"],
        ["awq-w2-g128", "1.7e6", "~", "2.1e6", "x", "1.8e6", "x"],
        ["awq-w2", "8.2e5", "~", "8.1e5", "x", "9.0e5", "x"],
    ]
    assert "acc/piqa % ↑" in text[8]
    assert any(line.startswith("corpus (excluded): ") for line in text)
    assert not any(line.startswith("rtn_too_bad") for line in text)


def test_a_method_is_chosen_by_its_name_or_its_specs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["published", "--method", "slim-llm"]) == 0
    by_name = printed(capsys)
    assert main(["published", "--method", "slimllm*"]) == 0
    assert printed(capsys) == by_name
    assert [line.split(":")[0] for line in by_name if ": Huang" in line] == [
        "LLaMA3-70B",
        "LLaMA3-8B",
        "LLaVA-Next-8B",
    ]


def test_costs_get_better_downwards_and_speed_upwards(capsys: pytest.CaptureFixture[str]) -> None:
    main(["published", "--model", "llama3-8b", "--method", "omniquant"])
    (head,) = (line for line in printed(capsys) if line.startswith("Table 6"))
    assert [title.split()[1] for title in head.split("  ") if "cost" in title] == ["↓", "↓", "↑"]


def test_a_run_that_agrees_stands_beside_the_figures(
    record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(record, GPTQ, PIQA, gate_record())
    assert main(["published", "--record", str(record)]) == 0
    head, *rows, _, last = printed(capsys)
    assert head.split()[:3] == ["answer", "gate", "published"]
    assert [row.split() for row in rows] == [
        "agrees llama3-8b/awq-w2/acc/piqa ↑ 55.2 79.9 55.0% 80.0% 65.0% or worse".split(),
        "agrees llama3-8b/gptq-w4-g128/ppl/wikitext2 ↓ 6.5 6.1 6.55 6.137 6.357 to 6.727".split(),
    ]
    assert last == "2 agrees"


def test_a_run_that_is_worse_ends_with_1_and_says_why(
    record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(record, replace(GPTQ, value=7.5), PIQA)
    assert main(["published", "--record", str(record)]) == 1
    _, row, reason, rule, caveats, _, blank, *glossary, last = printed(capsys)
    assert (caveats.strip(), blank) == ("caveats: rounding, window, in_domain, single_run", "")
    assert row.startswith("worse ")
    assert reason.strip().startswith("a loss of 0.2006+-0.002 where ")
    assert rule.strip().startswith("6.5 at 6.1 full precision is a loss of ")
    assert last == "1 worse, 1 agrees"
    assert [line.partition(" (")[0] for line in glossary] == ["rounding", "window", "in_domain", "single_run"]


def test_a_model_is_found_by_its_hub_id(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(record, replace(GPTQ, model="mine"), source="meta-llama/Meta-Llama-3-8B")
    assert main(["published", "--record", str(record)]) == 0
    assert "mine/gptq-w4-g128/ppl/wikitext2" in printed(capsys)[1]


@pytest.mark.parametrize(
    ("gate", "code", "answer", "reason"),
    [
        (replace(GPTQ, value=None), 1, "worse", "the run's figure is nan"),
        (replace(GPTQ, reference=None), 0, "cannot tell", "at full precision is nan"),
        (replace(GPTQ, metric="ppl/c4"), 0, "cannot tell", "not compared"),
        (replace(GPTQ, worse_stderr=0.2), 0, "cannot tell", "+-0.2 where"),
        (replace(GPTQ, worse_stderr=None), 0, "agrees", ""),
        (replace(PIQA, n=100, worse_stderr=0.2, value=0.65), 0, "agrees", ""),
    ],
)
def test_a_run_without_what_it_takes_is_told_so(
    gate: GateRecord, code: int, answer: str, reason: str, record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["published", "--record", str(write(record, gate))]) == code
    text = printed(capsys)
    assert text[1].startswith(f"{answer} ")
    assert any(reason in line for line in text[1:])


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--model", "llama"], "no published figures of 'llama'; known: llama3-70b"),
        (["--method", "gtpq"], "no published figure matches 'gtpq'; methods are FP16, RTN"),
        (["--record", "nowhere.json"], "nowhere.json cannot be read"),
    ],
)
def test_what_cannot_be_carried_out_ends_with_2_and_its_cause(
    arguments: list[str], cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["published", *arguments]) == 2
    assert cause in capsys.readouterr().err


def test_a_figure_without_one_of_full_precision_stands_beside_nothing() -> None:
    file = replace(load("llama3-8b"), figures=(one("llama3-8b", "gptq-w4-g128", "ppl/wikitext2"),))
    assert list(beside([file], run_record(GPTQ))) == []


@pytest.mark.parametrize("method", ["*", "awq*"])
def test_a_record_without_a_published_gate_is_no_success(
    method: str, record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(record, gate_record() if method == "*" else GPTQ)
    assert main(["published", "--record", str(record), "--method", method]) == 2
    assert "has a published figure: figures are found by model" in capsys.readouterr().err


def test_two_records_without_anything_worse_end_with_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = write(tmp_path / "old.json", GPTQ), write(tmp_path / "new.json", GPTQ, PIQA)
    assert main(["diff", str(old), str(new)]) == 0
    assert printed(capsys)[-1] == "1 unchanged, 1 appeared: nothing worse"


def test_two_records_with_something_worse_end_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    red = replace(GPTQ, value=9.5, verdict=Verdict.REGRESSED)
    old, new = write(tmp_path / "old.json", GPTQ), write(tmp_path / "new.json", red)
    assert main(["diff", str(old), str(new)]) == 1
    assert printed(capsys)[-1] == "1 with another verdict: 1 worse"


def test_a_record_that_cannot_be_read_ends_with_2(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(record, GPTQ)
    assert main(["diff", str(record), "nowhere.json"]) == 2
    assert "quantcheck: error: record nowhere.json cannot be read" in capsys.readouterr().err


def test_no_command_imports_torch_or_pytest(tmp_path: Path) -> None:
    old, new = write(tmp_path / "old.json", GPTQ), write(tmp_path / "new.json", GPTQ)
    code = (
        "import sys\n"
        "heavy = ('torch', 'transformers', 'lm_eval', 'pytest', 'syrupy', 'hypothesis')\n"
        "sys.modules.update(dict.fromkeys(heavy))\n"
        "from quantcheck.cli import main\n"
        f"codes = main(['diff', {str(old)!r}, {str(new)!r}]), main(['published', '--record', {str(new)!r}])\n"
        "sys.exit(codes != (0, 0))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "1 unchanged: nothing worse" in ended.stdout
