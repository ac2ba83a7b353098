"""Orderings that a policy names: the pairs of an entry, what a malformed one is told, and the verdict."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcheck.errors import BaselineError
from quantcheck.gate import Verdict
from quantcheck.judging.evidence import Evidence
from quantcheck.orderings.gates import judge_ordering
from quantcheck.orderings.named import NamedOrdering, matches, read_named
from quantcheck.policy import Policy, read_policy
from quantcheck.spec import QuantSpec
from unit.builders import evidence, facts, measured
from unit.test_policy import GOOD

ENTRY: dict[str, Any] = {
    "better": "gptq-w3*",
    "worse": "rtn-w3*",
    "metric": "ppl",
    "margin": 1.0,
    "reason": "error feedback",
}
TOML = """
[[ordering]]
better = "gptq-w3*"
worse = "rtn-w3*"
metric = "ppl"
margin = 1.02
reason = "error feedback"

[[ordering]]
better = "gptq-w3*"
worse = "rtn-w3*"
metric = "acc/pooled"
margin = 0.05
reason = "error feedback"
"""


def entry(**changes: Any) -> NamedOrdering:
    (made,) = read_named([{**ENTRY, **changes}], "policy.toml")
    return made


def specs(*ids: str) -> list[QuantSpec]:
    return [QuantSpec.parse(text) for text in ids]


def pairs(named: NamedOrdering, *ids: str) -> list[tuple[str, str]]:
    return [(str(better), str(worse)) for better, worse in named.pairs(specs(*ids))]


def test_both_patterns_of_an_entry_can_be_looked_at() -> None:
    assert entry(better="gptq-w3", worse="rtn-w3").sides == ("gptq-w3", "rtn-w3")


def test_a_star_stands_for_the_same_on_both_sides() -> None:
    ids = "gptq-w3", "gptq-w3-g128", "gptq-w3-g64", "gptq-w4", "rtn-w3", "rtn-w3-g128", "rtn-w3-g32"
    assert pairs(entry(), *ids) == [("gptq-w3", "rtn-w3"), ("gptq-w3-g128", "rtn-w3-g128")]
    middle = entry(better="gptq-w4*-sym", worse="gptq-w3*-sym")
    assert pairs(middle, "gptq-w4-g128-sym", "gptq-w3-g128-sym", "gptq-w3-sym", "gptq-w3-g128") == [
        ("gptq-w4-g128-sym", "gptq-w3-g128-sym")
    ]


def test_exact_ids_name_one_pair() -> None:
    named = entry(better="gptq-w3-g128", worse="gptq-w3")
    assert pairs(named, "gptq-w3", "gptq-w3-g128", "gptq-w3-g64") == [("gptq-w3-g128", "gptq-w3")]
    assert pairs(named, "gptq-w3-g128", "rtn-w3") == []
    assert named.sides == ("gptq-w3-g128", "gptq-w3")


@given(st.text("ab-", max_size=4), st.text("ab-", max_size=4))
def test_a_pattern_matches_what_its_star_can_stand_for(head: str, tail: str) -> None:
    spec = QuantSpec.parse("rtn-w3-g128-a-b")
    text = str(spec)
    stands = any(text == head + text[i:j] + tail for i in range(len(text)) for j in range(i, len(text) + 1))
    assert matches(f"{head}*{tail}", spec) is stands


def test_an_entry_is_about_a_kind_or_about_one_metric() -> None:
    assert [entry().covers(metric) for metric in ("ppl/web", "ppl/news", "acc/pooled")] == [True, True, False]
    named = entry(metric="ppl/web")
    assert [named.covers(metric) for metric in ("ppl/web", "ppl/news")] == [True, False]


def test_margins_are_those_of_floors_and_may_allow_nothing() -> None:
    assert entry(margin=1.05).margin == math.log(1.05)
    assert (entry(margin=1).margin, entry(metric="acc/pooled", margin=0).margin) == (0.0, 0.0)
    assert entry(metric="kld", margin=0.1).margin == 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"margin": 0.99}, r"ordering 1: margin must be a finite number from 1 on, .* got 0\.99"),
        ({"margin": math.nan}, "margin must be a finite number from 1 on"),
        ({"margin": math.inf}, "margin must be a finite number"),
        ({"margin": True}, "got True"),
        ({"margin": "1"}, "got '1'"),
        ({"metric": "acc", "margin": -0.1}, "from 0 on"),
        ({"metric": "mean"}, "metric 'mean' is none of the kinds ppl, acc, kld, top1"),
        ({"metric": "bpw"}, "metric 'bpw' is none of the kinds"),
        ({"metric": "artifact/weights"}, "is none of the kinds"),
        ({"reason": " "}, "reason must say something, got ' '"),
        ({"better": 3}, "better must say something, got 3"),
        ({"worse": "gptq-w3*"}, "better and worse are two spec ids"),
        ({"worse": "rtn-w3"}, r"two with one \* each"),
        ({"better": "*-w3*", "worse": "*-w2*"}, r"two with one \* each"),
        ({"marign": 1.0}, "takes better, worse, metric, reason, margin, got"),
    ],
)
def test_a_malformed_entry_is_refused_with_its_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BaselineError, match=message):
        entry(**changes)


@pytest.mark.parametrize("raw", [{**ENTRY}, "gptq", [1], [{}], [{"better": "rtn-w3"}]])
def test_what_is_no_entry_is_refused(raw: Any) -> None:
    with pytest.raises(BaselineError, match="ordering"):
        read_named(raw, "policy.toml")


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    path = tmp_path / "policy.toml"
    path.write_text(GOOD + TOML, encoding="utf-8")
    return read_policy(path)


def test_a_policy_says_by_which_entry_two_specs_are_compared(policy: Policy) -> None:
    gptq, rtn, awq = specs("gptq-w3-g128", "rtn-w3-g128", "awq-w3-g128")
    assert policy.ordering(gptq, rtn, "ppl/web").margin == math.log(1.02)
    assert policy.ordering(gptq, rtn, "acc/pooled").margin == 0.05
    assert len(policy.naming(gptq, rtn)) == 2
    with pytest.raises(BaselineError, match="no ordering says that rtn-w3-g128 is not worse than gptq"):
        policy.naming(rtn, gptq)
    with pytest.raises(BaselineError, match=r"add an \[\[ordering\]\]"):
        policy.naming(awq, rtn)


def test_a_policy_need_not_name_any(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(GOOD, encoding="utf-8")
    assert read_policy(path).orderings == ()


def test_every_packaged_ordering_is_among_those_that_the_study_shows(repository: Path) -> None:
    from quantcheck.orderings import expected

    named = read_policy(repository / "baselines" / "policy.toml").orderings
    ids = [f"{m}-w{b}{g}" for m in ("rtn", "gptq", "awq", "quip") for b in (2, 3, 4) for g in ("", "-g128")]
    robust = {(pair.better, pair.worse) for pair in expected(specs(*ids))}
    assert named
    for each in named:
        found = set(each.pairs(specs(*ids)))
        assert found, each.where
        assert found <= robust, each.where


def gate(outcomes: list[float], **changes: Any) -> Evidence:
    return evidence(candidate=measured("ppl/web", outcomes), **changes)


FINE, WORSE = [1.25, 2.25, 3.25, 1.5], [2.25, 3.25, 4.25, 2.5]


def judged(better: Evidence, worse: Evidence, margin: float = 0.1) -> tuple[Verdict, tuple[str, ...]]:
    found = judge_ordering(better, worse, "rtn-w3", margin)
    return found.verdict, found.reasons


def with_reference(outcomes: list[float], **changes: Any) -> Evidence:
    return gate(outcomes, reference=measured("ppl/web", [1.0, 2.0, 3.0, 1.25]), **changes)


def test_an_ordering_ends_as_a_floor_would() -> None:
    better, worse = with_reference(FINE), with_reference(WORSE)
    found = judge_ordering(better, worse, "rtn-w3", 0.1)
    assert (found.verdict, found.reasons, found.drift) == (Verdict.PASS, (), None)
    assert found.difference is not None
    assert (found.difference.mean, found.difference.n) == (-1.0, 4)
    verdict, (reason,) = judged(worse, better)
    assert verdict is Verdict.BELOW_FLOOR
    assert reason == "1 worse than rtn-w3, the ordering allows 0.1"
    mixed = with_reference([1.25, 3.25, 3.25, 2.5])
    verdict, (reason,) = judged(mixed, better)
    assert verdict is Verdict.INCONCLUSIVE
    assert "on either side of the ordering of 0.1: 4 items cannot tell" in reason


def test_without_a_model_or_a_figure_on_either_side_nothing_is_ordered() -> None:
    right = with_reference(FINE)
    float_again = replace(right, artifact=facts(decoded=False))
    assert judged(float_again, right)[0] is Verdict.NOT_QUANTIZED
    verdict, (reason,) = judged(right, float_again)
    assert verdict is Verdict.NOT_QUANTIZED
    assert reason.startswith("rtn-w3: the weights that the model computes with")
    assert judged(right, replace(right, candidate=None))[0] is Verdict.NON_FINITE
    assert judged(with_reference([math.nan, 1.0, 1.0, 1.0]), right)[0] is Verdict.NON_FINITE
    items = {"reference": measured("ppl/web", [1.0, 2.0, 3.0, 1.25], "others")}
    elsewhere = replace(right, candidate=measured("ppl/web", FINE, "others"), **items)
    assert judged(right, elsewhere) == (
        Verdict.NON_FINITE,
        ("rtn-w3 was measured on other items: there is no difference to judge",),
    )
