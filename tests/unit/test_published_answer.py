"""A published figure in place of an accepted one: how it is found, what it decides and leaves open."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from quantcheck.gate import Bounds, Judgement, Verdict, judge
from quantcheck.judging.evidence import AcceptedFigure
from quantcheck.known_gates import KnownGate, expect
from quantcheck.measurement import Measurement, paired_difference
from quantcheck.published import Answer, Match, RunFigure, decisive, matches
from unit.builders import evidence, measured
from unit.test_published import FILES

RUN = RunFigure("llama3-8b", "folder", "gptq-w4-g128", "ppl/wikitext2", 6.55, 6.137, 0.002, 141)


def found(**changes: Any) -> Match | None:
    return decisive(matches(FILES.values(), replace(RUN, **changes)))


def answer(**changes: Any) -> Answer:
    match = found(**changes)
    assert match is not None
    return match.finding.answer


def test_a_figure_is_found_by_model_spec_and_metric() -> None:
    match = found()
    assert match is not None
    assert (match.figure.printed, match.reference.printed, match.finding.answer) == (
        "6.5",
        "6.1",
        Answer.AGREES,
    )
    assert answer(model="mine", source="meta-llama/Meta-Llama-3-8B@main") is Answer.AGREES
    assert answer(model="LLAMA3-8B") is Answer.AGREES


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "llama3-8b-instruct"},
        {"model": "mine", "source": "models/Meta-Llama-3-8B"},
        {"spec": "gptq-w4-g64"},
        {"spec": "gptq-w4-g128-act_order"},
        {"metric": "ppl/wiki"},
        {"metric": "kld/wikitext2"},
    ],
)
def test_another_model_spec_or_metric_is_never_matched(changes: dict[str, Any]) -> None:
    assert found(**changes) is None


def test_every_answer_is_given_for_a_reason() -> None:
    assert [answer(value=value) for value in (6.2, 6.55, 7.5)] == [
        Answer.BETTER,
        Answer.AGREES,
        Answer.WORSE,
    ]
    assert answer(reference=7.5, value=8.0) is Answer.CANNOT_TELL
    assert answer(stderr=0.2) is Answer.CANNOT_TELL
    assert answer(reference=None) is Answer.CANNOT_TELL
    assert answer(value=None) is Answer.WORSE


def test_the_error_of_a_sample_counts_and_that_of_a_whole_task_does_not() -> None:
    assert replace(RUN, stderr=None).sampling_error == 0.0
    assert RUN.sampling_error == 0.002
    assert replace(RUN, metric="acc/piqa", n=1837).sampling_error == 0.002
    assert replace(RUN, metric="acc/piqa", n=1838).sampling_error == 0.0


def test_a_figure_without_one_of_full_precision_beside_it_is_none() -> None:
    file = FILES["llama3-8b"]
    alone = replace(file, figures=tuple(entry for entry in file.figures if entry.spec))
    assert list(matches([alone], RUN)) == []


def test_of_several_answers_the_least_favourable_decides() -> None:
    match = found()
    assert match is not None
    several = [replace(match, finding=replace(match.finding, answer=each)) for each in reversed(Answer)]
    worst = decisive(several)
    assert worst is not None
    assert worst.finding.answer is Answer.WORSE
    assert decisive([]) is None


def test_a_match_can_be_cited() -> None:
    match = found()
    assert match is not None
    assert str(match.citation) == (
        "6.5 of Table 1 (6.1 at full precision; caveats: rounding, window, in_domain, single_run)"
    )
    bare = replace(match, figure=replace(match.figure, caveats=()))
    assert str(bare.citation).endswith("caveats: none)")


FLOOR = Bounds(floor=math.log(1.25), drift=0.01, reason="four bits lose little")


def perplexity(value: float, spread: float = 0.001) -> Measurement:
    """141 windows of WikiText2 whose perplexity is ``value``, each as hard as the like of another model."""
    draws = np.random.default_rng(1)
    hard, own = draws.normal(0, 0.2, 141), np.random.default_rng(round(1000 * value)).normal(0, spread, 141)
    nll = hard - hard.mean() + own - own.mean() + math.log(value)
    return measured("ppl/wikitext2", list(nll))


def decided(value: float, *, reference: float = 6.137, spread: float = 0.001, **changes: Any) -> Judgement:
    """Judge a run of LLaMA3-8B by GPTQ at 4 bits without an accepted baseline."""
    candidate, full = perplexity(value, spread), perplexity(reference)
    run = replace(
        RUN,
        value=candidate.value,
        reference=full.value,
        stderr=paired_difference(candidate, full).stderr,
        n=candidate.n,
    )
    made = evidence(
        "ppl/wikitext2",
        candidate=candidate,
        reference=full,
        bounds=FLOOR,
        baseline=None,
        published=decisive(matches(FILES.values(), run)),
    )
    return judge(replace(made, **changes))


@pytest.mark.parametrize(
    ("value", "verdict", "said"),
    [
        (6.55, Verdict.PASS, ""),
        (6.2, Verdict.IMPROVED, "better than the published 6.5 of Table 1 (6.1 at full precision; caveats: "),
        (
            7.3,
            Verdict.BELOW_FLOOR,
            "worse than the published 6.5 of Table 1 (6.1 at full precision; caveats: ",
        ),
    ],
)
def test_where_nothing_was_accepted_the_published_figure_decides(
    value: float, verdict: Verdict, said: str
) -> None:
    judgement = decided(value)
    assert judgement.verdict is verdict
    assert "".join(judgement.reasons).startswith(said)
    assert bool(judgement.reasons) is bool(said)


def test_a_published_figure_that_cannot_tell_leaves_the_gate_red_and_says_why() -> None:
    judgement = decided(8.0, reference=7.5)
    assert judgement.verdict is Verdict.NO_BASELINE
    assert judgement.reasons[0].startswith("no accepted baseline, and the published 6.5 of Table 1 (")
    assert "cannot tell: the run's full precision is 0.198 off the published 6.1" in judgement.reasons[0]
    few = decided(6.55, spread=0.5)
    assert few.verdict is Verdict.NO_BASELINE
    assert "cannot tell: a loss of " in few.reasons[0]


def test_the_floor_decides_beside_the_published_figure() -> None:
    missed = decided(8.5)
    assert missed.verdict is Verdict.BELOW_FLOOR
    assert ["reference" in missed.reasons[0], "published" in missed.reasons[1]] == [True, True]
    tight = decided(6.55, bounds=replace(FLOOR, floor=0.01))
    assert tight.verdict is Verdict.BELOW_FLOOR
    assert tight.reasons[0].endswith("the floor allows 0.01")
    unsure = decided(8.0, reference=7.5, bounds=replace(FLOOR, floor=0.0645))
    assert unsure.verdict is Verdict.NO_BASELINE
    assert "on either side of the floor" in unsure.reasons[1]


def test_a_published_figure_has_no_items_so_no_drift_is_tested() -> None:
    assert decided(6.55).drift is None
    assert decided(7.3).drift is None


def test_an_accepted_baseline_of_ones_own_decides_alone() -> None:
    own = AcceptedFigure(math.log(7.3))
    judgement = decided(7.3, baseline=own)
    assert (judgement.verdict, judgement.reasons) == (Verdict.PASS, ())
    assert judgement.drift is not None
    stale = decided(6.55, baseline=replace(own, stale=("dtype: accepted with 'float32', now 'bfloat16'",)))
    assert stale.verdict is Verdict.STALE_BASELINE


def test_an_accepted_baseline_without_items_is_held_to_its_mean_alone() -> None:
    """What moved no item cannot be told without items, not even of the same artifact: the margin decides."""
    moved = decided(6.55, baseline=AcceptedFigure(math.log(6.54), artifact="any"))
    assert moved.verdict is Verdict.PASS
    assert moved.drift is not None
    assert moved.drift.margin == FLOOR.drift
    assert decided(6.7, baseline=AcceptedFigure(math.log(6.54))).verdict is Verdict.REGRESSED


def test_a_collapsed_row_agrees_with_its_order_of_magnitude() -> None:
    run = replace(RUN, spec="awq-w2-g128", value=1e5, reference=6.137, stderr=0.01)
    match = decisive(matches(FILES.values(), run))
    collapsed = replace(FLOOR, floor=None)
    assert decided(6e5, published=match, bounds=collapsed).verdict is Verdict.PASS


def test_a_run_known_to_be_worse_than_published_may_be_listed_as_such() -> None:
    about = {"tier": "full", "device": "cuda", "reason": "another recipe", "issue": "docs/findings.md"}
    listed = KnownGate("llama3-8b/gptq-w4-g128/ppl/wikitext2", verdict=Verdict.BELOW_FLOOR, **about)
    assert expect(decided(7.3), listed).verdict is Verdict.KNOWN
    assert expect(decided(6.55), listed).verdict is Verdict.STALE_KNOWN
    assert expect(decided(8.0, reference=7.5), listed).verdict is Verdict.NO_BASELINE
