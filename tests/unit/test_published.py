"""Published figures: the files say what was printed, and their caveats are where they hold."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcheck.errors import BaselineError
from quantcheck.published import (
    FULL_PRECISION,
    Caveat,
    Effect,
    Published,
    PublishedFigure,
    half_unit,
    load,
    loads,
    names,
    packaged,
    study,
)
from quantcheck.published.caveats import RULES, caveats_of
from quantcheck.spec import QuantSpec

FILES = {name: load(name) for name in names()}
CAVEAT = Caveat("window", Effect.NOTE, "windows of 2048 tokens")


def published_figure(**changes: Any) -> PublishedFigure:
    right = PublishedFigure(
        table="Table 1",
        method="GPTQ",
        spec="gptq-w4-g128",
        bits=4,
        act_bits=None,
        group_size=128,
        metric="ppl/wikitext2",
        value=6.5,
        printed="6.5",
        rounding=0.05,
        source="read twice",
        caveats=(CAVEAT,),
    )
    return replace(right, **changes)


def one(name: str, row: str, metric: str) -> PublishedFigure:
    """The first figure of a row: a table that repeats another prints the same."""
    return next(entry for entry in FILES[name].figures if (entry.row, entry.metric) == (row, metric))


def carriers(caveat: str, name: str) -> set[tuple[str, str]]:
    """Rows and metrics of a model's figures that carry a caveat."""
    return {
        (entry.row, entry.metric)
        for entry in FILES[name].figures
        if caveat in {carried.id for carried in entry.caveats}
    }


def test_the_files_are_made_from_the_study_s_tables(shared: Path, tmp_path: Path) -> None:
    study.main([str(shared / "study" / "tables.json"), "--into", str(tmp_path)])
    made = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_text(encoding="utf-8") for path in packaged().glob("*.json")}


def test_every_figure_of_the_study_s_tables_is_there_once(shared: Path) -> None:
    records = json.loads((shared / "study" / "tables.json").read_text(encoding="utf-8"))
    for title, (name, _) in study.MODELS.items():
        printed = sorted(
            (record["table"], record["method"], record["printed"])
            for record in records
            if record["model"] == title and record["printed"] != "-" and record["table"].startswith("Table")
        )
        found = sorted((entry.table, entry.method, entry.printed) for entry in FILES[name].figures)
        assert found == printed


@pytest.mark.parametrize("name", FILES)
def test_a_file_reads_back_as_written(name: str) -> None:
    text = (packaged() / f"{name}.json").read_text(encoding="utf-8")
    assert FILES[name].dumps() == text
    assert loads(text, name) == FILES[name]


@pytest.mark.parametrize("name", FILES)
def test_specs_are_spelled_as_everywhere_and_other_methods_have_none(name: str) -> None:
    for entry in FILES[name].figures:
        if entry.spec is None:
            assert entry.method in {FULL_PRECISION, "OmniQuant", "I-LLM", "SpinQuant", "SmoothQuant"}
        else:
            spec = QuantSpec.parse(entry.spec)
            assert str(spec) == entry.row == entry.spec
            assert (spec.bits, spec.act_bits, spec.group_size) == (
                entry.bits,
                entry.act_bits,
                entry.group_size,
            )


@pytest.mark.parametrize("name", FILES)
def test_a_cell_of_a_table_stands_once(name: str) -> None:
    cells = [(entry.table, entry.row, entry.metric) for entry in FILES[name].figures]
    assert len(set(cells)) == len(cells)


@pytest.mark.parametrize("name", FILES)
def test_caveats_are_carried_where_they_hold_and_nowhere_else(name: str) -> None:
    bare = [replace(entry, caveats=()) for entry in FILES[name].figures]
    assert [caveats_of(name, entry, bare) for entry in bare] == [
        entry.caveats for entry in FILES[name].figures
    ]


def test_every_caveat_holds_somewhere_and_is_listed_where_it_does() -> None:
    carried = {
        name: {caveat for entry in file.figures for caveat in entry.caveats} for name, file in FILES.items()
    }
    assert {caveat for caveat, _ in RULES} == set().union(*carried.values())
    assert carried == {name: set(file.caveats.values()) for name, file in FILES.items()}


def test_every_caveat_is_told_in_the_docs(repository: Path) -> None:
    page = (repository / "docs" / "published.md").read_text(encoding="utf-8")
    assert [caveat.id for caveat, _ in RULES if f"`{caveat.id}`" not in page] == []


@pytest.mark.parametrize(
    ("caveat", "name", "expected"),
    [
        ("average_wrong", "llama3-8b", {("rtn-w3", "acc/average")}),
        ("fitted", "llama3-8b", {("gptq-w2-g128", "ppl/wikitext2")}),
        ("printed_otherwise", "llama3-70b", {("pbllm-w2-g128", "ppl/wikitext2")}),
        (
            "twin",
            "llava-next-8b",
            {
                *(
                    (spec, f"score/{task}")
                    for spec in ("awq-w4-g128", "slimllm-w4-g128")
                    for task in ("ai2d", "chartqa", "docvqa", "mmbench_en")
                ),
                *((spec, "score/mme_perception") for spec in ("awq-w3-g128", "gptq-w3-g128")),
            },
        ),
    ],
)
def test_caveats_that_the_figures_themselves_show(
    caveat: str, name: str, expected: set[tuple[str, str]]
) -> None:
    assert carriers(caveat, name) == expected


def test_averages_are_recomputed_from_their_parts() -> None:
    wrong = one("llama3-8b", "rtn-w3", "acc/average")
    assert (wrong.printed, wrong.recomputed) == ("35.6", 37.58)
    assert wrong.span() == pytest.approx((37.48, 37.68))
    assert one("llama3-8b", "qlora-w4", "acc/mmlu").recomputed == 56.691
    off = [
        abs((entry.value or 0) - (entry.recomputed or 0))
        for file in FILES.values()
        for entry in file.figures
        if entry.recomputed is not None and entry != wrong
    ]
    assert len(off) > 60
    assert max(off) < 0.1


def test_what_is_printed_elsewhere_widens_the_span() -> None:
    twice = one("llama3-8b", "pbllm-w2-g128", "ppl/wikitext2")
    assert twice.effect is Effect.WIDENS
    assert twice.span() == pytest.approx((24.65, 44.125))
    assert one("llama3-8b", "gptq-w4-g128", "ppl/wikitext2").span() == pytest.approx((6.45, 6.55))


def test_a_word_has_no_span() -> None:
    with pytest.raises(ValueError, match="'N' is no number"):
        one("llava-next-8b", "awq-w2-g128", "score/ai2d").span()


def test_the_strongest_caveat_decides_what_is_compared() -> None:
    caveats = tuple(Caveat(effect, effect, "why") for effect in Effect)
    for count, effect in enumerate(Effect, 1):
        assert published_figure(caveats=caveats[:count]).effect is effect
        assert published_figure(caveats=caveats[count - 1 :: -1]).effect is effect
    assert published_figure(caveats=()).effect is Effect.NOTE


@pytest.mark.parametrize(
    ("changes", "row"),
    [
        ({}, "gptq-w4-g128"),
        ({"spec": None, "method": "FP16", "bits": 16}, "FP16"),
        ({"spec": None, "method": "I-LLM", "act_bits": 6, "group_size": None}, "I-LLM W4A6"),
        ({"spec": None, "method": "OmniQuant"}, "OmniQuant W4 g128"),
    ],
)
def test_a_row_is_called_by_its_spec_or_by_method_and_widths(changes: dict[str, Any], row: str) -> None:
    assert published_figure(**changes).row == row


@given(st.integers(1, 999), st.integers(0, 4), st.integers(0, 6))
def test_half_a_unit_is_what_moves_the_last_printed_digit(digits: int, decimals: int, power: int) -> None:
    number = Decimal(digits).scaleb(-decimals)
    printed = f"{number}e{power}" if power else f"{number}"
    unit = 2 * Decimal(str(half_unit(printed)))
    assert unit == Decimal(1).scaleb(power - decimals)


@pytest.mark.parametrize("word", ["N", "-", "", "nan", "inf"])
def test_a_word_has_no_last_digit(word: str) -> None:
    with pytest.raises(ValueError, match="is no number"):
        half_unit(word)


def test_a_model_is_known_by_the_file_s_name_or_its_hub_id() -> None:
    file = FILES["llama3-8b"]
    assert file.is_of("LLaMA3-8B", "/some/folder")
    assert file.is_of("mine", "meta-llama/Meta-Llama-3-8B@main")
    assert not file.is_of("llama3-70b", "meta-llama/Meta-Llama-3-70B")


def test_figures_are_found_by_spec_and_metric_and_know_their_full_precision() -> None:
    file = FILES["llama3-8b"]
    (found,) = file.of("awq-w3-g128", "acc/piqa")
    reference = file.reference(found)
    assert (found.printed, reference and reference.printed) == ("77.7", "79.9")
    (cost,) = file.of("awq-w4-g128", "cost/quant_time_min")
    assert file.reference(cost) is None
    assert file.of("awq-w5", "acc/piqa") == ()


def written(**changes: Any) -> str:
    file = Published("tiny", "Tiny", (), "a study", {}, {"window": CAVEAT}, (published_figure(**changes),))
    return file.dumps()


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ("{}", "KeyError: 'schema'"),
        (written().replace('"schema": 1', '"schema": 2'), "schema 2"),
        (written().replace('"figures"', '"numbers"'), "KeyError: 'figures'"),
        (written().replace('"caveats": ["window"]', '"caveats": ["moon"]'), "KeyError: 'moon'"),
        (written().replace('"note"', '"loud"'), "'loud' is not a valid Effect"),
        (written().replace('"printed": "6.5", ', ""), "printed"),
        (written(value=6.4), "6.4 is not what is printed"),
        (written(rounding=0.5), "6.5 is not what is printed"),
        (written(printed="N"), "could not convert"),
    ],
)
def test_a_damaged_file_is_refused_by_name(text: str, cause: str) -> None:
    with pytest.raises(BaselineError) as caught:
        loads(text, "tiny.json")
    assert "tiny.json" in str(caught.value)
    assert cause in str(caught.value)


def test_what_is_not_there_is_named_with_what_is(tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match="no published figures of 'llama'; known: llama3-70b, llama3-8b"):
        load("llama")
    with pytest.raises(BaselineError, match="known: none"):
        load("llama", tmp_path)
    (tmp_path / "tiny.json").write_text(written(), encoding="utf-8")
    assert load("tiny", tmp_path).figures == (published_figure(),)
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(BaselineError, match=r"folder\.json cannot be read"):
        load("folder", tmp_path)


def test_figures_lie_inside_an_installed_package_and_beside_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "quantcheck" / "published" / "figures.py"
    monkeypatch.setattr("quantcheck.published.figures.__file__", str(module))
    assert packaged() == tmp_path / "baselines" / "published"
    (tmp_path / "quantcheck" / "baselines").mkdir(parents=True)
    assert packaged() == tmp_path / "quantcheck" / "baselines" / "published"
