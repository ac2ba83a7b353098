"""The policy: every malformed file is refused with its place, every gate of the matrix has its bounds."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from quantcheck.artifact_facts import WEIGHTS
from quantcheck.errors import BaselineError
from quantcheck.measurement import KINDS
from quantcheck.methods import METHODS
from quantcheck.metrics.catalog import plan_metrics
from quantcheck.plan import TIERS, candidates
from quantcheck.policy import Policy, read_policy
from quantcheck.registry import Capabilities
from quantcheck.spec import GRIDS, ModelSpec, QuantSpec

CELL = """
[[cell]]
specs = ["rtn-w2*", "rtn-w1*"]
status = "collapsed"
drift = { ppl = 1.1, acc = 0.05 }
reason = "no levels left"

[[cell]]
specs = ["*"]
status = "usable"
floor = { ppl = 2.0, acc = 0.25 }
drift = { ppl = 1.02, acc = 0.03 }
reason = "usable in the study"
"""
GOOD = "schema = 1\n" + CELL
THIRD_PARTY = Capabilities(
    bits=(1.06, 1.7, 2.5, *range(1, 17)), grids=GRIDS, act_bits=(None, 8), options=(("fast", bool),)
)


@pytest.fixture(scope="session")
def packaged(repository: Path) -> Policy:
    return read_policy(repository / "baselines" / "policy.toml")


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    return tmp_path / "policy.toml"


def read(path: Path, text: str) -> Policy:
    path.write_text(text, encoding="utf-8")
    return read_policy(path)


def test_margins_of_perplexity_are_ratios_and_all_others_differences(policy_file: Path) -> None:
    policy = read(policy_file, GOOD)
    perplexity, accuracy = (policy.bounds("gptq-w3", metric) for metric in ("ppl/web", "acc/pooled"))
    assert (perplexity.floor, perplexity.drift) == (math.log(2.0), math.log(1.02))
    assert (accuracy.floor, accuracy.drift) == (0.25, 0.03)
    assert accuracy.reason == "usable in the study"


def test_a_margin_of_a_named_metric_counts_before_that_of_its_kind(policy_file: Path) -> None:
    named = GOOD.replace("acc = 0.25", 'acc = 0.25, "acc/arc" = 0.4, "ppl/web" = 3.0')
    policy = read(policy_file, named)
    floors = {metric: policy.bounds("gptq-w3", metric).floor for metric in ("acc/arc", "acc/piqa", "ppl/web")}
    assert floors == {"acc/arc": 0.4, "acc/piqa": 0.25, "ppl/web": math.log(3.0)}
    with pytest.raises(BaselineError, match="unknown metric kind 'mean'"):
        read(policy_file, named.replace("acc/arc", "mean/arc"))


def test_a_collapsed_cell_has_a_drift_and_no_floor(policy_file: Path) -> None:
    bounds = read(policy_file, GOOD).bounds("rtn-w2-g128", "ppl/web")
    assert bounds.floor is None
    assert (bounds.floor, bounds.drift, bounds.reason) == (None, math.log(1.1), "no levels left")


def test_the_first_cell_that_matches_counts(policy_file: Path) -> None:
    policy = read(policy_file, GOOD)
    assert [
        policy.bounds(spec, "acc/x").floor is None for spec in ("rtn-w1", "rtn-w2", "rtn-w3", "gptq-w2")
    ] == [
        True,
        True,
        False,
        False,
    ]


def test_globs_mind_the_case(policy_file: Path) -> None:
    assert read(policy_file, GOOD).bounds("rtn-W2", "ppl/web").floor is not None


def test_a_spec_that_no_cell_covers_is_refused(policy_file: Path) -> None:
    policy = read(policy_file, GOOD.replace('["*"]', '["gptq-*"]'))
    with pytest.raises(BaselineError, match=r"policy\.toml: no cell covers awq-w3; add one with its floor"):
        policy.bounds("awq-w3", "ppl/web")


@pytest.mark.parametrize("spec", ["gptq-w3", "rtn-w2"])
def test_a_kind_without_drift_is_refused(policy_file: Path, spec: str) -> None:
    with pytest.raises(BaselineError, match=f"the cell of {spec} has no drift for kld; add one"):
        read(policy_file, GOOD).bounds(spec, "kld/web")


def test_a_usable_cell_without_a_floor_for_the_kind_is_refused(policy_file: Path) -> None:
    policy = read(policy_file, GOOD.replace("floor = { ppl = 2.0, acc = 0.25 }", ""))
    with pytest.raises(BaselineError, match="the cell of gptq-w3 has no floor for ppl"):
        policy.bounds("gptq-w3", "ppl/web")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema = 1", "schema = ", "cannot be read"),
        ("schema = 1", "", "has schema None, this version of quantcheck reads 1"),
        ("schema = 1", "schema = 2", "has schema 2, this version of quantcheck reads 1"),
        (CELL, "", r"has no \[\[cell\]\]; without margins no gate can decide"),
        (CELL, "cell = []", r"has no \[\[cell\]\]"),
        (CELL, "cell = 'all'", r"has no \[\[cell\]\]"),
        (CELL, "cell = [1]", "cell 1: must be a table"),
        ('specs = ["*"]', 'specs = ["*"]\nflor = { ppl = 9.0 }', r"cell 2: unknown keys \['flor'\]; known"),
        (
            'status = "usable"',
            'status = "fine"',
            "cell 2: status must be 'usable' or 'collapsed', got 'fine'",
        ),
        ('status = "usable"', "", "cell 2: status must be 'usable' or 'collapsed', got None"),
        ('specs = ["*"]', "", "cell 2: specs must be a list of globs"),
        ('specs = ["*"]', "specs = []", "cell 2: specs must be a list of globs"),
        ('specs = ["*"]', 'specs = "*"', "cell 2: specs must be a list of globs"),
        ('specs = ["*"]', "specs = [3]", "cell 2: specs must be a list of globs"),
        ('reason = "usable in the study"', "", "cell 2: every cell needs a reason"),
        ("usable in the study", "  ", "cell 2: every cell needs a reason"),
        ('reason = "usable in the study"', "reason = 1", "cell 2: every cell needs a reason"),
        ('status = "usable"', 'status = "collapsed"', "cell 2: a collapsed cell has no floor"),
        ("drift = { ppl = 1.02, acc = 0.03 }", "", "cell 2, drift: margins by metric kind are missing"),
        ("drift = { ppl = 1.02, acc = 0.03 }", "drift = 1.02", "cell 2, drift: margins by metric kind"),
        ("floor = { ppl = 2.0, acc = 0.25 }", "floor = 2.0", "cell 2, floor: margins by metric kind"),
        ("floor = { ppl", "floor = { perplexity", "unknown metric kind 'perplexity'; known: ppl, acc, kld"),
        ("ppl = 2.0", "ppl = 1.0", "cell 2, floor: ppl must be a finite number above 1, got 1.0"),
        ("ppl = 2.0", "ppl = inf", "ppl must be a finite number above 1, got inf"),
        ("ppl = 2.0", "ppl = nan", "ppl must be a finite number above 1, got nan"),
        ("ppl = 2.0", 'ppl = "2"', "ppl must be a finite number above 1, got '2'"),
        ("ppl = 2.0", "ppl = true", "ppl must be a finite number above 1, got True"),
        (
            "acc = 0.03",
            "acc = 0.0",
            "cell 2, drift: acc must be a finite number above 0 and below 1, got 0.0",
        ),
        ("acc = 0.03", "acc = -0.1", "acc must be a finite number above 0 and below 1, got -0.1"),
    ],
)
def test_a_malformed_policy_is_refused_with_its_place(
    policy_file: Path, old: str, new: str, message: str
) -> None:
    assert old in GOOD
    with pytest.raises(BaselineError, match=message):
        read(policy_file, GOOD.replace(old, new))


def test_a_policy_that_is_no_text_or_not_there_is_refused(policy_file: Path, tmp_path: Path) -> None:
    policy_file.write_bytes(b"schema = 1 # \xff")
    for path in (policy_file, tmp_path, tmp_path / "absent.toml"):
        with pytest.raises(BaselineError, match=f"policy {re.escape(str(path))} cannot be read"):
            read_policy(path)


@given(st.sampled_from(sorted(KINDS)), st.floats(0.0, 1.0, exclude_min=True, exclude_max=True))
def test_a_margin_is_taken_as_it_stands(
    tmp_path_factory: pytest.TempPathFactory, kind: str, part: float
) -> None:
    ratio = KINDS[kind].log or KINDS[kind].by_layer
    margin = 1 + part if ratio else part
    assume(margin > 1 or not ratio)
    path = tmp_path_factory.getbasetemp() / "margin.toml"
    margins = f"floor = {{ {kind} = {margin!r} }}\ndrift = {{ {kind} = {margin!r} }}"
    cell = f"[[cell]]\nspecs = ['*']\nstatus = 'usable'\n{margins}\nreason = 'any'"
    bounds = read(path, f"schema = 1\n{cell}").bounds("rtn-w3", f"{kind}/x")
    assert bounds.drift == (math.log(margin) if ratio else margin)
    assert bounds.floor == (None if KINDS[kind].by_layer else bounds.drift)


@pytest.mark.parametrize("margin", ["1.0", "1.5", "nan", "inf", "true"])
def test_a_margin_that_no_accuracy_could_miss_is_refused(policy_file: Path, margin: str) -> None:
    with pytest.raises(BaselineError, match="acc must be a finite number above 0 and below 1"):
        read(policy_file, GOOD.replace("acc = 0.25", f"acc = {margin}"))


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("method", ["rtn", "gptq", "third_party"])
def test_the_packaged_policy_covers_every_gate_of_every_tier(
    packaged: Policy, method: str, tier: str
) -> None:
    capabilities = THIRD_PARTY if method == "third_party" else METHODS.entry(method).capabilities
    specs = [spec for spec, why in candidates(method, capabilities, tier) if why is None]
    assert specs
    metrics = (WEIGHTS, "bpw", *plan_metrics(ModelSpec.parse("builtin-llama"), tier).metrics)
    assert {metric.partition("/")[0] for metric in metrics} == set(KINDS)
    for spec in specs:
        for metric in metrics:
            bounds = packaged.bounds(str(spec), metric)
            assert bounds.reason
            assert bounds.drift > 0
            assert bounds.floor is None or bounds.floor > bounds.drift


@pytest.mark.parametrize("bits", [1, 1.06, 1.7, 2, 2.5, 3, 3.5, 4, 4.5, *range(5, 17)])
@pytest.mark.parametrize("method", ["rtn", "gptq", "third_party"])
def test_the_packaged_policy_covers_every_width(packaged: Policy, method: str, bits: float) -> None:
    for spec in (QuantSpec(method, bits), QuantSpec(method, bits, 8, 64, "symr")):
        for kind in KINDS:
            bounds = packaged.bounds(str(spec), kind)
            floorless = KINDS[kind].by_layer or bits < 3 or (method == "rtn" and bits < 4)
            assert (bounds.floor is None) is floorless


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_more_bits_never_get_a_wider_packaged_margin(packaged: Policy, method: str, kind: str) -> None:
    bounds = [packaged.bounds(f"{method}-w{bits}", kind) for bits in range(1, 17)]
    floors = [math.inf if bound.floor is None else bound.floor for bound in bounds]
    assert floors == sorted(floors, reverse=True)
    assert [bound.drift for bound in bounds] == sorted((bound.drift for bound in bounds), reverse=True)
