"""Baseline files: read back as written, one figure a line, damage refused, staleness found."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcheck.baseline import (
    BaselineFile,
    Figure,
    baseline_path,
    loads,
    read_baseline,
    write_baseline,
)
from quantcheck.errors import BaselineError
from quantcheck.measurement import KINDS
from quantcheck.outcomes import pack
from quantcheck.provenance import Basis
from unit.builders import BASIS, KEY, figure, measured

MADE = {"basis": asdict(BASIS), "date": "2026-01-31", "libraries": {"torch": "2.13.0"}}
FINITE = st.floats(allow_nan=False, allow_infinity=False)
FIGURES = st.builds(
    Figure,
    mean=FINITE,
    value=FINITE,
    stderr=st.none() | FINITE,
    n=st.integers(0, 10**6),
    worse=FINITE,
    worse_stderr=st.none() | FINITE,
    items=st.text(),
    protocol=st.text(),
    version=st.integers(1, 9),
    made=st.sampled_from(["aa", "bb"]),
)
NUMBERS = st.floats(0, 9)


@st.composite
def kept(draw: st.DrawFn) -> Figure:
    """A figure with its outcomes, artifact and noise."""
    found = measured("kld/web", draw(st.lists(NUMBERS, min_size=1, max_size=9)))
    return replace(
        draw(FIGURES),
        mean=found.mean,
        n=found.n,
        outcomes=pack(found),
        artifact=draw(st.text("0123456789abcdef")),
        codes=draw(st.text("0123456789abcdef ")),
        noise=draw(NUMBERS),
        spread=draw(st.none() | NUMBERS | st.tuples(*[NUMBERS] * found.n)),
        freedom=draw(st.integers(1, 99)),
    )


KEYS = st.builds(
    "{} {}/{}".format, st.sampled_from(["smoke", "full"]), st.sampled_from(sorted(KINDS)), st.text()
)
FILES = st.builds(
    BaselineFile,
    model=st.text(),
    device=st.text(),
    spec=st.text(),
    made=st.just({"aa": MADE, "bb": {"basis": {"seed": 1}}}),
    figures=st.dictionaries(KEYS, FIGURES | kept(), max_size=4),
)
DAMAGED = "restore it from version control, or delete it and accept the figures anew with --snapshot-update"


def stored(**figures: Figure) -> BaselineFile:
    """A file whose keys are written ``smoke__ppl__web``."""
    spelled = {key.replace("__", " ", 1).replace("__", "/"): one for key, one in figures.items()}
    return BaselineFile("llama", "cpu", "rtn-w3", {KEY: MADE}, spelled)


ALL = measured("ppl/web", [1.0] * figure().n)
TWO = stored(smoke__ppl__web=figure(), smoke__acc__pooled=figure(mean=0.75, value=0.75, n=100))


@given(FILES)
def test_what_is_written_is_read_back(file: BaselineFile) -> None:
    assert loads(file.dumps(), "here") == file
    assert loads(file.dumps(), "here").dumps() == file.dumps()


def test_a_changed_figure_changes_one_line() -> None:
    changed = TWO.with_figure("smoke", "ppl/web", figure(mean=1.75), MADE)
    before, after = TWO.dumps().splitlines(), changed.dumps().splitlines()
    assert [line for line in after if line not in before] == [after[-3]]
    assert len(before) == len(after)
    assert after[-3].startswith('"smoke ppl/web": {')


def test_lines_and_their_fields_are_sorted_so_that_order_of_acceptance_leaves_no_trace() -> None:
    turned = replace(TWO, figures=dict(reversed(TWO.figures.items())))
    assert turned.dumps() == TWO.dumps()
    for line in TWO.dumps().splitlines():
        if line.startswith('"smoke'):
            (fields_of_line,) = json.loads("{" + line.rstrip(",") + "}").values()
            assert list(fields_of_line) == sorted(fields_of_line)


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ('"mean": 1.5', '"mean": NaN', "NaN is no figure"),
        ('"mean": 1.5', '"mean": Infinity', "Infinity is no figure"),
        ('"mean": 1.5', '"mean": -Infinity', "-Infinity is no figure"),
        ('"mean": 1.5', '"mean": 1e999', "non-finite or missing number"),
        ('"stderr": 0.05', '"stderr": 1e999', "non-finite or missing number"),
        ('"mean": 1.5', '"mean": 1' + "0" * 400, "OverflowError"),
        ('"mean": 1.5', '"mean": null', "non-finite or missing number"),
        ('"mean": 1.5', '"mean": "1.5"', "non-finite or missing number"),
        ('"mean": 1.5, ', "", "missing 1 required positional argument: 'mean'"),
        ('"mean": 1.5', '"mean": 1.5, "median": 1.4', "unexpected keyword argument 'median'"),
        ('"mean": 1.5', '"mean": 1.5, "mean": 1.4', "'mean' stands twice"),
        ('"schema": 1', '"schema": 2', "has schema 2, this version of quantcheck reads 1"),
        ('"schema": 1, ', "", "has schema None, this version of quantcheck reads 1"),
        ('"spec": "rtn-w3"', '"specs": "rtn-w3"', "KeyError: 'spec'"),
        ('"figures"', '"metrics"', "KeyError: 'figures'"),
        ('"made": {', '"make": {', "KeyError: 'made'"),
        ("smoke ppl/web", "smoke perplexity/web", "unknown kind, 'smoke perplexity/web'"),
        ("smoke ppl/web", "ppl/web", "unknown kind, 'ppl/web'"),
        (f'"made": "{KEY}"', '"made": "0"', "KeyError: '0'"),
        ('"basis"', '"bases"', "no provenance for 'smoke ppl/web'"),
        (
            f'{{"basis": {json.dumps(asdict(BASIS), sort_keys=True)}',
            '{"basis": ["seed"]',
            "no provenance for",
        ),
    ],
)
def test_a_hand_edited_file_is_refused_with_cause_and_way_out(old: str, new: str, cause: str) -> None:
    text = stored(smoke__ppl__web=figure()).dumps()
    assert old in text
    with pytest.raises(BaselineError, match=re.escape(cause)) as refused:
        loads(text.replace(old, new, 1), "llama/cpu/rtn-w3.json")
    assert "baseline llama/cpu/rtn-w3.json" in str(refused.value)
    assert str(refused.value).endswith(DAMAGED)


ANSWERS = measured("acc/x", [1.0, 0.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ('"freedom": 4, ', "", "a spread without degrees of freedom"),
        ('"noise": 0.125', '"noise": 1e999', "non-finite or missing number"),
        ('"spread": 0.01', '"spread": "wide"', "non-finite or missing number"),
        ('"spread": 0.01', '"spread": [0.01, "wide", 1, 1]', "non-finite or missing number"),
        ('"spread": 0.01', '"spread": [0.01, 0.02]', "2 spreads of 4 layers"),
        ('"n": 4', '"n": 9', "1 bytes of outcomes where 9 bits were accepted"),
        ('"mean": 0.75', '"mean": 0.5', "outcomes of mean 0.75 under a figure of 0.5"),
        ('"outcomes": "bits:', '"outcomes": "bytes:', "outcomes begin with 'bytes:"),
    ],
)
def test_outcomes_and_noise_edited_by_hand_are_refused(old: str, new: str, cause: str) -> None:
    entry = figure(mean=ANSWERS.mean, n=4, outcomes=pack(ANSWERS), noise=0.125, spread=0.01, freedom=4)
    text = stored(smoke__acc__x=entry).dumps()
    assert old in text
    with pytest.raises(BaselineError, match=re.escape(cause)) as refused:
        loads(text.replace(old, new, 1), "here")
    assert str(refused.value).endswith(DAMAGED)


@pytest.mark.parametrize("text", ["", "[]", "3", "null", '"schema"', "\ufeff{}", "{}", "<<<<<<< HEAD\n{}"])
def test_a_foreign_file_is_refused(text: str) -> None:
    with pytest.raises(BaselineError, match=DAMAGED):
        loads(text, "here")


@pytest.mark.parametrize(
    "change", [{"figures": None}, {"figures": []}, {"figures": {"smoke ppl/web": 3}}, {"made": 3}]
)
def test_parts_of_the_wrong_type_are_refused(change: dict[str, Any]) -> None:
    raw = {**json.loads(TWO.dumps()), **change}
    with pytest.raises(BaselineError, match=DAMAGED):
        loads(json.dumps(raw), "here")


def test_a_file_cut_anywhere_is_refused() -> None:
    text = TWO.dumps().rstrip()
    for end in range(len(text)):
        with pytest.raises(BaselineError, match=DAMAGED):
            loads(text[:end], "here")


def test_a_figure_is_found_by_tier_and_metric() -> None:
    file = TWO.with_figure("full", "ppl/web", figure(mean=9.0), MADE)
    assert file.get("full", "ppl/web") == figure(mean=9.0)
    assert file.get("smoke", "ppl/web") == figure()
    assert file.get("standard", "ppl/web") is None
    assert file.metrics("smoke") == ("ppl/web", "acc/pooled")
    assert file.metrics("full") == ("ppl/web",)
    assert file.metrics("smok") == ()


def test_provenance_that_nothing_refers_to_any_more_is_dropped() -> None:
    newer = {**MADE, "date": "2026-02-01"}
    half = TWO.with_figure("smoke", "ppl/web", figure(made="new"), newer)
    assert dict(half.made) == {KEY: MADE, "new": newer}
    whole = half.with_figure("smoke", "acc/pooled", figure(made="new"), newer)
    assert dict(whole.made) == {"new": newer}
    assert dict(TWO.made) == {KEY: MADE}


@pytest.mark.parametrize("field", [field.name for field in fields(Basis)])
def test_a_baseline_is_stale_when_one_field_of_its_basis_differs(field: str) -> None:
    now = replace(BASIS, **{field: 99 if isinstance(getattr(BASIS, field), int) else "other"})
    accepted = figure().accepted(ALL, MADE, now)
    assert len(accepted.stale) == 1
    assert accepted.stale[0].startswith(f"{field}: accepted with {getattr(BASIS, field)!r}, now ")


@pytest.mark.parametrize(
    ("field", "other"), [("items", "others"), ("protocol", "windows of 256"), ("version", 2)]
)
def test_a_baseline_is_stale_on_other_items_protocol_or_version(field: str, other: object) -> None:
    now = replace(ALL, **{field: other})
    accepted = figure().accepted(now, MADE, BASIS)
    assert accepted.stale == (f"{field}: accepted with {getattr(figure(), field)!r}, now {other!r}",)


def test_a_baseline_of_the_same_setting_is_not_stale() -> None:
    changed = {
        **MADE,
        "date": "1999-01-01",
        "libraries": {"torch": "1.0"},
        "machine": {"processor": "abacus"},
    }
    accepted = figure().accepted(ALL, changed, BASIS)
    assert (accepted.mean, accepted.stale) == (1.5, ())


def test_a_vanished_metric_is_still_compared_by_its_basis() -> None:
    assert figure().accepted(None, MADE, BASIS).stale == ()
    assert len(figure().accepted(None, MADE, replace(BASIS, seed=8)).stale) == 1


def test_a_file_lies_where_its_address_says(tmp_path: Path) -> None:
    path = write_baseline(tmp_path, TWO)
    assert (
        path
        == baseline_path(tmp_path, "llama", "cpu", "rtn-w3")
        == tmp_path / "llama" / "cpu" / "rtn-w3.json"
    )
    assert read_baseline([tmp_path], "llama", "cpu", "rtn-w3") == TWO
    assert read_baseline([tmp_path], "llama", "cuda", "rtn-w3") is None
    assert [entry.name for entry in path.parent.iterdir()] == ["rtn-w3.json"]


def test_earlier_roots_shadow_later_ones_figure_by_figure(tmp_path: Path) -> None:
    packaged = stored(smoke__ppl__web=figure(), smoke__acc__pooled=figure(made="old"))
    write_baseline(tmp_path / "packaged", replace(packaged, made={KEY: MADE, "old": MADE}))
    write_baseline(tmp_path / "mine", stored(smoke__ppl__web=figure(mean=9.0)))
    roots = [tmp_path / "mine", tmp_path / "absent", tmp_path / "packaged"]
    merged = read_baseline(roots, "llama", "cpu", "rtn-w3")
    assert merged is not None
    assert merged.get("smoke", "ppl/web") == figure(mean=9.0)
    assert merged.get("smoke", "acc/pooled") == figure(made="old")
    assert set(merged.made) == {KEY, "old"}


def test_a_root_without_the_file_hides_nothing(tmp_path: Path) -> None:
    write_baseline(tmp_path / "packaged", TWO)
    assert read_baseline([tmp_path / "mine", tmp_path / "packaged"], "llama", "cpu", "rtn-w3") == TWO
    assert read_baseline([tmp_path / "packaged", tmp_path / "mine"], "llama", "cpu", "rtn-w3") == TWO
    assert read_baseline([], "llama", "cpu", "rtn-w3") is None


@pytest.mark.parametrize(
    "address", [("other", "cpu", "rtn-w3"), ("llama", "cuda", "rtn-w3"), ("llama", "cpu", "rtn-w4")]
)
def test_a_file_that_was_copied_or_renamed_is_refused(tmp_path: Path, address: tuple[str, str, str]) -> None:
    path = baseline_path(tmp_path, *address)
    path.parent.mkdir(parents=True)
    path.write_text(TWO.dumps(), encoding="utf-8")
    with pytest.raises(BaselineError, match="says inside that it is of llama, cpu, rtn-w3: it was copied"):
        read_baseline([tmp_path], *address)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = baseline_path(tmp_path, "llama", "cpu", "rtn-w3")
    path.mkdir(parents=True)
    with pytest.raises(BaselineError, match=f"cannot be read .*{DAMAGED}"):
        read_baseline([tmp_path], "llama", "cpu", "rtn-w3")
    path.rmdir()
    path.write_bytes(b'{"schema": "\xff"}')
    with pytest.raises(BaselineError, match=f"cannot be read .*{DAMAGED}"):
        read_baseline([tmp_path], "llama", "cpu", "rtn-w3")


@pytest.mark.parametrize("field", ["mean", "value", "worse", "stderr", "worse_stderr"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_non_finite_figure_is_never_stored(tmp_path: Path, field: str, bad: float) -> None:
    with pytest.raises(
        BaselineError, match="llama rtn-w3 smoke ppl/web: a non-finite figure is never stored"
    ):
        write_baseline(tmp_path, stored(smoke__ppl__web=figure(**{field: bad})))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_is_named_with_the_way_out(tmp_path: Path) -> None:
    root = tmp_path / "file"
    root.write_text("not a folder", encoding="utf-8")
    with pytest.raises(BaselineError, match=r"cannot be written .* --quantcheck-baselines DIR"):
        write_baseline(root, TWO)
    assert root.read_text(encoding="utf-8") == "not a folder"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_baseline(tmp_path, TWO)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(BaselineError, match="No space left on device"):
        write_baseline(tmp_path, TWO.with_figure("smoke", "ppl/web", figure(mean=9.0), MADE))
    assert path.read_text(encoding="utf-8") == TWO.dumps()
    assert [entry.name for entry in path.parent.iterdir()] == ["rtn-w3.json"]


@pytest.mark.parametrize(
    ("metric", "then", "now", "stale"),
    [
        ("ppl/web", figure(mean=1.5, worse=0.25), 1.25, False),
        ("ppl/web", figure(mean=1.5, worse=0.25), 1.25009, False),
        ("ppl/web", figure(mean=1.5, worse=0.25), 1.2502, True),
        ("ppl/web", figure(mean=1.5, worse=0.25), math.nan, True),
        ("ppl/web", figure(mean=1.5, worse=0.25, noise=0.001), 1.253, False),
        ("ppl/web", figure(mean=1.5, worse=0.25, noise=0.001), 1.2532, True),
        ("acc/web", figure(mean=0.5, worse=0.25, n=4), 0.75, False),
        ("acc/web", figure(mean=0.5, worse=0.25, n=4), 0.5, False),  # one item that is a near tie
        ("acc/web", figure(mean=0.5, worse=0.25, n=4), 0.25, True),
        ("bpw", figure(mean=3.25, worse=0.25), 9.0, False),  # counted: not measured beside it
        ("kld/web", figure(mean=0.5, worse=0.5), 9.0, False),  # relative by nature: there is none beside it
    ],
)
def test_a_baseline_is_stale_beside_another_reference(
    metric: str, then: Figure, now: float, *, stale: bool
) -> None:
    reference = measured(metric, [now] * then.n)
    found = then.accepted(measured(metric, [then.mean] * then.n), MADE, BASIS, reference).stale
    assert [each.partition(":")[0] for each in found] == ["reference"] * stale


def test_a_baseline_is_stale_where_an_item_was_lost_under_the_digest_of_all() -> None:
    lost = measured("ppl/web", [1.5] * 15)
    assert figure(n=16).accepted(lost, MADE, BASIS).stale == ("n: accepted with 16 items, now 15",)
    part = replace(lost, taken=np.arange(15))
    assert figure(n=16).accepted(part, MADE, BASIS).stale == ()


def test_a_reference_on_other_items_is_told_as_other_items() -> None:
    there = measured("ppl/web", [9.0] * 16, "others")
    assert len(figure().accepted(there, MADE, BASIS, there).stale) == 1
