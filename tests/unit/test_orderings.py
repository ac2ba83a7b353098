"""What ought not to be the worse of two: which pairs are expected, and the three answers of a comparison."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantcheck.orderings import Rule, Side, Standing, expected, notes
from quantcheck.orderings.compare import apart, comparison, loss_comparison
from quantcheck.spec import QuantSpec
from quantcheck.statistics.accuracy import flips
from quantcheck.statistics.budget import BUDGET
from quantcheck.statistics.means import means
from unit.builders import measured

NEVER = "awq-w3-g128-clip=false"


def specs(*ids: str) -> list[QuantSpec]:
    return [QuantSpec.parse(text) for text in ids]


def found(*ids: str) -> set[tuple[str, str, Rule]]:
    return {(str(pair.better), str(pair.worse), pair.rule) for pair in expected(specs(*ids))}


def side(spec: str, outcomes: Any, metric: str = "ppl/web", **changes: Any) -> Side:
    items = changes.pop("items", "items")
    reference = changes.pop("reference", None)
    compared = None if reference is None else measured(metric, reference, items)
    values = {"model": "builtin-llama", "margin": 0.01, **changes}
    return Side(
        values["model"],
        QuantSpec.parse(spec),
        measured(metric, outcomes, items),
        compared,
        values["margin"],
        values.get("weights"),
    )


def windows(shift: float, *, wobble: float = 0.0) -> list[float]:
    """Windows of very different difficulty, each worse by ``shift`` and some more or less by ``wobble``."""
    draws = np.random.default_rng(3)
    hard, more = draws.uniform(1, 4, 16), draws.normal(0, wobble, 16)
    return list(hard + shift + more)


def test_more_bits_are_compared_with_the_next_fewer_alone() -> None:
    assert found("rtn-w2", "rtn-w3", "rtn-w8", "rtn-w4-g128", "rtn-w4-sym") == {
        ("rtn-w3", "rtn-w2", Rule.BITS),
        ("rtn-w8", "rtn-w3", Rule.BITS),
    }


def test_bits_of_activations_count_as_bits() -> None:
    ids = "smoothquant-w4a4", "smoothquant-w6a6", "smoothquant-w8a8", "smoothquant-w8a6", "smoothquant-w4a8"
    assert found(*ids) == {
        ("smoothquant-w6a6", "smoothquant-w4a4", Rule.BITS),
        ("smoothquant-w8a6", "smoothquant-w6a6", Rule.BITS),
        ("smoothquant-w8a8", "smoothquant-w8a6", Rule.BITS),
        ("smoothquant-w8a8", "smoothquant-w4a8", Rule.BITS),
        ("smoothquant-w4a8", "smoothquant-w4a4", Rule.BITS),
    }
    assert ("rtn-w4", "rtn-w4a8", Rule.BITS) in found("rtn-w4", "rtn-w4a8")


def test_groups_are_expected_to_help_from_three_bits() -> None:
    assert found("gptq-w3-g128", "gptq-w3") == {("gptq-w3-g128", "gptq-w3", Rule.GROUPS)}
    assert found("gptq-w2-g128", "gptq-w2") == set()
    assert found("gptq-w3-g128", "gptq-w3-g64") == set()
    assert found("gptq-w3-g128-sym", "gptq-w3") == set()


def test_methods_are_ordered_at_equal_bits_and_groups_without_options() -> None:
    assert found("awq-w3-g128", "rtn-w3-g128") == {("awq-w3-g128", "rtn-w3-g128", Rule.METHOD)}
    for other in ("rtn-w3", "rtn-w3-g128-mse", "rtn-w3-g128-sym", "rtn-w3a8-g128"):
        assert found("awq-w3-g128", other) == set()
    assert found("awq-w2-g128", "rtn-w2-g128") == set()
    assert found(NEVER, "rtn-w3-g128") == set()


@settings(max_examples=50)
@given(
    st.lists(
        st.builds(
            QuantSpec,
            st.sampled_from(["rtn", "gptq", "awq", "quip", "slimllm"]),
            st.sampled_from([2, 3, 4, 8]),
            st.sampled_from([None, 8]),
            st.sampled_from([None, 128]),
        ),
        max_size=12,
        unique=True,
    )
)
def test_no_pair_is_expected_both_ways_nor_twice(some: list[QuantSpec]) -> None:
    pairs = [(pair.better, pair.worse) for pair in expected(some)]
    assert len(pairs) == len(set(pairs))
    assert not {(worse, better) for better, worse in pairs} & set(pairs)
    assert all(better != worse for better, worse in pairs)


def test_an_ordering_holds_is_violated_or_cannot_be_told() -> None:
    fine, damaged, one = windows(0.1), windows(0.5, wobble=0.01), windows(0.1)[:1]
    (holds,) = notes([side("rtn-w4", fine), side("rtn-w3", damaged)])
    assert (holds.better, holds.worse) == ("builtin-llama/rtn-w4", "builtin-llama/rtn-w3")
    assert (holds.standing, holds.rule, holds.n, holds.margin) == (Standing.HOLDS, Rule.BITS, 16, 0.01)
    assert holds.estimate == pytest.approx(-0.4, abs=0.01)
    assert holds.lower < holds.estimate < holds.upper < 0
    (violated,) = notes([side("rtn-w4", damaged), side("rtn-w3", fine)])
    assert violated.standing is Standing.VIOLATED
    assert violated.lower > violated.margin
    (unknown,) = notes([side("rtn-w4", one), side("rtn-w3", one)])
    assert (unknown.standing, unknown.upper) == (Standing.CANNOT_TELL, math.inf)


@settings(max_examples=30)
@given(st.floats(-0.1, 0.1), st.floats(0, 0.1))
def test_a_worse_figure_or_a_tighter_margin_never_helps(shift: float, more: float) -> None:
    order = [Standing.HOLDS, Standing.CANNOT_TELL, Standing.VIOLATED]

    def standing(by: float, margin: float) -> int:
        better, worse = windows(0.3 + by, wobble=0.02), windows(0.3)
        sides = side("rtn-w4", better, margin=margin), side("rtn-w3", worse, margin=margin)
        return order.index(notes(sides)[0].standing)

    assert standing(shift, 0.01) <= standing(shift + more, 0.01)
    assert standing(shift, 0.01 + more) <= standing(shift, 0.01)


def test_each_may_be_worse_by_the_wider_of_the_two_drift_margins() -> None:
    sides = side("rtn-w4", windows(0.35), margin=0.01), side("rtn-w3", windows(0.3), margin=0.1)
    assert notes(sides)[0].margin == 0.1
    assert notes(sides)[0].standing is Standing.HOLDS


def test_the_run_s_budget_is_shared_by_its_orderings_and_the_violated_stand_first() -> None:
    sides = [
        side("rtn-w3", windows(0.5)),
        side("rtn-w4", windows(0.6)),
        side("rtn-w8", windows(0.1)),
        side("gptq-w3", windows(0.2)),
    ]
    made = notes(sides)
    assert [each.alarm for each in made] == [BUDGET / 3] * 3
    assert [each.standing for each in made] == [Standing.VIOLATED, Standing.HOLDS, Standing.HOLDS]


def test_models_and_metrics_are_not_mixed() -> None:
    sides = [
        side("rtn-w3", windows(0.5)),
        side("rtn-w4", windows(0.1), model="other"),
        side("rtn-w4", windows(0.1), metric="ppl/news"),
        side("rtn-w4", windows(0.1), items="others"),
        side("rtn-w8", [*windows(0.1)[:15], math.nan]),
        side("rtn-w8", [3.25], metric="bpw"),
        side("rtn-w3", [3.25], metric="bpw"),
    ]
    assert notes(sides) == ()


def test_families_are_left_to_the_accuracy_that_pools_them() -> None:
    answers = [0.0, 1.0] * 20
    sides = [side(spec, answers, f"acc/{name}") for spec in ("rtn-w3", "rtn-w4") for name in ("piqa", "arc")]
    assert {each.metric for each in notes(sides)} == {"acc/piqa", "acc/arc"}
    pooled = [*sides, *(side(spec, answers, "acc/pooled") for spec in ("rtn-w3", "rtn-w4"))]
    assert {each.metric for each in notes(pooled)} == {"acc/pooled"}


def test_accuracies_are_compared_by_flips_and_all_else_by_means() -> None:
    better, worse = [1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]
    assert comparison(measured("acc/x", better), measured("acc/x", worse)) == flips(worse, better)
    assert comparison(measured("ppl/x", better), measured("ppl/x", worse)) == means(
        np.array(better) - np.array(worse)
    )


def test_documents_stay_together() -> None:
    labels = np.array([0, 0, 1, 1], np.int64)
    sides = [measured("ppl/x", values, clusters=labels) for values in ([1, 2, 3, 4], [1, 2, 3, 5])]
    assert comparison(*sides).clusters == 2


@pytest.mark.parametrize(("metric", "sign"), [("kld/x", 1), ("top1/x", -1)])
def test_distances_from_full_precision_are_compared_with_each_other(metric: str, sign: int) -> None:
    one, other = measured(metric, [0.5, 0.25, 0.5]), measured(metric, [0.25, 0.25, 0.25])
    assert apart(one, other) == pytest.approx(sign * np.array([0.25, 0, 0.25]))


def test_other_items_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="ppl/x: the two were measured on different items"):
        comparison(measured("ppl/x", [1.0]), measured("ppl/x", [1.0], "others"))


RIGHT, HALF = [1.0] * 40, [1.0, 0.0] * 20


def accuracies(model: str, weights: int | None, outcomes: list[float], **changes: Any) -> Side:
    values = {"metric": "acc/piqa", "reference": RIGHT, "margin": 0.05, **changes}
    spec = values.pop("spec", "gptq-w3")
    return side(spec, outcomes, model=model, weights=weights, **values)


def test_of_two_models_the_larger_ought_not_to_lose_more_accuracy() -> None:
    (holds,) = notes([accuracies("large", 70, RIGHT), accuracies("small", 8, HALF)])
    assert (holds.better, holds.worse, holds.rule) == ("large/gptq-w3", "small/gptq-w3", Rule.SIZE)
    assert (holds.standing, holds.estimate) == (Standing.HOLDS, -0.5)
    (violated,) = notes([accuracies("large", 70, HALF), accuracies("small", 8, RIGHT)])
    assert (violated.standing, violated.estimate) == (Standing.VIOLATED, 0.5)


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": None},
        {"weights": 15},
        {"spec": "gptq-w2"},
        {"spec": "gptq-w4"},
        {"metric": "acc/arc"},
        {"reference": None},
        {"metric": "ppl/web"},
    ],
)
def test_models_of_unknown_or_like_size_and_what_the_study_does_not_show_are_not_ordered(
    changes: dict[str, Any],
) -> None:
    values = {"weights": 70, **changes}
    small = {"spec": "gptq-w2"} if changes.get("spec") == "gptq-w2" else {}
    if changes.get("metric") == "ppl/web":
        small = {"metric": "ppl/web"}
    large = accuracies("large", outcomes=HALF, **values)
    assert notes([large, accuracies("small", 8, RIGHT, **small)]) == ()


def test_losses_on_the_same_items_are_paired_and_on_others_independent() -> None:
    large, small = accuracies("large", 70, HALF), accuracies("small", 8, HALF)
    paired = loss_comparison(large, small)
    assert (paired.estimate, paired.upper(0.05), paired.n) == (0.0, 0.0, 40)
    apart_ = loss_comparison(large, accuracies("small", 8, HALF, items="others"))
    assert apart_.estimate == 0.0
    assert apart_.upper(0.05) > 0.1
