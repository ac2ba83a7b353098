"""Which metrics there are, at which tier, for which model."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantcheck.errors import DataError
from quantcheck.measurement import kind_of
from quantcheck.metrics.catalog import TIERS, MetricPlan, builtin_calibration, plan_metrics, version
from quantcheck.models.builtin import FAMILIES
from quantcheck.models.text import TextSource
from quantcheck.spec import ModelSpec

BUILTIN = ModelSpec.parse("builtin-llama")
MINE = ModelSpec.parse("/models/mine")
TEXT = TextSource("news", Path("news.txt"))
TEXT_METRICS = ("ppl/encyclopedia", "ppl/web", "ppl/newswire", "kld/encyclopedia", "top1/encyclopedia")


def test_smoke_pools_the_accuracies() -> None:
    plan = plan_metrics(BUILTIN, "smoke")
    assert plan.metrics == (*TEXT_METRICS, "acc/pooled")
    assert plan.tasks is not None
    assert plan.tasks.limit == 100
    assert [name for name, _ in plan.tasks.families] == list(FAMILIES)


@pytest.mark.parametrize("tier", ["standard", "full"])
def test_standard_takes_all_items_and_reports_each_family(tier: str) -> None:
    plan = plan_metrics(BUILTIN, tier)
    assert plan.metrics == (*TEXT_METRICS, *(f"acc/{name}" for name in FAMILIES), "acc/pooled")
    assert plan.tasks is not None
    assert plan.tasks.limit is None
    assert all(text.source.windows is None for text in plan.texts)


@pytest.mark.parametrize("tier", TIERS)
def test_another_model_is_measured_on_the_users_texts(tier: str) -> None:
    plan = plan_metrics(MINE, tier, [TEXT])
    assert plan.metrics == ("ppl/news", "kld/news", "top1/news")
    assert plan.texts[0].source == TEXT


@pytest.mark.parametrize("tier", TIERS)
def test_every_metric_has_a_kind_and_a_version(tier: str) -> None:
    for metric in plan_metrics(BUILTIN, tier).metrics:
        assert kind_of(metric).name == metric.partition("/")[0]
        assert version(metric) >= 1


def test_a_model_without_a_text_is_refused() -> None:
    with pytest.raises(DataError, match=r"mine has no text .* --quantcheck-text FILE"):
        plan_metrics(MINE, "smoke")


def test_two_texts_of_one_name_are_refused() -> None:
    with pytest.raises(DataError, match="two texts are called news"):
        plan_metrics(MINE, "smoke", [TEXT, TextSource("news", Path("other/news.txt"))])


def test_an_unknown_tier_gets_a_suggestion() -> None:
    with pytest.raises(DataError, match="unknown tier 'smok'; did you mean 'smoke'"):
        plan_metrics(BUILTIN, "smok")


def test_a_part_of_a_plan_yields_the_metrics_asked_for() -> None:
    plan = plan_metrics(BUILTIN, "standard")
    asked = {"kld/encyclopedia", "ppl/web", "acc/world_piqa"}
    part = plan.only(asked)
    assert part.metrics == ("ppl/web", "kld/encyclopedia", "acc/world_piqa")
    assert part.tasks is not None
    assert part.tasks.families == (("world_piqa", FAMILIES["world_piqa"]),)
    assert plan.only(plan.metrics) == plan
    assert plan.only([]) == MetricPlan()


def test_pooling_a_part_still_pools_every_family() -> None:
    plan = plan_metrics(BUILTIN, "standard")
    part = plan.only(["acc/pooled"])
    assert part.tasks is not None and plan.tasks is not None
    assert part.tasks.families == plan.tasks.families


def test_an_unknown_metric_gets_a_suggestion() -> None:
    with pytest.raises(DataError, match="unknown metric 'ppl/wep'; did you mean 'ppl/web'"):
        plan_metrics(BUILTIN, "smoke").only(["ppl/wep"])


def test_the_calibration_text_is_none_of_the_evaluation_texts() -> None:
    for tier in TIERS:
        texts = {text.source.path for text in plan_metrics(BUILTIN, tier).texts}
        assert builtin_calibration(tier).path not in texts
