"""The orderings that quantcheck expects are those that the published tables show, and no others."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import permutations

import pytest

from quantcheck.orderings import BETTER_METHODS, Rule, expected
from quantcheck.published import Effect, PublishedFigure
from quantcheck.published.bound import ALARM, noise_of
from quantcheck.spec import QuantSpec
from unit.test_published import FILES

METRICS = ("ppl/wikitext2", "acc/average")  # the columns that compare among methods
AT_ISSUE = {"rtn_too_bad", "collapses_everywhere"}
STORE_MORE = {"pbllm", "billm", "qlora", "irqlora"}


def columns() -> Iterator[tuple[PublishedFigure, list[PublishedFigure]]]:
    """The comparable figures of each table and metric, under full precision."""
    for file in FILES.values():
        found = defaultdict(list)
        for figure in file.figures:
            if figure.spec and figure.metric in METRICS and figure.effect is not Effect.EXCLUDED:
                found[figure.table, figure.metric].append(figure)
        for figures in found.values():
            reference = file.reference(figures[0])
            assert reference is not None
            yield reference, figures


def spec(figure: PublishedFigure) -> QuantSpec:
    assert figure.spec is not None
    return QuantSpec.parse(figure.spec)


def badness(figure: PublishedFigure, value: float) -> float:
    """The unit of losses: nats, or a fraction."""
    return math.log(value) if figure.metric.startswith("ppl/") else -value / 100


def printed(figure: PublishedFigure) -> float:
    value = figure.value if figure.recomputed is None else figure.recomputed
    assert value is not None
    return badness(figure, value)


def ends(figure: PublishedFigure) -> tuple[float, float]:
    """The best and the worst that the printed digits allow."""
    low, high = sorted(badness(figure, value) for value in figure.span())
    return low, high


def says(better: PublishedFigure, worse: PublishedFigure, reference: PublishedFigure) -> str:
    """Whether two rows of a table put the first before the second: for, against, or nothing."""
    collapsed = [figure.effect is Effect.MAGNITUDE for figure in (better, worse)]
    if all(collapsed):
        return "nothing"
    if collapsed[0] or (not collapsed[1] and printed(better) > printed(worse)):
        return "against"
    if AT_ISSUE & {caveat.id for figure in (better, worse) for caveat in figure.caveats}:
        return "nothing"
    losses = [printed(figure) - printed(reference) for figure in (better, worse)]
    noise = math.hypot(
        *(noise_of(figure, loss) for figure, loss in zip((better, worse), losses, strict=True))
    )
    return "for" if collapsed[1] or ends(worse)[0] - ends(better)[1] > ALARM * noise else "nothing"


def shown(rows: Sequence[str]) -> bool:
    return "for" in rows and "against" not in rows


def test_the_order_of_methods_is_what_the_published_tables_show() -> None:
    found = defaultdict(list)
    for reference, figures in columns():
        for better, worse in permutations(figures, 2):
            one, other = spec(better), spec(worse)
            alike = all(
                getattr(one, name) == getattr(other, name) for name in ("bits", "act_bits", "group_size")
            )
            if alike and one.method != other.method and not {one.method, other.method} & STORE_MORE:
                found[one.method, other.method, one.bits].append(says(better, worse, reference))
    stated = {(first, second, bits) for first, second, widths in BETTER_METHODS for bits in widths}
    assert {key for key, rows in found.items() if shown(rows)} == stated


@pytest.mark.parametrize("rule", [Rule.BITS, Rule.GROUPS])
def test_no_published_row_is_against_more_bits_or_groups(rule: Rule) -> None:
    against, support = [], 0
    for reference, figures in columns():
        by_spec = {spec(figure): figure for figure in figures}
        for pair in expected(list(by_spec)):
            if pair.rule is rule:
                found = says(by_spec[pair.better], by_spec[pair.worse], reference)
                against += [pair] * (found == "against")
                support += found == "for"
    assert against == []
    assert support >= 5


def test_below_three_bits_groups_do_not_order_what_has_collapsed() -> None:
    rows = {
        says(by_spec[f"{method}-w2-g128"], by_spec[f"{method}-w2"], reference)
        for reference, figures in columns()
        for by_spec in [{str(spec(figure)): figure for figure in figures}]
        for method in ("rtn", "gptq", "awq")
        if f"{method}-w2" in by_spec
    }
    assert rows == {"nothing"}


def losses(name: str, metric: str) -> dict[QuantSpec, float]:
    """What each row of a model from 3 bits loses of its own full precision, in nats or as a fraction."""
    return {
        spec(figure): printed(figure) - printed(reference)
        for reference, figures in columns()
        for figure in figures
        if figure.metric == metric and figure in FILES[name].figures and figure.bits >= 3
    }


def test_the_larger_model_loses_less_accuracy_in_every_row_and_less_perplexity_in_few() -> None:
    fewer = {}
    for metric in ("acc/average", "ppl/wikitext2"):
        small, large = losses("llama3-8b", metric), losses("llama3-70b", metric)
        both = [row for row in large if row in small and "a4" not in str(row)]
        fewer[metric] = sum(large[row] < small[row] for row in both), len(both)
    assert fewer == {"acc/average": (12, 12), "ppl/wikitext2": (4, 12)}
